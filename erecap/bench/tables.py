"""The results of benchmarks for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from erecap.generation import JsonRow

if TYPE_CHECKING:
    from rich.table import Table


def table_of(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()) -> Table:
    """A plain table; columns are flush right except those in `left`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(Text(name), justify="left" if name in left else "right", no_wrap=name not in left[1:])
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # brackets in a mode are no markup
    return table


def replan_table(summary: Sequence[JsonRow], kind: str, skipped: Sequence[JsonRow] = ()) -> Table:
    """One row (`algorithm`, `product` or `hf`) of the summary of the replan benchmark. Milliseconds are medians.

    Args:
        skipped: what ran out of memory, with the shortest length.
    """
    measured = [
        (
            f"{row['length']:,}",
            row["mode"],
            seconds(row["total_ms"]),
            f"{seconds(row['min_ms'])}–{seconds(row['max_ms'])}",
            seconds(row["prefill_ms"]),
            seconds(row["decode_ms"]),
            "–" if row["over_floor"] is None else f"{row['over_floor']:.2f}",
            f"{row['kv_bytes'] / 2**20:.0f}",
        )
        for row in summary
        if row["row"] == kind
    ]
    missing = [
        (f"{row['length']:,}", row["mode"], "–", "no memory", *[""] * 4) for row in skipped if row["row"] == kind
    ]
    return table_of(
        f"One replanning call, in seconds (medians), {kind}",
        ("history", "mode", "total", "min–max", "prefill", "decode", "× floor", "KV MiB"),
        [*measured, *missing],
        left=("mode",),
    )


def peak_table(summary: Sequence[JsonRow]) -> Table:
    """Peak memory of the calls of the replan benchmark: a row a length, a column a mode."""
    own = [row for row in summary if row.get("peak_bytes") is not None]
    modes = list(dict.fromkeys(row["mode"] for row in own))
    sizes = {(row["length"], row["mode"]): row["peak_bytes"] for row in own}
    lengths = sorted({row["length"] for row in own})
    return table_of(
        "Peak memory of one replanning call beside the weights, in MiB",
        ("history", *modes),
        [(f"{length:,}", *(_mebibytes(sizes.get((length, mode))) for mode in modes)) for length in lengths],
    )


def _mebibytes(size: float | None) -> str:
    return "–" if size is None else f"{size / 2**20:.0f}"


def ceiling_table(rows: Sequence[JsonRow]) -> Table:
    """Prefill speed-ups beside the ceilings from counted FLOPs, and from FLOPs weighted by time."""
    return table_of(
        "Prefill against full, and the most that is possible",
        ("tokens", "mode", "speed-up", "min–max", "FLOP ceiling", "by time", "share", ""),
        [
            (
                f"{row['length']:,}",
                row["mode"],
                f"{row['speed_up']:.2f}",
                f"{row['low']:.2f}–{row['high']:.2f}",
                f"{row['flop_ceiling']:.2f}",
                "–" if row["time_ceiling"] is None else f"{row['time_ceiling']:.2f}",
                f"{100 * row['share']:.0f} %",
                "fault" if row["fault"] else "",
            )
            for row in rows
        ],
        left=("mode",),
    )


def result_table(rows: Sequence[JsonRow]) -> Table:
    """Result rows: target and measured side by side."""
    return table_of(
        "Targets",
        ("id", "row", "target", "measured", "min–max", "", "note"),
        [
            (
                row["id"],
                row["row"][:4],
                row["target"],
                f"{row['measured']:g}",
                f"{row['low']:g}–{row['high']:g}",
                "" if row["holds"] is None else "holds" if row["holds"] else "short",
                row["note"],
            )
            for row in rows
        ],
        left=("id", "note"),
    )


def seconds(milliseconds: float | None) -> str:
    """`1234` as `1.23`."""
    return "–" if milliseconds is None else f"{milliseconds / 1e3:.2f}"


