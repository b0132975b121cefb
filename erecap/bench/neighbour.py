"""The time of a replanning call beside a program that is busy on the same cores, over its time alone: figure R11."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from erecap.bench.neighbour_processes import Neighbour, Replanner
from erecap.bench.replan.ceilings import ratio
from erecap.bench.replan.history import cut, next_turn, wander
from erecap.bench.results import Figure, result_row
from erecap.context.tokenize import render_prompt
from erecap.generation import JsonRow, Message
from erecap.threading_policy import LIBRARY_DEFAULT

R11_LENGTH = 1000
OURS, ACTIVE = "ours", "active"
# What the measured processes are started with. Without variables `import erecap` sets ours, as it does for every user.
WAITING: Mapping[str, Mapping[str, str]] = {OURS: {}, ACTIVE: LIBRARY_DEFAULT}
ALONE, BESIDE = "alone", "beside"


@dataclass(frozen=True)
class NeighbourBench:
    """Settings of `erecap bench neighbour`."""

    length: int = R11_LENGTH  # tokens of history
    new_tokens: int = 100  # of the turn that is new
    plan_tokens: int = 32  # generated in every call, no more and no fewer
    repetitions: int = 7  # rounds; in each, every way of waiting replans alone and then beside the neighbour
    kv_tokens: int = 1024
    neighbour_threads: int = 2
    seed: int = 0


def neighbour_bench(
    bench: NeighbourBench,
    tokenizer: Any,
    source: str,
    dtype: str,
    threads: int,
    say: Callable[[str], None] = lambda text: None,
) -> JsonRow:
    """`raw` rows, one per timed call, and the variables on `waiting` that were in force.

    Every way of waiting has a process of its own, with a warm session that has read the history, on the CPU. They and
    the neighbour take turns: whoever is not asked sleeps, and the neighbour is stopped while calls are measured alone.

    Args:
        source: what the model is loaded by.
        threads: of each measured process.

    Raises:
        RunError: one of the processes ended by itself.
    """

    def count(messages: Sequence[Message]) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    longest = wander(bench.length, count, turn_tokens=bench.new_tokens, seed=bench.seed)
    request: JsonRow = {
        "model": source,
        "dtype": dtype,
        "threads": threads,
        "kv_tokens": bench.kv_tokens,
        "history": cut(longest, bench.length, count),
        "new": next_turn(bench.new_tokens, count, seed=bench.seed),
        "plan_tokens": bench.plan_tokens,
        "seed": bench.seed,
    }
    raw: list[JsonRow] = []
    with ExitStack() as processes:
        replanners = {}
        for name, variables in WAITING.items():
            say(f"a process that waits as `{name}` reads {bench.length:,} tokens and warms up")
            replanners[name] = processes.enter_context(Replanner(variables, request))
        neighbour = processes.enter_context(Neighbour(bench.neighbour_threads))
        neighbour.pause()
        for repetition in range(bench.repetitions):
            for name, replanner in replanners.items():
                head = {"waiting": name, "repetition": repetition}
                raw.append({**head, "where": ALONE, "total_ms": replanner.call()})
                neighbour.resume()
                raw.append({**head, "where": BESIDE, "total_ms": replanner.call()})
                neighbour.pause()
            say(f"beside a busy program: {repetition + 1} of {bench.repetitions} rounds")
        waiting = {name: replanner.waiting for name, replanner in replanners.items()}
    return {"raw": raw, "waiting": waiting}


def neighbour_summary(found: JsonRow) -> list[JsonRow]:
    """Medians and ranges by way of waiting, alone and beside the neighbour, and their ratio."""
    summary = []
    for name, variables in found["waiting"].items():
        times = {where: _times(found["raw"], name, where) for where in (ALONE, BESIDE)}
        entry: JsonRow = {"waiting": name, "variables": variables, "n": len(times[ALONE])}
        for where, own in times.items():
            entry |= {f"{where}_ms": statistics.median(own), f"{where}_min_ms": min(own), f"{where}_max_ms": max(own)}
        summary.append({**entry, "ratio": _slowdown(found["raw"], name).value})
    return summary


def neighbour_rows(bench: NeighbourBench, found: JsonRow, about: JsonRow) -> list[JsonRow]:
    """The row R11, if it was measured at the length that it is defined for, beside a neighbour on two threads."""
    if bench.length != R11_LENGTH or bench.neighbour_threads != 2:
        return []
    raw, ours = found["raw"], _slowdown(found["raw"], OURS)
    alone, beside = (statistics.median(_times(raw, OURS, where)) / 1e3 for where in (ALONE, BESIDE))
    active = _slowdown(raw, ACTIVE)
    cost = ratio(_times(raw, OURS, ALONE), _times(raw, ACTIVE, ALONE))
    set_to = ", ".join(f"`{name}={value}`" for name, value in found["waiting"][OURS].items())
    note = (
        f"after {bench.length:,} tokens {alone:.2f} s alone, {beside:.2f} s beside it, with {set_to}; as OpenMP waits "
        f"by default {active.value:.2f} ({active.low:.2f} to {active.high:.2f}); alone, ours takes {cost.value:.3f} "
        f"times as long as the default ({cost.low:.3f} to {cost.high:.3f})"
    )
    return [result_row("R11", ours, about, row="algorithm", note=note)]


def _slowdown(raw: Sequence[JsonRow], name: str) -> Figure:
    return ratio(_times(raw, name, BESIDE), _times(raw, name, ALONE))


def _times(raw: Sequence[JsonRow], name: str, where: str) -> list[float]:
    return [float(row["total_ms"]) for row in raw if (row["waiting"], row["where"]) == (name, where)]
