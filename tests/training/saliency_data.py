"""Tiny chats and a tiny model for the tests of stage 1 and stage 2."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from erecap.decoding.stopping import answer_ends
from erecap.training.saliency.samples import Sample, load_samples
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model

BASE = {"name": "tiny", "hash": "sha256:0", "adapter": None}
STAGES = (2, 4, 6)


def write_trajectories(folder: Path, count: int = 6, *, branches: bool = True, seed: int = 0) -> Path:
    """A trajectory folder of short made-up episodes; every other plan that was played is not the expert's."""
    choose = random.Random(seed)
    rows = []
    for episode in range(count):
        goal = f"Goal: cool the mug {episode}."
        messages = [
            {"role": "system", "content": "Plan."},
            {"role": "user", "content": f"{goal}\nYou see a shelf {choose.randint(1, 9)} and a fridge 1."},
        ]
        targets = []
        for turn in range(3):
            place = choose.randint(1, 99)
            played, expert = f"go to shelf {place}", f"go to fridge {turn}"
            mine = played if branches and turn % 2 else expert
            targets.append({"message": len(messages), "plan": expert})
            messages += [
                {"role": "assistant", "content": mine},
                {"role": "user", "content": f"> {mine}\nYou see a mug {choose.randint(1, 9)}."},
            ]
        row = {"suite": "made-up", "episode": episode, "seed": 1, "source": "expert", "goal": goal, "success": True}
        rows.append(row | {"steps": 3, "max_steps": 2, "messages": messages, "targets": targets})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "meta.json").write_text(json.dumps({"format": "erecap-trajectories-1"}))
    return folder


def samples(folder: Path, name: str = "llama", **options: Any) -> list[Sample]:
    """The samples of `write_trajectories(folder)`."""
    write_trajectories(folder, **options)
    return load_samples([folder], byte_level(), answer_ends(model(name), byte_level()), max_tokens=400)
