"""Runs a method step by step until its target is reached, and keeps every step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from erecap.errors import ConfigError, RunError
from erecap.layers.plan import LayerPlan
from erecap.layers.search.folder import Row, SearchFolder
from erecap.layers.search.held_out import HeldOut
from erecap.layers.search.latencies import Latencies
from erecap.layers.search.search import Search
from erecap.registries import LAYER_SEARCHES


@dataclass(frozen=True)
class Target:
    """The end of a search: sublayers that are out, or a predicted speed-up; one of the two.

    Raises:
        ConfigError: none or both, or a number out of range.
    """

    sublayers: int | None = None
    speed_up: float | None = None

    def __post_init__(self) -> None:
        if (self.sublayers is None) == (self.speed_up is None):
            raise ConfigError("name the target of the search: --sublayers or --speed-up, one of the two")
        if self.sublayers is not None and self.sublayers < 1:
            raise ConfigError(f"--sublayers: got {self.sublayers}; allowed: 1 or more")
        if self.speed_up is not None and not 1 < self.speed_up < float("inf"):
            raise ConfigError(f"--speed-up: got {self.speed_up:g}; allowed: above 1")

    def check(self, layers: int, latency: Latencies | None) -> None:
        """Raise ConfigError for a target that no plan of a model of `layers` layers reaches."""
        most = LayerPlan(layers, blocks=tuple(range(layers - 1)), mlp=(layers - 1,))
        if self.sublayers is not None and self.sublayers > most.sublayers:
            raise ConfigError(
                f"--sublayers: got {self.sublayers}; allowed: 1 to {most.sublayers}, as one attention is left at least"
            )
        if self.speed_up is not None:
            assert latency is not None, "a search for a speed-up has latencies"
            if self.speed_up > latency.speed_up(most):
                raise ConfigError(
                    f"--speed-up: got {self.speed_up:g}; with one attention left it would be "
                    f"{latency.speed_up(most):.2f}, as embeddings, norms and head stay"
                )

    def reached(self, plan: LayerPlan, latency: Latencies | None) -> bool:
        """Return True if a plan is enough."""
        if self.sublayers is not None:
            return plan.sublayers >= self.sublayers
        return latency is not None and self.speed_up is not None and latency.speed_up(plan) >= self.speed_up


def find(
    search: Search,
    method: str,
    folder: SearchFolder,
    target: Target,
    *,
    held_out: HeldOut | None = None,
    every: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Make steps until the target is reached; those that lie in `folder` are carried out, and not searched again.

    Args:
        search: without a step; with the latencies of `folder`.
        method: a name of `erecap.registries.LAYER_SEARCHES`.
        folder: after its `begin`.
        held_out: judges every `every`-th step, and the dense model; None: nothing does.

    Raises:
        ConfigError: a target that cannot be reached.
        RunError: the steps in `folder` do not fit the model, or nothing is left to remove.
    """
    latency = search.latencies.get(search.options.phase)
    target.check(search.layers, latency)
    for made in folder.steps():
        try:
            search.add(made)
        except ValueError as error:
            raise RunError(f"{folder.path}: {error}; {folder.anew}") from error
    if search.steps:
        say(f"{len(search.steps)} steps are there already, and are kept")
    if not folder.rows:
        dense = dict.fromkeys(search.latencies, 1.0)
        folder.add(Row(step=0, predicted=dense, evaluation=None if held_out is None else held_out.dense))
    steps = LAYER_SEARCHES.get_or_refuse(method, "method")(search)
    while not target.reached(search.plan(), latency):
        started, evaluations, work = time.perf_counter(), search.evaluations, search.work
        step = next(steps, None)
        if step is None:
            raise RunError(f"{method}: nothing is left to remove after {len(search.steps)} steps; {_words(target)}")
        spent = time.perf_counter() - started
        passes = search.passes_of(search.work - work)
        step = replace(step, evaluations=search.evaluations - evaluations, passes=passes, seconds=spent)
        search.add(step)
        number, plan = len(search.steps), search.plan()
        judged = held_out.judge(search.thin) if held_out is not None and number % every == 0 else None
        row = Row(
            step=number,
            removed=[str(sublayer) for sublayer in step.removed],
            score=step.score,
            evaluations=step.evaluations,
            passes=step.passes,
            seconds=round(step.seconds, 3),
            predicted={phase: one.speed_up(plan) for phase, one in search.latencies.items()},
            evaluation=judged,
            notes=dict(step.notes),
        )
        folder.add(row, step.tuned)
        say(f"{number}: {_line(row)}")


def _line(row: Row) -> str:
    parts = [f"without {' and '.join(row.removed)}"]
    parts += [f"{phase} {value:.3f}x" for phase, value in row.predicted.items()]
    if row.evaluation is not None:
        parts.append(f"perplexity {row.evaluation['perplexity']:.3f}")
        parts.append(f"same next token {100 * row.evaluation['agreement']:.1f} %")
    return ", ".join(parts)


def _words(target: Target) -> str:
    wanted: Any = f"{target.sublayers} sublayers" if target.sublayers is not None else f"{target.speed_up:g}x"
    return f"the target of {wanted} is not reached"
