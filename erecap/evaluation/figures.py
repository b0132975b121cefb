"""Figures of the committed episodes: success by mode, and Q1 to Q5 with their targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from erecap.budget import budget_order
from erecap.evaluation.groups import Episodes, Played, apart_figures, budget_figures, group_figures
from erecap.evaluation.rows import AgreementRow, QualityRow, require_one_planner
from erecap.generation import JsonRow
from erecap.report.stats import RESAMPLES, Interval, bootstrap_mean, mean, rate
from erecap.targets import targets_of

SINGLE, CHAIN = "household-unseen", "household-chains-unseen"
UNPRUNED, OURS = "reuse", "erecap"
CONTROLS = ("recency", "random", "attention", "mask")
BUDGET = 1024  # tokens; the budget by which the targets are judged
NON_INFERIOR = -5.0  # points; "non-inferior" needs the low end of the interval above this
MEASURES = {"SR": "success", "SPL": "spl"}
OTHER_BUDGETS = {"Q5-512": 512, "Q5-2048": 2048}
TARGETS = targets_of("quality")


def summarise_quality(
    rows: list[QualityRow], agreement: list[AgreementRow], about: JsonRow, *, seed: int = 0
) -> dict[str, Any]:
    """The content of `docs/results/quality.json`.

    Args:
        rows, agreement: what was measured; figures that they do not suffice for have no row.
        about: `command`, `machine` (as text) and `date` of the measurement.
        seed: of the bootstrap.

    Raises:
        RunError: rows of two planners.
    """
    require_one_planner(rows, agreement)
    episodes, inside = Episodes(rows), Episodes(rows, within_window=True)
    within = [figure for part in _FIGURES for figure in part(inside, seed)]
    figures = [figure for part in _FIGURES for figure in part(episodes, seed)]
    figures = [_beside(figure, within) for figure in figures] + _inside(inside, seed) + _agreement(agreement, seed)
    figures.sort(key=lambda figure: list(TARGETS).index(figure["id"]))
    groups = sorted({(row.suite, row.mode, row.budget) for row in rows}, key=lambda g: (g[0], g[1], budget_order(g[2])))
    return {
        "rows": [{**figure, **about} for figure in figures],
        "modes": [group_figures(episodes, *group) for group in groups],
        "budgets": budget_figures(episodes, CHAIN, UNPRUNED),
        "apart": [apart_figures(episodes, suite) for suite in sorted({suite for suite, _ in episodes.apart})],
    }


def figure_row(name: str, interval: Interval, n: int, note: str, *, holds: bool | None = None) -> JsonRow:
    """A row for `TARGETS[name]`; `holds` where more than the point estimate counts. Few episodes judge nothing."""
    target = TARGETS[name]
    reached = target.holds(interval.value) if holds is None else holds
    enough = n >= target.n
    return {
        "id": name,
        "row": None,  # quality is played in one precision
        "target": str(target),
        "measured": round(interval.value, 2),
        "low": round(interval.low, 2),
        "high": round(interval.high, 2),
        "unit": target.unit,
        "n": n,
        "holds": reached and enough,
        "label": "result" if enough else "smoke",
        "note": note,
    }


def _beside(figure: JsonRow, within: Sequence[JsonRow]) -> JsonRow:
    """`figure`, and in its note what it is without the episodes that outgrew the window, if there are any."""
    same = next((other for other in within if other["id"] == figure["id"]), None)
    if same is None or same["n"] == figure["n"]:
        return figure
    interval = f"{same['measured']:g} ({same['low']:g} to {same['high']:g})"
    also = f"{interval} in the {same['n']} that stayed within the model's window"
    return {**figure, "note": "; ".join(filter(None, (figure["note"], also)))}


def _success(episodes: Episodes, seed: int) -> list[JsonRow]:
    found = []
    for name, suite in (("Q1a", SINGLE), ("Q1b", CHAIN)):
        played = list(episodes.counted(suite, UNPRUNED, None).values())
        share = rate(sum(row.success for row in played), len(played))
        if share is None:
            continue
        expert = list(episodes.counted(suite, "expert", None).values())
        beside = mean([row.success for row in expert])
        note = "" if beside is None else f"the expert: {100 * beside:.1f} % of {len(expert)}"
        found.append(figure_row(name, _times_100(share), len(played), note))
    return found


def _paired(episodes: Episodes, seed: int) -> list[JsonRow]:
    found = []
    for kind, suite in (("single", SINGLE), ("chain", CHAIN)):
        unpruned, ours = episodes.counted(suite, UNPRUNED, None), episodes.counted(suite, OURS, BUDGET)
        for measure in MEASURES:
            found += _non_inferior(f"Q2-{kind}-{measure}", ours, unpruned, measure, seed)
    return found


def _inside(episodes: Episodes, seed: int) -> list[JsonRow]:
    """Q2-in, from episodes that stayed within the window."""
    unpruned, ours = episodes.counted(CHAIN, UNPRUNED, None), episodes.counted(CHAIN, OURS, BUDGET)
    return _non_inferior("Q2-in", ours, unpruned, "SR", seed)


def _other_budgets(episodes: Episodes, seed: int) -> list[JsonRow]:
    """Q5: ours minus `recency` at other budgets."""
    found = []
    for name, budget in OTHER_BUDGETS.items():
        ours = episodes.counted(CHAIN, OURS, budget)
        pairs, difference = compare(ours, episodes.counted(CHAIN, "recency", budget), "SR", seed)
        if difference is not None:
            found.append(figure_row(name, difference, pairs, _ranked_by(ours)))
    return found


def _non_inferior(name: str, ours: Played, unpruned: Played, measure: str, seed: int) -> list[JsonRow]:
    """One figure of Q2; none where no episode was played in both modes."""
    pairs, difference = compare(ours, unpruned, measure, seed)
    if difference is None:
        return []
    note = f"{_judged(difference, pairs, TARGETS[name].n)}; {_ranked_by(ours)}"
    return [figure_row(name, difference, pairs, note)]


def _judged(difference: Interval, pairs: int, needed: int) -> str:
    if pairs < needed:
        return "too few episodes to call it non-inferior or not"
    if difference.low > NON_INFERIOR:
        return f"non-inferior (low end above {NON_INFERIOR:g})"
    return f"not shown to be non-inferior (low end not above {NON_INFERIOR:g})"


def _best(episodes: Episodes, seed: int) -> list[JsonRow]:
    """Q3, by the measure in which it does better; it holds only if the interval lies above 0, too."""
    ours = episodes.counted(CHAIN, OURS, BUDGET)
    controls = {mode: episodes.counted(CHAIN, mode, BUDGET) for mode in CONTROLS}
    common = set(ours).intersection(*controls.values())
    if not common:
        return []
    ours = {number: ours[number] for number in common}
    compared = []
    for measure, key in MEASURES.items():
        means = {mode: np.mean([float(getattr(rows[n], key)) for n in common]) for mode, rows in controls.items()}
        best = max(means, key=lambda mode: (means[mode], -CONTROLS.index(mode)))
        difference = compare(ours, controls[best], measure, seed)[1]
        assert difference is not None, "there are common episodes"
        compared.append((measure, best, float(100 * means[best]), difference))
    compared.sort(key=lambda entry: -entry[3].value)
    (measure, best, level, difference), (other, against, _, rest) = compared
    note = (
        f"{measure}, against `{best}` with {level:.1f}; {other}: {rest.value:+.1f} ({rest.low:+.1f} to "
        f"{rest.high:+.1f}) against `{against}`; {_ranked_by(ours)}"
    )
    holds = bool(TARGETS["Q3"].holds(difference.value)) and difference.low > 0
    return [figure_row("Q3", difference, len(common), note, holds=holds)]


def compare(ours: Played, theirs: Played, measure: str, seed: int) -> tuple[int, Interval | None]:
    """Pairs, and the mean of ours minus theirs over them in points, with its 95 % bootstrap interval."""
    key, both = MEASURES[measure], sorted(ours.keys() & theirs.keys())
    differences = [100 * (float(getattr(ours[n], key)) - float(getattr(theirs[n], key))) for n in both]
    return len(both), bootstrap_mean(differences, seed=seed)


def _agreement(rows: Sequence[AgreementRow], seed: int) -> list[JsonRow]:
    own = [row for row in rows if row.suite == CHAIN and row.budget == BUDGET]
    if not own:
        return []
    agreed, total = (np.array([getattr(row, key) for row in own], float) for key in ("agreed", "plan_tokens"))
    # Whole episodes are drawn: the tokens of one are not independent.
    draws = np.random.default_rng(seed).integers(len(own), size=(RESAMPLES, len(own)))
    low, high = np.percentile(100 * agreed[draws].sum(1) / total[draws].sum(1), [2.5, 97.5])
    value = Interval(float(100 * agreed.sum() / total.sum()), float(low), float(high))
    note = f"{int(total.sum()):,} tokens of {sum(row.plans for row in own):,} plans; {_ranked_by({0: own[0]})}"
    return [figure_row("Q4", value, len(own), note)]


def _ranked_by(rows: Any) -> str:
    pruner = next(iter(rows.values())).pruner
    return f"learned pruner {pruner}" if pruner else "without a learned pruner"


_FIGURES = (_success, _paired, _best, _other_budgets)


def _times_100(interval: Interval) -> Interval:
    return Interval(100 * interval.value, 100 * interval.low, 100 * interval.high)
