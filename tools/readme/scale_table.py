"""Robots on one GPU, as `erecap scale` computes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WAYS = {"full": "read everything again", "reuse": "keep everything"}


def scale_table(results: Mapping[str, Any]) -> str:
    """Markdown: what it rests on, what memory holds, seconds of a call, and the most robots.

    Args:
        results: the content of `scale.json`.
    """
    settings = results["settings"]
    most = {(row["history"], row["way"]): row for row in results["most"]}
    held = {(row["history"], row["way"]): row for row in results["holds"]}
    calls = {(row["history"], row["way"], row["robots"]): row for row in results["calls"]}
    robots = settings["robots"]
    lines = [
        *_assumptions(results),
        "",
        f"| history | way | GB a robot | robots in memory | most robots within {settings['slo_s']:g} s | "
        + " | ".join(f"P95, {n:,}" for n in robots)
        + " |",
        "|---|---|---|---|---|" + "---|" * len(robots),
    ]
    for history, way in most:
        own, memory = most[history, way], held.get((history, way))
        name = WAYS.get(way, f"keep {settings['kept']:,} tokens")
        cells = [
            f"{history:,}",
            name,
            "–" if memory is None else f"{memory['bytes'] / 1e9:.2f}",
            "–" if memory is None else f"{memory['robots']:,}",
            f"{own['robots']:,}" + (" or more" if own["at_least"] else ""),
            *(_seconds(calls[history, way, n]) for n in robots),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _seconds(row: Mapping[str, Any]) -> str:
    """Seconds within which 95 % of the calls end; a word where they cannot keep up."""
    return f"{row['p95_s']:.2f} s" if row["keeps_up"] and row["p95_s"] is not None else "falls behind"


def _assumptions(results: Mapping[str, Any]) -> list[str]:
    gpu, model, settings = results["gpu"], results["model"], results["settings"]
    server = results["server"]
    return [
        f"`{results['command']}`. Assumed:",
        "",
        f"- model: {model['parameters'] / 1e9:.2f} billion parameters, {model['weight_bytes'] / 1e9:.1f} GB of "
        f"weights, {model['bytes_per_token'] / 1024:.0f} KiB of keys and values a token;",
        f"- {gpu['name']}: {gpu['memory_bytes'] / 1e9:.0f} GB, of which {gpu['memory_share']:.0%} may be filled; "
        f"{gpu['bandwidth_share']:.0%} of {gpu['bytes_per_s'] / 1e12:g} TB/s, {gpu['flops_share']:.0%} of "
        f"{gpu['flops_per_s'] / 1e12:.0f} TFLOP/s; {1e3 * gpu['step_s']:g} ms a step beside that;",
        f"- robots: {settings['new_tokens']} new and {settings['plan_tokens']} plan tokens a call; the next call comes "
        f"{settings['period_s']:g} s after a plan on the average (uniform, half to one and a half of it);",
        f"- server: up to {server['most_calls']} calls and {server['step_tokens']:,} tokens in a step; "
        f"{settings['host_gb']:g} GB of the host's memory for robots that the GPU has no room for, over a link of "
        f"{server['link_bytes_per_s'] / 1e9:g} GB/s; what is in neither is read again.",
    ]
