"""Options of the BabyAI environment. Light: minigrid is not imported here."""

from __future__ import annotations

from difflib import get_close_matches

from pydantic import BaseModel, ConfigDict, Field, field_validator

# Left out: KeyInBox, where a box has to be broken open, and the Debug levels, lost at the first wrong move.
LEVELS: tuple[str, ...] = tuple(
    f"BabyAI-{name}"
    for name in """
    ActionObjDoor-v0 BlockedUnlockPickup-v0 BossLevel-v0 BossLevelNoUnlock-v0 FindObjS5-v0 FindObjS6-v0
    FindObjS7-v0 GoTo-v0 GoToDoor-v0 GoToImpUnlock-v0 GoToLocal-v0 GoToLocalS5N2-v0 GoToLocalS6N2-v0
    GoToLocalS6N3-v0 GoToLocalS6N4-v0 GoToLocalS7N4-v0 GoToLocalS7N5-v0 GoToLocalS8N2-v0
    GoToLocalS8N3-v0 GoToLocalS8N4-v0 GoToLocalS8N5-v0 GoToLocalS8N6-v0 GoToLocalS8N7-v0 GoToObj-v0
    GoToObjDoor-v0 GoToObjMaze-v0 GoToObjMazeOpen-v0 GoToObjMazeS4-v0 GoToObjMazeS4R2-v0
    GoToObjMazeS5-v0 GoToObjMazeS6-v0 GoToObjMazeS7-v0 GoToObjS4-v0 GoToObjS6-v1 GoToOpen-v0
    GoToRedBall-v0 GoToRedBallGrey-v0 GoToRedBallNoDists-v0 GoToRedBlueBall-v0 GoToSeq-v0 GoToSeqS5R2-v0
    KeyCorridor-v0 KeyCorridorS3R1-v0 KeyCorridorS3R2-v0 KeyCorridorS3R3-v0 KeyCorridorS4R3-v0
    KeyCorridorS5R3-v0 KeyCorridorS6R3-v0 MiniBossLevel-v0 MoveTwoAcrossS5N2-v0 MoveTwoAcrossS8N9-v0
    OneRoomS12-v0 OneRoomS16-v0 OneRoomS20-v0 OneRoomS8-v0 Open-v0 OpenDoor-v0 OpenDoorColor-v0
    OpenDoorLoc-v0 OpenDoorsOrderN2-v0 OpenDoorsOrderN4-v0 OpenRedBlueDoors-v0 OpenRedDoor-v0
    OpenTwoDoors-v0 Pickup-v0 PickupAbove-v0 PickupDist-v0 PickupLoc-v0 PutNextLocal-v0
    PutNextLocalS5N3-v0 PutNextLocalS6N4-v0 PutNextS4N1-v0 PutNextS5N1-v0 PutNextS5N2-v0
    PutNextS5N2Carrying-v0 PutNextS6N3-v0 PutNextS6N3Carrying-v0 PutNextS7N4-v0 PutNextS7N4Carrying-v0
    Synth-v0 SynthLoc-v0 SynthS5R2-v0 SynthSeq-v0 UnblockPickup-v0 Unlock-v0 UnlockLocal-v0
    UnlockLocalDist-v0 UnlockPickup-v0 UnlockPickupDist-v0 UnlockToUnlock-v0
    """.split()
)
"""The levels that the skills can express and the expert wins; its win rates are in README.md."""


class BabyAIOptions(BaseModel):
    """Options that a suite may set under `options` when its `env` is babyai."""

    model_config = ConfigDict(extra="forbid")

    level: str | list[str] = Field(
        default="BabyAI-GoToLocal-v0",
        description="a BabyAI level, or several: episode i plays the level i modulo their number",
    )
    skill_steps: int = Field(
        default=100,
        ge=1,
        le=1000,
        description="low-level moves (steps and turns) after which a skill gives up",
    )

    @field_validator("level")
    @classmethod
    def _known(cls, value: str | list[str]) -> str | list[str]:
        names = [value] if isinstance(value, str) else value
        if not names:
            raise ValueError("got an empty list; allowed: one level or more")
        unknown = next((name for name in names if name not in LEVELS), None)
        if unknown is not None:
            close = get_close_matches(unknown, LEVELS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"got {unknown!r}{hint}; allowed: {', '.join(LEVELS)}")
        return value
