"""Tables of profiles, for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from erecap.generation import JsonRow

if TYPE_CHECKING:
    from rich.table import Table

Cells = tuple[tuple[str, ...], list[tuple[str, ...]]]  # heads and rows
TITLES = {
    "prefill": "Cold prefill",
    "end2end": "One replanning call: history, new turn and plan",
    "memory": "Peak memory beside the weights",
}


def title_of(part: JsonRow) -> str:
    """The title of a part's table: what, the model, its window."""
    of = " of a replanning call" if part["settings"].get("of") == "end2end" and part["part"] == "memory" else ""
    return f"{TITLES[part['part']]}{of}: {about_model(part)}"


def about_model(part: JsonRow) -> str:
    """The model's name, number format and window, and what a stretched one means."""
    model = part["model"]
    name = f"{model['name']} with {model['adapter']}" if model.get("adapter") else model["name"]
    text = f"{name}, {model['dtype']}, window {model['window']:,}"
    own = model.get("own_window")
    return text if own is None else f"{text} (stretched from {own:,}: the shape counts, its text means nothing)"


def cells_of(part: JsonRow) -> Cells:
    """Heads and rows of a part's table; what was left out comes last, with its reason."""
    heads, line = {"prefill": (_PREFILL, _prefill), "end2end": (_END2END, _end2end), "memory": (_MEMORY, _memory)}[
        part["part"]
    ]
    summary = part["summary"]
    rows = [(f"{cell['length']:,}", cell["mode"], cell["preset"] or "–", *line(cell)) for cell in summary["cells"]]
    empty = ("",) * (len(heads) - 1)
    for cell in summary["skipped"]:
        rows.append((f"{cell['length']:,}", cell["mode"], cell["preset"] or "–", f"left out: {cell['why']}", *empty))
    return ("tokens", "mode", "preset", *heads), rows


def markdown(parts: Sequence[JsonRow]) -> str:
    """All parts as Markdown tables, each under a line that says what was measured."""
    lines: list[str] = []
    for part in parts:
        heads, rows = cells_of(part)
        lines += [f"**{title_of(part)}**, {part['date']}, {part['machine']['threads']} threads.", ""]
        lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        lines += [
            "| " + " | ".join(f"`{cell}`" if n == 1 else cell for n, cell in enumerate(row)) + " |" for row in rows
        ]
        lines.append("")
    return "\n".join(lines).rstrip("\n")


def screen_table(part: JsonRow) -> Table:
    """The part's table for a terminal."""
    from erecap.bench.tables import table_of

    heads, rows = cells_of(part)
    return table_of(title_of(part), heads, rows, left=("tokens", "mode", "preset"))


_PREFILL = ("seconds", "min–max", "full over it", "FLOP ceiling", "claimed", "tokens a layer", "KV saved")
_END2END = ("seconds", "min–max", "prefill", "decode", "full over it", "× floor", "KV saved")
_MEMORY = ("MiB by device", "of full")


def _prefill(cell: JsonRow) -> tuple[str, ...]:
    ceiling = cell.get("flop_ceiling")
    return (
        *_times(cell),
        _speed_up(cell),
        "–" if ceiling is None else f"{ceiling:.2f}",
        f"{cell['claim']:.2f}" if "claim" in cell else "–",
        f"{cell['mean_kept']:,.0f}",
        f"{100 * (1 - cell['kv_share']):.0f} %",
    )


def _end2end(cell: JsonRow) -> tuple[str, ...]:
    floor = cell.get("over_floor")
    return (
        *_times(cell),
        f"{cell['prefill_ms'] / 1e3:.2f}",
        f"{cell['decode_ms'] / 1e3:.2f}",
        _speed_up(cell),
        "–" if floor is None else f"{floor:.2f}",
        "–" if cell["mode"] == "floor" else f"{100 * (1 - cell['kv_share']):.0f} %",
    )


def _memory(cell: JsonRow) -> tuple[str, ...]:
    peaks = [f"{device} {size / 2**20:,.0f}" for device, size in cell["peak_bytes"].items()]
    return ", ".join(peaks), f"{cell['of_full']:.2f}" if "of_full" in cell else "–"


def _times(cell: JsonRow) -> tuple[str, str]:
    return f"{cell['total_ms'] / 1e3:.2f}", f"{cell['min_ms'] / 1e3:.2f}–{cell['max_ms'] / 1e3:.2f}"


def _speed_up(cell: JsonRow) -> str:
    if "speed_up" not in cell:
        return "–"
    return f"{cell['speed_up']:.2f} ({cell['low']:.2f}–{cell['high']:.2f})"
