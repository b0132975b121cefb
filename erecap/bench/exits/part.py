"""One measured part of the bench of early exits: bounds, and decoding with early exit beside plain decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from erecap.bench.exits.bounds import exits_bench
from erecap.bench.exits.results import exits_row
from erecap.bench.exits.settings import ExitsBench
from erecap.bench.exits.speed import speed_rows, speed_summary
from erecap.config.exits import Exit
from erecap.decoding.exits.states import ExitText
from erecap.generation import JsonRow


def exits_part(
    bench: ExitsBench,
    model: Any,
    sources: Mapping[str, Sequence[ExitText]],
    settings: Exit | None,
    ends: Sequence[int],
    about: JsonRow,
    say: Callable[[str], None] = lambda line: None,
) -> JsonRow:
    """Measure the bounds on all texts and, where `settings` are given, time decoding on the first of each source.

    Args:
        sources: texts by the name of their source.
        about: `command`, `date`, `machine`, `versions`, `model`, and `settings` with `exit` and `row`.

    Raises:
        ConfigError, RunError, ModelError: as `exits_bench` and `open_exits`.
        ValueError: an exit that the model cannot have.
    """
    measured = exits_bench(bench, model, [text for texts in sources.values() for text in texts], say)
    summary: JsonRow = measured["summary"]
    timed: list[JsonRow] = []
    rows: list[JsonRow] = []
    if settings is not None:
        for name, texts in sources.items():
            timed += [{"source": name, **row} for row in speed_rows(bench, model, texts, settings, ends, say)]
        own = {name: [row for row in timed if row["source"] == name] for name in sources}
        found = {name: speed_summary(rows) for name, rows in own.items()}
        summary["exit"] = {**about["settings"]["exit"], **speed_summary(timed), "sources": found}
        made = exits_row(summary, timed, about, about["settings"]["row"])
        rows = [] if made is None else [made]
    raw = {"named": measured["raw"], "timed": timed}
    return {"part": "exits", **about, "summary": summary, "raw": raw, "rows": rows, "faults": []}