def tables_of(part: JsonRow) -> list[Table]:
    """The tables of one part (see `erecap.bench.suite.play`), its result rows last."""
    summary, tables = part["summary"], []
    if part["part"] == "replan":
        skipped = summary.get("skipped", [])  # files of older versions have none
        kinds = dict.fromkeys(row["row"] for row in [*summary["calls"], *skipped])
        tables += [replan_table(summary["calls"], kind, skipped) for kind in kinds]
        if any(row.get("peak_bytes") is not None for row in summary["calls"]):
            tables.append(peak_table(summary["calls"]))
        if summary["ceilings"]:
            tables.append(ceiling_table(summary["ceilings"]))
        if summary["quality"]:
            tables.append(_quality_table(summary["quality"]))
    elif part["part"] == "prefill":
        tables += [_prefill_table(summary), ceiling_table([summary["ceiling"]])]
    elif part["part"] == "decode":
        tables.append(_decode_table(summary["plain"]))
        if summary["repeated"]:
            tables.append(_repeated_table(summary["repeated"]))
    elif part["part"] == "neighbour":
        tables.append(_neighbour_table(summary))
    else:
        tables.append(_episode_table(summary))
    return [*tables, result_table(part["rows"])] if part["rows"] else tables


def _quality_table(quality: JsonRow) -> Table:
    cells = (
        quality["weights"],
        f"{100 * quality['agreement']:.1f} %",
        f"{quality['loss']:.3f}",
        f"{quality['reference_loss']:.3f}",
        f"{quality['n']}",
    )
    title = "Decode weights against float32, on plan tokens of household text"
    return table_of(title, ("weights", "agreement", "loss", "float32", "tokens"), [cells], left=("weights",))


def _prefill_table(summary: JsonRow) -> Table:
    full = summary["modes"][0]["prefill_ms"]
    return table_of(
        "Cold prefill (medians)",
        ("mode", "seconds", "min–max", "× full", "tokens a layer", "peak MiB"),
        [
            (
                row["mode"],
                seconds(row["prefill_ms"]),
                f"{seconds(row['min_ms'])}–{seconds(row['max_ms'])}",
                f"{row['prefill_ms'] / full:.3f}",
                f"{row['mean_kept']:,.0f}",
                _mebibytes(row["peak_bytes"]),
            )
            for row in summary["modes"]
        ],
        left=("mode",),
    )


def _decode_table(summary: Sequence[JsonRow]) -> Table:
    return table_of(
        "Plain decoding, milliseconds a token (medians)",
        ("history", "stored", "weights", "ms", "min–max"),
        [
            (
                f"{row['kv']:,}",
                f"{row['stored']:,.0f}",
                row["weights"],
                f"{row['ms_per_token']:.1f}",
                f"{row['min_ms']:.1f}–{row['max_ms']:.1f}",
            )
            for row in summary
        ],
        left=("weights",),
    )


def _repeated_table(summary: Sequence[JsonRow]) -> Table:
    def percent(share: float | None) -> str:
        return "–" if share is None else f"{100 * share:.0f} %"

    return table_of(
        "Decoding of replans that repeat part of the last plan, plain over drafted",
        ("weights", "replans", "repeat it", "by", "accepted", "speed-up", "over all", "same text"),
        [
            (
                row["weights"],
                f"{row['replans']}",
                f"{len(row['used'])}",
                percent(row["repeats"]),
                percent(row["accepted_share"]),
                "–" if row["speed_up"] is None else f"{row['speed_up']['value']:.2f}",
                f"{row['all_speed_up']['value']:.2f}",
                "yes" if row["same_text"] else "no",
            )
            for row in summary
        ],
        left=("weights",),
    )


def _episode_table(summary: JsonRow) -> Table:
    return table_of(
        "An episode past the window",
        ("stretch", "tokens read", "replans", "stored", "replan", "floor", "agreement"),
        [
            (
                row["stretch"],
                f"{row['from']:,}–{row['to']:,}",
                f"{row['n']}",
                f"{row['stored']:,.0f}",
                seconds(row["total_ms"]),
                seconds(row["floor_ms"]),
                f"{100 * row['agreement']:.1f} %",
            )
            for row in summary["stretches"]
        ],
        left=("stretch",),
    )


def _neighbour_table(summary: Sequence[JsonRow]) -> Table:
    return table_of(
        "One replanning call alone and beside a busy program, in seconds (medians)",
        ("waiting", "rounds", "alone", "min–max", "beside", "min–max", "ratio"),
        [
            (
                row["waiting"],
                f"{row['n']}",
                *(
                    text
                    for where in ("alone", "beside")
                    for text in (
                        seconds(row[f"{where}_ms"]),
                        f"{seconds(row[f'{where}_min_ms'])}–{seconds(row[f'{where}_max_ms'])}",
                    )
                ),
                f"{row['ratio']:.2f}",
            )
            for row in summary
        ],
        left=("waiting",),
    )
