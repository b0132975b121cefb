"""The results of benchmarks for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erecap.files import write_json
from erecap.protocols import JsonRow

if TYPE_CHECKING:
    from rich.table import Table

    from erecap.bench.replan import ReplanBench


def as_table(summary: Sequence[JsonRow]) -> Table:
    """The summary for a terminal of 80 columns. Milliseconds are medians."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title="One replanning call, in seconds (medians)",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in ("history", "mode", "total", "min–max", "prefill", "decode", "× floor", "KV MiB"):
        table.add_column(name, justify="left" if name == "mode" else "right", no_wrap=True)
    for number, row in enumerate(summary):
        new_length = number + 1 == len(summary) or summary[number + 1]["length"] != row["length"]
        table.add_row(
            f"{row['length']:,}",
            Text(row["mode"]),  # brackets in a mode are no markup
            _seconds(row["total_ms"]),
            f"{_seconds(row['min_ms'])}–{_seconds(row['max_ms'])}",
            _seconds(row["prefill_ms"]),
            _seconds(row["decode_ms"]),
            f"{row['over_floor']:.2f}",
            f"{row['kv_bytes'] / 2**20:.0f}",
            end_section=new_length,
        )
    return table


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1e3:.2f}"


def write_results(
    path: Path, bench: ReplanBench, summary: Sequence[JsonRow], rows: Sequence[JsonRow], name: str, model: Any
) -> None:
    """Write settings, machine, summary and raw rows to `path`."""
    import platform

    import psutil
    import torch
    import transformers

    write_json(
        path,
        {
            "what": "time of one replanning call by length of history and mode; the floor is the new turn alone",
            "date": datetime.now(UTC).date().isoformat(),
            "settings": asdict(bench),
            "model": {"name": Path(name).name, "dtype": str(model.dtype).removeprefix("torch.")},
            "machine": {
                "cores": psutil.cpu_count(logical=False),
                "threads": torch.get_num_threads(),
                "processor": platform.machine(),
                "device": str(model.device),
            },
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "summary": [_rounded(row) for row in summary],
            "rows": [_rounded(row) for row in rows],
        },
    )


def _rounded(row: JsonRow) -> JsonRow:
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
