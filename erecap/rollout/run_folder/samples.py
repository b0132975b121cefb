"""Record an episode for people to read: observations, frames, the way on a map, plans, and the tokens kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from erecap.errors import GameError
from erecap.generation import JsonRow, Message
from erecap.protocols import FloorMap, Plan
from erecap.report.rows import SampleMap
from erecap.rollout.jobs import Job
from erecap.rollout.observed import Observed, clean
from erecap.rollout.run_folder.frames import image_uri

if TYPE_CHECKING:
    import gymnasium as gym

MOST_FRAMES = 200  # of one episode
MOST_FRAME_BYTES = 4_000_000  # of one episode, as written


class SampleRecorder:
    """Collects what a file of `samples/` holds. Step 0 is what the agent sees before it acts."""

    def __init__(self, job: Job, env: gym.Env[str, str]) -> None:
        self._job = job
        self._env = env
        self._steps: list[JsonRow] = []
        self._replans: list[JsonRow] = []
        self._map: JsonRow | None = None
        self._frames, self._frame_bytes, self._left_out = 0, 0, 0

    def observed(self, step: int, action: str | None, seen: Observed) -> None:
        """Add one observation, with a frame if the environment draws any.

        Raises:
            GameError: the environment's map is none that a report could draw.
        """
        if seen.floor_map is not None:
            self._map = _checked(seen.floor_map)
        row: JsonRow = {
            "step": step,
            "action": action,
            "observation": seen.text,
            "failed": seen.failed,
            "events": seen.events,
            "frame": self._frame(),
        }
        self._steps.append(row | {"trail": seen.trail} if seen.trail else row)

    def planned(self, number: int, step: int, trigger: str, plan: Plan, messages: Sequence[Message]) -> None:
        """Add one planning call. `messages` is the chat as it was before the call."""
        pieces = plan.generation.pieces if plan.generation else ()
        self._replans.append(
            {
                "replan": number,
                "step": step,
                "trigger": trigger,
                "plan": [clean(step) for step in plan.steps],
                "problem": plan.problem,
                "pieces": [[piece.message, piece.text, round(piece.kept, 4)] for piece in pieces],
                "messages": [{"role": message["role"]} for message in messages],
            }
        )

    def finish(self, goal: str, success: bool) -> JsonRow:
        """The sample as it is written."""
        sample: dict[str, Any] = {
            "suite": self._job.suite,
            "mode": self._job.mode,
            "episode": self._job.episode,
            "goal": goal,
            "success": success,
            "frames_unit": "step" if any(step["frame"] for step in self._steps) else None,
            "steps": self._steps,
            "replans": self._replans,
        }
        if self._left_out:
            sample["frames_left_out"] = self._left_out
        if self._map is not None:
            sample["map"] = self._map
        return sample

    def _frame(self) -> str | None:
        if self._env.render_mode != "rgb_array":
            return None
        if self._frames == MOST_FRAMES or self._frame_bytes >= MOST_FRAME_BYTES:
            self._left_out += 1
            return None
        pixels = self._env.render()
        if pixels is None:  # it can draw, but has nothing to draw with here
            return None
        uri = image_uri(pixels)
        self._frames, self._frame_bytes = self._frames + 1, self._frame_bytes + len(uri)
        return uri


def _checked(floor_map: FloorMap) -> JsonRow:
    try:
        return SampleMap.model_validate(floor_map).model_dump(mode="json", exclude_defaults=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise GameError(f"the environment's map, {where}: {problem['msg']}") from error
