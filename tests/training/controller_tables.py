"""Tables of a controller without a model: what was measured is planted."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from erecap.scheduling.hardware import Hardware
from erecap.training.controller.table import (
    Agreement,
    Cell,
    PromptRow,
    Table,
    TableFolder,
    TimesRow,
    hardware_row,
    read_table,
)

ACTIONS: dict[str, dict[str, Any]] = {"dense": {}, "small": {"kv_tokens": 64}, "thin": {"decode_weights": "int8"}}
BASE = {"name": "tiny", "hash": "sha256:" + "0" * 64, "adapter": None}
HEAD: dict[str, Any] = {
    "base": BASE, "dtype": "float32", "mode": {"name": "erecap", "pruner": None}, "prompts": "sha256:1",
    "actions": ACTIONS, "folders": {}, "loads": ["idle", "busy"], "repeats": 1,
    "machine": {"cpu": "a processor", "cores": 2, "threads": 1},
}  # fmt: skip
# Milliseconds of a call by load and action. When it is busy, only the cheap action meets an SLO of 125.
CALLS = {"idle": {"dense": 100.0, "small": 80.0, "thin": 70.0}, "busy": {"dense": 300.0, "small": 110.0, "thin": 200.0}}
AGREEMENT = {"dense": (1.0, True), "small": (0.8, False), "thin": (0.7, False)}


def prompt_row(name: str, conversation: str, held_out: bool, tokens: int = 300) -> PromptRow:
    agreement = {action: Agreement(share=share, whole=whole) for action, (share, whole) in AGREEMENT.items()}
    return PromptRow(
        prompt=name, conversation=conversation, held_out=held_out, prompt_tokens=tokens, new_tokens=40, plan_tokens=8,
        plan_loss=0.1, agreement=agreement,
    )  # fmt: skip


def times_row(name: str, load: str, noise: float = 0.0) -> TimesRow:
    cells = {action: Cell(reread_ms=400.0, edit_ms=5.0, call_ms=ms * (1 + noise)) for action, ms in CALLS[load].items()}
    others = (0.9 if load == "busy" else 0.1) + noise / 10
    state = Hardware(cpu_others=others, memory_free=0.5)
    return TimesRow(prompt=name, load=load, hardware=hardware_row(state), cells=cells)


def write_table(folder: Path, conversations: int = 10, calls: int = 4, tested: int = 3) -> Table:
    """A table of that many conversations, the last `tested` of them held out."""
    draw = random.Random(7)
    rows = TableFolder(folder, {**HEAD, "count": conversations * calls})
    for number in range(conversations):
        for call in range(calls):
            name = f"c{number}:{call}"
            rows.add(prompt_row(name, f"c{number}", number >= conversations - tested, 200 + 100 * call))
            for load in HEAD["loads"]:
                rows.add(times_row(name, load, draw.uniform(-0.05, 0.05)))
    return read_table(folder)
