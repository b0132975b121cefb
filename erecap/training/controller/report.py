"""The report of a training: Markdown with tables, and plots."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from erecap.files import write_atomic
from erecap.generation import JsonRow
from erecap.training.controller.evaluation import BEST_FIXED, BLIND, CONTROLLER, ORACLE, RANDOM, Tested
from erecap.training.controller.loads import IDLE
from erecap.training.controller.table import Table, summary
from erecap.training.controller.world import TableWorld

REPORT = "report.md"
BUSY_FROM = 0.25  # share of the processor that other programs took on the quiet machine
RESULT = 100  # held-out prompts from which on a comparison ranks anything
COLUMNS = {
    "reward": "reward", "latency_p50_ms": "P50, ms", "latency_p95_ms": "P95, ms", "late": "late", "agreement": "tokens",
    "whole_plans": "whole plans", "switches": "switches an episode", "switch_ms": "switching, ms a call",
}  # fmt: skip
_SHARES = ("late", "agreement", "whole_plans")


def write_report(folder: Path, about: JsonRow, world: TableWorld, tested: Tested) -> None:
    """Write `report.md`, `reward.png`, `actions.png` and `latency.png` into `folder`."""
    test, table = tested.test, world.table
    lines = [
        f"# Controller: {about['method']}",
        "",
        f"On {about['base']['name']}, {about['machine']}. {test['prompts']} held-out prompts in "
        f"{test['episodes']} episodes, {test['decisions']} decisions; {len(table.prompts) - test['prompts']} prompts "
        f"were trained on. SLO: {', '.join(f'{slo:,.0f}' for slo in about['slo_ms'])} ms.",
        "",
        verdict(test),
        "",
        "## Policies",
        "Figures on held-out prompts. *late*: calls over the SLO. *tokens*: of the reference plans, teacher-forced, "
        "for which the action chooses as the dense planner does; *whole plans*: all of them. Latency "
        "includes switching.",
        "",
        *_policies(tested.figures),
        "",
        "Mean reward of the controller minus that of others, by prompt, with the 95 % bootstrap interval over prompts:",
        "",
        "| minus | difference | low | high |",
        "|---|---|---|---|",
        *(
            f"| {name} | {row['value']:+.3f} | {row['low']:+.3f} | {row['high']:+.3f} |"
            for name, row in test["minus"].items()
        ),
        "",
        "![reward](reward.png)",
        "",
        "## Use of actions",
        f"{test['outside']:.0%} of the controller's decisions were in states far from those that it was trained on, "
        "where it takes the best fixed action.",
        "",
        *_use(tested.figures[CONTROLLER]["use"]),
        "",
        "![use of actions](actions.png)",
        "",
        "## Latency",
        "![latency](latency.png)",
        "",
        "## Off-policy estimate",
        *_estimate(test),
        "",
        "## What was measured",
        "Medians over all prompts: milliseconds of the call, of changing an open session, and of reading the "
        "conversation again in a new one.",
        "",
        *_measured(table),
        "",
        busy_words(table),
        "",
        "## Settings",
        "```json",
        *_json(about),
        "```",
    ]
    write_atomic(folder / REPORT, "\n".join(lines) + "\n")
    _draw_reward(folder, tested)
    _draw_use(folder, tested, world)
    _draw_latency(folder, tested, about["slo_ms"])


def verdict(test: Mapping[str, Any]) -> str:
    """The result in one or two sentences."""
    row, bound = test["minus"][BEST_FIXED], test["bound"]
    most = (
        f"An oracle that knows all outcomes gains {bound['value']:+.3f} ({bound['low']:+.3f} to "
        f"{bound['high']:+.3f}): the "
        "most that any controller could."
    )
    said = (
        f"Against the best fixed action (`{test['best_fixed']}`, chosen on the training prompts): "
        f"{row['value']:+.3f} reward ({row['low']:+.3f} to {row['high']:+.3f}, n = {test['prompts']} prompts"
        + (")." if test["prompts"] >= RESULT else f"; fewer than {RESULT}: a smoke test).")
    )
    if test["beats_best_fixed"]:
        return f"**The controller beats the best fixed action.** {said} {most}"
    return f"**The controller does not beat the best fixed action.** {said} {most}"


def _policies(figures: Mapping[str, JsonRow]) -> list[str]:
    rows = [f"| policy | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in figures.items():
        cells = [f"{row[key]:.1%}" if key in _SHARES else f"{row[key]:,.3f}" if key == "reward" else f"{row[key]:,.1f}"
                 for key in COLUMNS]  # fmt: skip
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def _use(use: Mapping[str, Mapping[str, float]]) -> list[str]:
    actions = list(next(iter(use.values())))
    rows = [f"| load | {' | '.join(actions)} |", "|---" * (len(actions) + 1) + "|"]
    return [*rows, *(f"| {load} | {' | '.join(f'{row[a]:.0%}' for a in actions)} |" for load, row in use.items())]


def _estimate(test: Mapping[str, Any]) -> list[str]:
    found = test["off_policy"]
    snips = "none matched" if found["snips"] is None else f"{found['snips']:.3f}"
    return [
        f"From {found['n']} decisions that were drawn uniformly on the held-out prompts, of which the controller would "
        f"have taken {found['matched']}. The true value is known here, since the table has all actions.",
        "",
        "| estimate | mean reward |",
        "|---|---|",
        f"| true value | {test['off_policy_truth']:.3f} |",
        f"| inverse propensity | {found['ips']:.3f} |",
        f"| inverse propensity, self-normalised | {snips} |",
        f"| reward model alone | {found['direct']:.3f} |",
        f"| doubly robust | {found['doubly_robust']:.3f} |",
    ]


def _measured(table: Table) -> list[str]:
    rows = summary(table)
    times = [f"{load} {part}" for load in table.loads for part in ("call", "edit", "reread")]
    lines = [f"| action | tokens | whole plans | {' | '.join(times)} |", "|---" * (len(times) + 3) + "|"]
    for row in rows:
        cells = [f"{row[f'{load}_{part}_ms']:,.0f}" for load in table.loads for part in ("call", "edit", "reread")]
        lines.append(f"| {row['action']} | {row['agreement']:.1%} | {row['whole_plans']:.1%} | {' | '.join(cells)} |")
    return lines


def busy_words(table: Table) -> str:
    """The share of the processor that other programs took under each load, and a warning where that was much."""
    shares = {
        load: [row.hardware["cpu_others"] for (_, under), row in table.times.items() if under == load]
        for load in table.loads
    }
    middle = {
        load: float(np.median(known))
        for load, found in shares.items()
        if (known := [s for s in found if s is not None])
    }
    if not middle:
        return "This machine does not tell what other programs take of its processor, so a controller cannot see it."
    said = (
        f"Other programs took {', '.join(f'{share:.0%} ({load})' for load, share in middle.items())} of the processor."
    )
    if middle.get(IDLE, 0.0) > BUSY_FROM:
        said += " This machine was busy beside it: times are rough, and the loads differ less than on a quiet one."
    return said


def _json(about: JsonRow) -> list[str]:
    import json

    return json.dumps(about, indent=2, ensure_ascii=False, sort_keys=True).splitlines()


def _figure(width: float = 7.0, height: float = 3.2) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _save(folder: Path, name: str, figure: Any) -> None:
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110, metadata={"Software": None})
    write_atomic(folder / name, image.getvalue())


def _draw_reward(folder: Path, tested: Tested) -> None:
    figure, axes = _figure()
    curve = np.asarray(tested.learned.curve)
    if len(curve):  # none where a trained controller is only tested
        width = max(1, len(curve) // 50)
        smooth = np.convolve(curve, np.ones(width) / width, mode="valid")
        axes.plot(np.arange(len(smooth)) + width, smooth, color="#3366aa", label="training, with exploration")
    for name, colour in ((CONTROLLER, "#3366aa"), (BEST_FIXED, "#cc7722"), (BLIND, "#559955"), (RANDOM, "#888888"),
                         (ORACLE, "#aa3355")):  # fmt: skip
        if name in tested.figures:
            axes.axhline(tested.figures[name]["reward"], color=colour, ls="--", lw=1, label=f"{name}, held out")
    axes.set(xlabel="decisions", ylabel="mean reward")
    axes.legend(frameon=False, fontsize=7)
    _save(folder, "reward.png", figure)


def _draw_use(folder: Path, tested: Tested, world: TableWorld) -> None:
    figure, axes = _figure()
    use = tested.figures[CONTROLLER]["use"]
    bottom = np.zeros(len(use))
    for action in (one.name for one in world.actions):
        values = np.array([row[action] for row in use.values()])
        axes.bar(list(use), values, bottom=bottom, label=action)
        bottom += values
    axes.set(ylabel="share of the controller's decisions", ylim=(0, 1))
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(folder, "actions.png", figure)


def _draw_latency(folder: Path, tested: Tested, slo_ms: Sequence[float]) -> None:
    figure, axes = _figure()
    for name in (CONTROLLER, BEST_FIXED, RANDOM, ORACLE):
        times = sorted(step.outcome.latency_ms for steps in tested.played[name] for step in steps)
        axes.step(times, (np.arange(len(times)) + 1) / len(times), where="post", label=name, lw=1.4)
    for slo in slo_ms:
        axes.axvline(slo, color="#444444", ls=":", lw=1)
    axes.set(xlabel="latency of a call with its switch, ms (dotted: SLO)", ylabel="share of calls", ylim=(0, 1))
    axes.legend(frameon=False, fontsize=7)
    _save(folder, "latency.png", figure)
