"""Trajectories of a made-up home, as `erecap collect` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from erecap.training.collect.trajectories import EPISODES, FORMAT, META


def episode(number: int, turns: int) -> dict[str, Any]:
    """A row with `turns` planning calls."""
    messages = [
        {"role": "system", "content": "You plan for a robot."},
        {"role": "user", "content": f"Goal: cool apple {number}.\nYou see a fridge 1 and a shelf {number}."},
    ]
    targets = []
    for turn in range(turns):
        plan = f"go to shelf {turn}\ntake mug {turn + number}"
        targets.append({"message": len(messages), "plan": plan})
        messages.append({"role": "assistant", "content": plan})
        messages.append({"role": "user", "content": f"> go to shelf {turn}\nOn the shelf {turn} is a mug {7 * turn}."})
    return {
        "suite": "shelves", "episode": number, "seed": number, "source": "expert", "goal": "cool apple",
        "success": True, "steps": 2 * turns, "max_steps": 5, "messages": messages, "targets": targets,
    }  # fmt: skip


def write(folder: Path, episodes: int = 5, turns: int = 6) -> Path:
    """A trajectory folder; the first episode has a single call, and is too short for most purposes."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [episode(number, turns if number else 1) for number in range(episodes)]
    (folder / META).write_text(json.dumps({"format": FORMAT}))
    (folder / EPISODES).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
