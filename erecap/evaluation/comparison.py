"""Figures of an evaluation: each subject's, and its paired difference from the dense model, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from erecap.errors import RunError
from erecap.generation import JsonRow
from erecap.report.page.summary import RESULT_EPISODES
from erecap.report.stats import Interval, bootstrap_ratio

Shape = Literal["ratio", "exponential"]


@dataclass(frozen=True)
class Measure:
    """A figure that is a ratio of two sums over items, such as nats over tokens."""

    name: str
    unit: str
    top: str  # key of an item's values
    over: str | None = None  # key of what the sum is divided by; None: the number of items
    scale: float = 1.0
    exponential: bool = False  # the figure is e to the ratio, and differences are factors
    better: Literal["higher", "lower"] = "lower"
    digits: int = 2
    only_changed: bool = False  # of the dense model it says nothing

    def figure(self, items: Sequence[JsonRow], seed: int) -> Interval | None:
        """The figure of one subject; None without items."""
        return self._shown(bootstrap_ratio([self._pair(item) for item in items], seed=seed))

    def difference(self, items: Sequence[JsonRow], dense: Sequence[JsonRow], seed: int) -> Interval | None:
        """The paired difference from the dense model: added, or as a factor where the figure is exponential."""
        pairs = []
        for item, other in zip(items, dense, strict=True):
            (top, over), (dense_top, dense_over) = self._pair(item), self._pair(other)
            if over != dense_over:
                raise RunError(f"{self.name}: {over:g} and {dense_over:g} {self.over} of one item cannot be paired")
            pairs.append((top - dense_top, over))
        return self._shown(bootstrap_ratio(pairs, seed=seed))

    def _pair(self, item: JsonRow) -> tuple[float, float]:
        return float(item[self.top]), 1.0 if self.over is None else float(item[self.over])

    def _shown(self, ratio: Interval | None) -> Interval | None:
        if ratio is None:
            return None
        ends = [self.scale * value for value in (ratio.value, ratio.low, ratio.high)]
        if self.exponential:
            ends = [math.exp(min(end, 700.0)) for end in ends]  # above, no number holds it
        return Interval(*ends)


@dataclass(frozen=True)
class Measured:
    """One subject's values: for each item a row, or None where it was passed over."""

    name: str
    facts: JsonRow
    items: Sequence[JsonRow | None]


def compare(measures: Sequence[Measure], subjects: Sequence[Measured], seed: int = 0) -> list[JsonRow]:
    """Figures of all subjects, each over the items that every subject has; the first subject is the dense model.

    Raises:
        RunError: no item is left.
    """
    together = [rows for rows in zip(*(subject.items for subject in subjects), strict=True) if None not in rows]
    if not together:
        raise RunError("evaluate: no item was measured with all subjects, so there is nothing to compare")
    found = []
    for number, subject in enumerate(subjects):
        items = [row for rows in together if (row := rows[number]) is not None]
        kept = [item["kept"] for item in items if item.get("kept") is not None]
        found.append(
            {
                "name": subject.name,
                **subject.facts,
                "n": len(items),
                "passed_over": len(subject.items) - len(items),
                "kept": round(sum(kept) / len(kept), 4) if kept else None,
                "figures": {
                    measure.name: figure
                    for measure in measures
                    if (figure := _figure(measure, together, number, seed)) is not None
                },
            }
        )
    return found


def _figure(measure: Measure, together: Sequence[Sequence[JsonRow | None]], number: int, seed: int) -> JsonRow | None:
    """A measure of the subject of that number; None where it says nothing of it."""
    if measure.only_changed and number == 0:
        return None
    pairs = [
        (own, dense)
        for rows in together
        if (own := rows[number]) is not None and (dense := rows[0]) is not None and measure.top in own
    ]
    items, others = [own for own, _ in pairs], [dense for _, dense in pairs]
    figure: JsonRow = {**_json(measure.figure(items, seed)), "n": len(items), "label": label(len(items))}
    if number and not measure.only_changed:
        figure["against_dense"] = _json(measure.difference(items, others, seed))
    return figure


def label(items: int) -> str:
    """Weight of figures of that many items."""
    return "result" if items >= RESULT_EPISODES else "smoke"


def _json(interval: Interval | None) -> JsonRow:
    if interval is None:
        return {"value": None, "low": None, "high": None}
    return {key: float(f"{getattr(interval, key):.6g}") for key in ("value", "low", "high")}


def measure_all(
    subjects: Sequence[Any],
    items: Sequence[Any],
    ask: Callable[[Any, Any], JsonRow | None],
    say: Callable[[str], None],
) -> list[list[JsonRow | None]]:
    """Ask every subject about every item, subjects in turn; for each subject a list in the order of items."""
    found: list[list[JsonRow | None]] = [[] for _ in subjects]
    for number, item in enumerate(items, start=1):
        for subject, rows in zip(subjects, found, strict=True):
            rows.append(ask(subject, item))
        say(f"{number} of {len(items)}")
    return found
