"""Chats and rows that tests of wrapped planners share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def chat(turns: int) -> list[dict[str, Any]]:
    """A chat of a goal and `turns` exchanges."""
    messages = [{"role": "system", "content": "Plan."}, {"role": "user", "content": "Find the mug."}]
    for turn in range(turns):
        messages += [
            {"role": "assistant", "content": f"go to shelf {turn}"},
            {"role": "user", "content": f"You see a plate {turn}, and there is nothing else on the shelf {turn}."},
        ]
    return messages


def rows(folder: Path, name: str = "replans.jsonl") -> list[dict[str, Any]]:
    """The rows of a call log."""
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]
