"""Peak memory of the cells of a profile: on CPUs each call in a process of its own, on GPUs in this one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any

from erecap.bench.memory import OutOfMemory, device_growth
from erecap.bench.out_of_memory import MemoryGuard
from erecap.bench.profile.calls import Text, Texts, call_of
from erecap.bench.profile.child import cell_growth
from erecap.bench.profile.journal import Journal, missing
from erecap.bench.profile.room import left_over, short_of_memory
from erecap.bench.profile.settings import Cell, Profile
from erecap.errors import RunError
from erecap.generation import JsonRow

Say = Callable[[str], None]


def measure_peaks(
    profile: Profile,
    model: Any,
    tokenizer: Any,
    journal: Journal,
    say: Say,
    *,
    source: str,
    dtype: str,
    threads: int,
    adapter: str | None = None,
) -> None:
    """Measure the peak memory of every cell that the journal lacks; what runs out of memory is noted there.

    Args:
        source, adapter: what the model was loaded by, for processes that load it again.

    Raises:
        RunError: the system does not tell (a CPU, and not Linux; a device that is no GPU of CUDA), or a process failed.
    """
    if model.device.type not in ("cpu", "cuda"):
        raise RunError(f"the peak memory of {model.device.type} is not told; time profiles go without it")
    todo = left_over(profile, missing(journal, profile.cells(), profile.repetitions), model, journal, say)
    if not todo:
        return
    texts, guard = Texts(profile, tokenizer, max(cell.length for cell in todo)), MemoryGuard(say)
    for length, group in groupby(todo, key=lambda cell: cell.length):
        text = texts.of(length)
        for cell in group:
            short = short_of_memory(profile, cell, model)
            if short is None and journal.skipped(cell) is None:
                say(f"{length:,} tokens: peak memory of {cell.name}")
            while short is None and journal.skipped(cell) is None and len(journal.of(cell)) < profile.repetitions:
                if model.device.type == "cpu":
                    short = _elsewhere(profile, cell, text, journal, source, dtype, threads, adapter)
                else:
                    short = _here(profile, cell, text, journal, model, tokenizer, guard)
            if short is not None and journal.skipped(cell) is None:
                say(f"{cell.name} at {length:,} tokens: {short}; left out there and beyond")
                journal.add({**cell.head(), "skipped": short})


def _elsewhere(
    profile: Profile,
    cell: Cell,
    text: Text,
    journal: Journal,
    source: str,
    dtype: str,
    threads: int,
    adapter: str | None,
) -> str | None:
    try:
        peak = cell_growth(source, dtype, profile, cell, text, threads, adapter)
    except OutOfMemory:
        return "ran out of memory"
    if peak is None:
        raise RunError("the peak memory of a CPU's process is told by Linux only; time profiles go without it")
    journal.add(_row(profile, cell, journal, text, {"cpu": peak}))
    return None


def _here(
    profile: Profile, cell: Cell, text: Text, journal: Journal, model: Any, tokenizer: Any, guard: MemoryGuard
) -> str | None:
    make = partial(call_of, profile.of, profile, cell, model, tokenizer, text)

    def measured() -> dict[str, float]:
        make()()
        return device_growth(model, make)

    peaks = guard.tried(cell.key, cell.length, cell.name, measured)
    if peaks is None:
        return "ran out of memory"
    journal.add(_row(profile, cell, journal, text, peaks))
    return None


def _row(profile: Profile, cell: Cell, journal: Journal, text: Text, peaks: dict[str, float]) -> JsonRow:
    head = {**cell.head(), "run": "", "repetition": len(journal.of(cell))}
    return {**head, "tokens": len(text.ids), "peak_bytes": peaks}
