"""Record an episode for people to read: observations, frames, plans, and the tokens that the model kept."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from erecap.generation import JsonRow, Message
from erecap.protocols import Plan
from erecap.rollout.jobs import Job
from erecap.rollout.observed import Observed, clean

if TYPE_CHECKING:
    import gymnasium as gym


class SampleRecorder:
    """Collects what a file of `samples/` holds. Step 0 is what the agent sees before it acts."""

    def __init__(self, job: Job, env: gym.Env[str, str]) -> None:
        self._job = job
        self._env = env
        self._steps: list[JsonRow] = []
        self._replans: list[JsonRow] = []

    def observed(self, step: int, action: str | None, seen: Observed) -> None:
        """Add one observation, with a frame if the environment draws any."""
        self._steps.append(
            {
                "step": step,
                "action": action,
                "observation": seen.text,
                "failed": seen.failed,
                "events": seen.events,
                "frame": self._frame(),
            }
        )

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
        return {
            "suite": self._job.suite,
            "mode": self._job.mode,
            "episode": self._job.episode,
            "goal": goal,
            "success": success,
            "frames_unit": "step" if any(step["frame"] for step in self._steps) else None,
            "steps": self._steps,
            "replans": self._replans,
        }

    def _frame(self) -> str | None:
        return None if self._env.render_mode != "rgb_array" else png_uri(self._env.render())


def png_uri(pixels: Any) -> str:
    """An image `(height, width, 3)` of bytes as a `data:` URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
