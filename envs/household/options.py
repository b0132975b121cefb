"""Options of the household environment in a suite. Light: nothing of the simulator is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from erecap.validation import each_once

Split = Literal["train", "seen", "unseen"]
TaskType = Literal[
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
]
Expert = Literal["oracle", "search"]
SPLITS: tuple[str, ...] = get_args(Split)
TASK_TYPES: tuple[TaskType, ...] = get_args(TaskType)
MOST_GOALS = 6


class HouseholdOptions(BaseModel):
    """Options of the household environment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Split = Field(
        "unseen",
        description="`train`: rooms for training; `seen`: the same rooms, other placements; `unseen`: other rooms.",
    )
    task_types: tuple[TaskType, ...] = Field(
        TASK_TYPES,
        min_length=1,
        description="Task types to play; generated games take them in turn, episode by episode.",
    )
    max_objects: int = Field(
        30, ge=4, le=80, description="Most movable objects that a generated game puts into its room."
    )
    goals: tuple[int, int] = Field(
        (1, 1),
        description="Fewest and most goals of an episode. More than one is a chain: when a goal is fulfilled, the next "
        "is announced, and the home stays as it is.",
    )
    expert: Expert = Field(
        "oracle",
        description="Whose next commands are told: `oracle` knows where everything is; `search` acts on what was seen "
        "in the episode. Path lengths for SPL are always those of `oracle`.",
    )
    games_dir: Path | None = Field(
        None,
        description="Folder searched for `**/game.tw-pddl`; its games are played instead of generated ones. "
        "textworld evaluates expressions in a game's grammar as Python: play games that you trust.",
    )

    _each_once = field_validator("task_types")(each_once)

    @field_validator("goals")
    @classmethod
    def _few_goals(cls, value: tuple[int, int]) -> tuple[int, int]:
        fewest, most = value
        if not (value == (1, 1) or 2 <= fewest <= most <= MOST_GOALS):
            raise ValueError(f"allowed are [1, 1] and two whole numbers from 2 to {MOST_GOALS}, the smaller one first")
        return value

    @model_validator(mode="after")
    def _one_source_of_games(self) -> HouseholdOptions:
        if self.games_dir is not None:
            unused = sorted({"split", "max_objects", "goals"} & self.model_fields_set)
            if unused:
                raise ValueError(f"{', '.join(unused)} has no meaning together with games_dir; leave it out")
        return self
