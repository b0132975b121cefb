"""The bounds of early exit as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from erecap.bench.tables import table_of
from erecap.generation import JsonRow

if TYPE_CHECKING:
    from rich.table import Table

WORDS = {
    "full": "whole head",
    "small": "small vocabulary",
    "draft": "draft's candidates",
    "grammar": "grammar's tokens",
}


def exits_tables(summary: JsonRow) -> list[Table]:
    """Where tokens are named, and what leaving there saves at most."""
    heads, layers = summary["heads"], summary["layers"]
    marks = sorted({max(1, round(layers * share)) for share in (0.33, 0.5, 0.67, 0.8, 0.9)})
    named = [
        (
            WORDS[name],
            f"{entry['tokens']:,}",
            f"{entry['mean_first']:.1f}",
            f"{entry['median_first']:g}",
            f"{entry['mean_stable']:.1f}",
            *(f"{100 * entry['share_by_layer'][mark - 1]:.0f}" for mark in marks),
        )
        for name, entry in heads.items()
    ]
    bounds = [
        (
            WORDS[name],
            *(f"{entry['bounds'][key]:.2f}" for key in ("layers_only", "one_head", "checked", "verified")),
            *(f"{entry['stable_bounds'][key]:.2f}" for key in ("checked", "verified")),
        )
        for name, entry in heads.items()
    ]
    return [
        table_of(
            f"Layers after which the final token is named, of {layers}",
            ("by", "n", "first", "med.", "good", *(f"≤{mark}" for mark in marks)),
            named,
            left=("by",),
        ),
        table_of(
            "Speed-up of decoding at most, with a predictor that is always right",
            ("looked at by", "layers", "one head", "checked", "verified", "for good", "verified"),
            bounds,
            left=("looked at by",),
        ),
    ]


def sources_table(found: JsonRow) -> Table:
    """Decoding with early exit beside plain decoding, source by source."""

    def speed(milliseconds: float | None) -> str:
        return "–" if milliseconds is None else f"{1e3 / milliseconds:.1f}"

    return table_of(
        "Decoded with early exit, tokens a second",
        ("source", "answers", "plain", "exit", "over plain", "agrees", "left", "mean layer"),
        [
            (
                name,
                f"{row['n'] // row['rounds']}",
                speed(row["ms_per_token"]["plain"]),
                speed(row["ms_per_token"]["exit"]),
                "–" if row["speed_up"] is None else f"{row['speed_up']:.2f}",
                f"{100 * row['same_tokens']:.1f} %",
                f"{100 * row['left_early']:.0f} %",
                "–" if row["mean_layer"] is None else f"{row['mean_layer']:.1f}",
            )
            for name, row in found["sources"].items()
        ],
        left=("source",),
    )


def times_line(summary: JsonRow) -> str:
    """The measured times in one line."""
    times = summary["times_ms"]
    return (
        f"one token: layers {times['layers']:.1f} ms, head {times['head']:.2f} ms, {summary['small_vocabulary']} rows "
        f"of it {times['small']:.2f} ms, a few {times['slice']:.2f} ms; a chunk: layers "
        f"{times['layers_chunk']:.1f} ms, head {times['head_chunk']:.2f} ms"
    )


def chosen_line(summary: JsonRow) -> str:
    """The gain of choosing among the tokens of a grammar, in one line."""
    bound = "" if summary["slice_alone"] is None else f" (bound: {summary['slice_alone']:.2f}x)"
    return f"without early exit, a grammar's rows in place of the head: {summary['slice_measured']:.2f}x{bound}"


def exit_line(found: JsonRow) -> str:
    """The time and the exits of decoding with early exit, in one line."""
    times, speed = found["ms_per_token"], found["speed_up"]
    if speed is None:
        return "decoded with early exit: every answer was a single token"
    layers = ", ".join(f"{layer}: {count}" for layer, count in found["exit_layers"].items()) or "none"
    return (
        f"decoded with early exit: {times['exit']:.1f} ms a token, plainly {times['plain']:.1f}: {speed:.2f}x; "
        f"{100 * found['same_tokens']:.1f} % of the tokens agree, {100 * found['left_early']:.0f} % left early; "
        f"layers {layers}"
    )
