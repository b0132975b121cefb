"""Timed calls of a profile: warmed up once, in turn, and only those that the journal lacks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from erecap.bench.out_of_memory import MemoryGuard
from erecap.bench.profile.calls import Measured, Text, Texts, call_of
from erecap.bench.profile.journal import Journal, missing
from erecap.bench.profile.room import left_over, short_of_memory
from erecap.bench.profile.settings import FLOOR, FULL, Cell, Profile
from erecap.bench.replan.calls import in_turn
from erecap.bench.replan.ceilings import attention_share
from erecap.generation import JsonRow

Say = Callable[[str], None]
BASELINES = (FULL, FLOOR)  # others are compared with them


def measure(profile: Profile, model: Any, tokenizer: Any, journal: Journal, say: Say) -> None:
    """Time every cell that the journal lacks, length by length.

    Calls of one length are interleaved. A ratio needs both of its sides from one process, so where a stopped profile
    goes on, `full` and the floor are timed again beside the cells that are left. What runs out of memory, or is bound
    to, is noted in the journal and left out at that length and beyond.
    """
    todo = left_over(profile, missing(journal, profile.cells(), profile.repetitions), model, journal, say)
    if not todo:
        return
    texts = Texts(profile, tokenizer, max(cell.length for cell in todo))
    run = uuid.uuid4().hex[:8]  # rows of one process
    guard = MemoryGuard(say)
    for length, group in groupby(todo, key=lambda cell: cell.length):
        cells = _with_baselines(profile, length, list(group), journal)
        text = texts.of(length)
        say(f"{length:,} tokens: warming up {', '.join(cell.name for cell in cells)}")
        calls = {}
        for cell in cells:
            call = _warmed_up(profile, cell, model, tokenizer, text, journal, guard)
            if call is not None:
                calls[cell] = call
        needed = max((profile.repetitions - len(journal.of(cell)) for cell in calls if cell in todo), default=0)
        for repetition, cell, call in in_turn(calls, needed):
            if cell.mode not in BASELINES and len(journal.of(cell)) >= profile.repetitions:
                continue
            row = guard.tried(cell.key, length, cell.name, partial(_timed, call))
            if row is not None:
                journal.add({**cell.head(), "run": run, "repetition": repetition, **row})
            elif journal.skipped(cell) is None:
                journal.add({**cell.head(), "skipped": "ran out of memory"})
            if cell == next(reversed(calls)):
                say(f"{length:,} tokens: {repetition + 1} of {needed} repetitions")
        calls.clear()


def _with_baselines(profile: Profile, length: int, due: list[Cell], journal: Journal) -> list[Cell]:
    """The cells that are due, and what they are compared with also where that has its rows already, in usual order."""
    baselines = [
        cell
        for cell in profile.cells()
        if cell.length == length and cell.mode in BASELINES and journal.skipped(cell) is None
    ]
    return [cell for cell in profile.cells() if cell in due or cell in baselines]


def _warmed_up(
    profile: Profile, cell: Cell, model: Any, tokenizer: Any, text: Text, journal: Journal, guard: MemoryGuard
) -> Measured | None:
    """The cell's call after it was made once; None where memory does not suffice, which the journal then says."""
    short = short_of_memory(profile, cell, model)
    if short is not None:
        journal.add({**cell.head(), "skipped": short})
        return None

    def warm() -> Measured:
        call = call_of(profile.part, profile, cell, model, tokenizer, text)
        if cell.mode == FULL and profile.part == "prefill":
            # The same pass, under a clock: how much of it is attention, for the ceilings weighted by time.
            share = attention_share(model, text.ids)
            if share is not None:
                journal.add({**cell.head(), "attention_share": share})
                return call
        call()
        return call

    call = guard.tried(cell.key, cell.length, cell.name, warm)
    if call is None and journal.skipped(cell) is None:
        journal.add({**cell.head(), "skipped": "ran out of memory"})
    return call


def _timed(call: Measured) -> JsonRow:
    started = time.perf_counter()
    row = call()
    return {"total_ms": 1e3 * (time.perf_counter() - started), **row}


def pairs(rows: Sequence[JsonRow], baseline: Sequence[JsonRow], field: str) -> tuple[list[float], list[float]]:
    """The values of a field and of the baseline, of calls made in the same round of the same process."""
    others = {(row["run"], row["repetition"]): float(row[field]) for row in baseline}
    both = [(float(row[field]), others[key]) for row in rows if (key := (row["run"], row["repetition"])) in others]
    return [one for one, _ in both], [other for _, other in both]
