"""Tables of layer plans, slices and the controller: targets beside what was measured, and the front."""

from __future__ import annotations

from typing import Any

from erecap.evaluation.layer_front.output import front_table
from erecap.targets import targets_of

FILE = "layers"
PLOT = "results/layer-front.svg"


def layers_table(results: dict[str, Any]) -> str:
    """Markdown: the figures L1 to L5, then the front. `results`: what `make layers` wrote; {} before that."""
    lines = [
        "`make layers` ([how](finding-layers.md#the-front)). In brackets 95 % intervals over episodes or prompts, "
        "and of times the range of the rounds.",
        "",
        "| figure | id | target | measured | n |",
        "|---|---|---|---|---|",
    ]
    found = {row["id"]: row for row in results.get("rows", [])}
    for name, target in targets_of(FILE).items():
        lines.append(f"| {target.what} | {name} | {target} {target.unit} | {_measured(found.get(name))} |")
    notes = [f"- {row['id']}: {row['note']}." for row in found.values() if row["note"]]
    notes += [f"- {line}." for line in results.get("missing", [])]
    if notes:
        lines += ["", *notes]
    front = results.get("front")
    if front is not None:
        lines += ["", *_front(front)]
    return "\n".join(lines)


def _measured(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not measured yet | –"
    word = {True: "", False: f" **{row.get('verdict', 'short')}**", None: " smoke"}[row["holds"]]
    return f"{row['measured']:.4g} ({row['low']:.4g} to {row['high']:.4g}){word} | {row['n']}"


def _front(front: dict[str, Any]) -> list[str]:
    settings, model, data = front["settings"], front["model"], front["data"]["plans"]
    adapter = f" with {model['adapter']}" if model.get("adapter") else ""
    knee = "nothing agrees enough to be proposed" if front["knee"] is None else f"the knee is `{front['knee']}`"
    return [
        f"The front, {front['date']}, {model['name']}{adapter} in {model['dtype']} on {front['machine']['threads']} "
        f"threads: calibrated on {settings['count']} sequences of {settings['length']} tokens, {data['plans']} plans "
        f"of {data['episodes']} episodes compared, {settings['timed_calls']} planning calls timed beside the dense "
        f"model's. Speed-ups have the range of their rounds. `*`: nothing is both faster and closer (by "
        f"{settings['by']}); {knee}.",
        "",
        f'<img src="{PLOT}" alt="Plan agreement against the measured speed-up of planning calls" width="480">',
        "",
        front_table(front),
    ]
