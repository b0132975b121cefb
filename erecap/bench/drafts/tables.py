"""Tables of the bench of drafts for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from erecap.bench.tables import result_table, table_of
from erecap.generation import JsonRow

if TYPE_CHECKING:
    from rich.table import Table


def drafts_tables(part: JsonRow) -> list[Table]:
    """A table of ways for each scene, one of the cost of passes, and the result rows."""
    ways = part["summary"]["ways"]
    tables = [
        _ways_table(scene, [row for row in ways if row["scene"] == scene])
        for scene in dict.fromkeys(row["scene"] for row in ways)
    ]
    tables.append(_costs_table(part["summary"]["costs"]))
    return [*tables, result_table(part["rows"])] if part["rows"] else tables


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _ways_table(scene: str, rows: Sequence[JsonRow]) -> Table:
    return table_of(
        f"Drafts: {scene} ({rows[0]['answers']} answers)",
        ("weights", "way", "accepted", "a pass", "ms a token", "tokens/s", "over plain", "agrees"),
        [
            (
                row["weights"],
                row["way"],
                _percent(row["accepted_of_drafted"]),
                f"{row['tokens_a_pass']:.2f}",
                "–" if row["ms_a_token"] is None else f"{row['ms_a_token']:.1f}",
                "–" if row["tokens_a_second"] is None else f"{row['tokens_a_second']:.1f}",
                f"{row['speed_up']['value']:.2f}",
                _percent(row["agreement"]),
            )
            for row in rows
        ],
        left=("weights", "way"),
    )


def _costs_table(rows: Sequence[JsonRow]) -> Table:
    return table_of(
        "Passes of several tokens, over a pass of one",
        ("weights", "tokens", "ms", "over one", "reference"),
        [
            (
                row["weights"],
                f"{row['pass_tokens']}",
                f"{row['ms']:.1f}",
                "–" if row["over_one"] is None else f"{row['over_one']:.2f}",
                f"{row['reference']:.2f}",
            )
            for row in rows
        ],
        left=("weights",),
    )
