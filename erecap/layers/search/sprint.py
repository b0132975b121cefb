"""SPRINT: the sublayer whose removal the next MLP can make good best, over the time that it takes.

Park et al., Accurate Sublayer Pruning for Large Language Models by Exploiting Latency and Tunability Information, 2025.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import nn

from erecap.errors import ModelError, RunError
from erecap.layers.search.change import Change
from erecap.layers.search.checkpoints import Walk
from erecap.layers.search.options import uses
from erecap.layers.search.ridge import Ridge
from erecap.layers.search.search import Search, set_weight
from erecap.layers.search.steps import Step, Sublayer, sublayers_of
from erecap.layers.search.streams import ATTRIBUTES, Batch, without

PROJECTIONS = {"attention": "o_proj", "mlp": "down_proj"}


class Anchor(NamedTuple):
    """The sublayer behind which hidden states are compared; None: the end of the model."""

    sublayer: Sublayer | None


@uses(
    "metric", "over", "latency_aware", "phase", "tune", "ratio", "damping", "candidates", "checkpoints", "batch_tokens"
)  # fmt: skip
def sprint(search: Search) -> Iterator[Step]:
    """Remove one sublayer a step, and tune the next sublayer of a kind in `tune`.

    A step computes for every sublayer the relative change behind the next MLP, over the latency that its removal saves.
    The best few are tuned: that MLP's down projection is solved anew by ridge least squares, so that the hidden states
    behind it match the dense model's, and the change is computed again. The best of them goes.

    Scores stand in the notes of a step. Those of sublayers that what was changed lies behind hold for the next step.
    """
    with torch.no_grad():
        state = _Sprint(search)
        while search.removable():
            yield state.step()
            state.after(search.steps[-1])


class _Sprint:
    def __init__(self, search: Search) -> None:
        self.search, self.options = search, search.options
        count = self.options.checkpoints
        self.dense = Walk(search.streams, search.dense, count)
        self.thin = Walk(search.streams, search.changed, count)
        self.scores: dict[Sublayer, float] = {}  # change without that sublayer
        self.tuned: dict[Sublayer, float] = {}  # and with the weight that was solved anew
        self._tuned_weights: dict[Sublayer, dict[str, torch.Tensor]] = {}  # of this step
        if self.options.tune:
            with search.uncounted():
                _check_sums(search)
        if search.steps:
            last = search.steps[-1]
            self.scores, self.tuned = (_scores(last, part) for part in ("scores", "tuned"))
            self.after(last)
            with search.uncounted():
                self.dense.fill(search.layers)
                self.thin.fill(last.removed[0].layer)

    def step(self) -> Step:
        """The best sublayer to remove now."""
        self._tuned_weights = {}
        candidates = self.search.removable()
        self._score([one for one in candidates if one not in self.scores])
        best = sorted(candidates, key=lambda one: (self._value(one, self.scores[one]), one))
        if self.options.tune:
            best = best[: self.options.candidates]
            for one in best:
                if one not in self.tuned and self.anchor(one).sublayer is not None:
                    self.tuned[one] = self._fit(one)
                    self.search.count(1)
        chosen = min(best, key=lambda one: (self._value(one, self._best(one)), one))
        tuned: dict[str, torch.Tensor] = {}
        if self.tuned.get(chosen, float("inf")) < self.scores[chosen]:
            if chosen not in self._tuned_weights:  # it was scored at an earlier step
                self._fit(chosen)
            tuned = self._tuned_weights[chosen]
        notes = {
            "scores": {str(one): self.scores[one] for one in candidates},
            "tuned": {str(one): value for one, value in sorted(self.tuned.items())},
        }
        return Step((chosen,), self._value(chosen, self._best(chosen)), tuned, notes)

    def after(self, step: Step) -> None:
        """Forget the scores and hidden states that a step has made wrong."""
        (gone,) = step.removed
        out = {sublayer for one in self.search.steps[:-1] for sublayer in one.removed}
        before = [sublayer for sublayer in sublayers_of(self.search.layers) if sublayer not in out]
        for scores in (self.scores, self.tuned):
            for one in list(scores):
                anchor = self.anchor(one, before).sublayer
                if anchor is None or anchor >= gone:
                    del scores[one]
        self.thin.changed(gone.layer)
        self.dense.rest()

    def anchor(self, sublayer: Sublayer, live: Sequence[Sublayer] | None = None) -> Anchor:
        """The next sublayer that can make good for this one: of a kind that is tuned, else an MLP."""
        kinds = self.options.tune or ("mlp",)
        behind = (one for one in live or self.search.live() if one > sublayer and one.kind in kinds)
        return Anchor(next(behind, None))

    def _best(self, sublayer: Sublayer) -> float:
        return min(self.scores[sublayer], self.tuned.get(sublayer, float("inf")))

    def _value(self, sublayer: Sublayer, change: float) -> float:
        return change / self.search.latency.of(sublayer.kind) if self.options.latency_aware else change

    def _score(self, sublayers: Sequence[Sublayer]) -> None:
        """Compute the change without each of these, batch by batch, walking through the layers once."""
        changes = {one: Change(self.options.metric, self.options.over) for one in sublayers}
        for number in range(len(self.search.streams.batches)):
            for one in sublayers:
                dense, thin = self._both(number, one)
                changes[one].add(dense, thin)
            self.thin.rest()
            self.dense.rest()
        self.scores |= {one: _finite(change.value(), one) for one, change in changes.items()}
        self.search.count(len(sublayers))

    def _both(self, number: int, sublayer: Sublayer) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states behind the anchor of `sublayer`: of the dense model, and of the changed one without it."""
        batch, anchor = self.search.streams.batches[number], self.anchor(sublayer)
        stream = self.thin.at(number, sublayer.layer)
        with without(self.search.changed, [sublayer]):
            thin = self._to(self.search.changed, batch, stream, sublayer.layer, anchor)
        place = anchor.sublayer
        if place is None or place.kind == "mlp":
            return self.dense.at(number, self.search.layers if place is None else place.layer + 1), thin
        return self._to(self.search.dense, batch, self.dense.at(number, place.layer), place.layer, anchor), thin

    def _to(
        self, layers: nn.ModuleList, batch: Batch, stream: torch.Tensor, first: int, anchor: Anchor
    ) -> torch.Tensor:
        """Hidden states behind an anchor, from those in front of layer `first`."""
        run, place = self.search.streams.run, anchor.sublayer
        if place is None or place.kind == "mlp":
            return run(layers, batch, stream, first, self.search.layers if place is None else place.layer + 1)
        stream = run(layers, batch, stream, first, place.layer)
        with without(layers, [Sublayer(place.layer, "mlp")]):
            return run(layers, batch, stream, place.layer, place.layer + 1)

    def _fit(self, sublayer: Sublayer) -> float:
        """Solve the projection of the anchor anew, keep the weight, and return the change with it."""
        anchor = self.anchor(sublayer).sublayer
        assert anchor is not None, "only what has an anchor is tuned"
        projection, name = _projection(self.search.changed, anchor)
        ridge = Ridge(projection.in_features, projection.out_features, projection.weight.device)
        batches = range(len(self.search.streams.batches))
        for number in batches:
            with _inputs(projection) as seen:
                dense, thin = self._both(number, sublayer)
            weights = self._weights_of(dense)
            ridge.add((seen[-1].float() * weights).flatten(0, 1), ((dense - thin).float() * weights).flatten(0, 1))
        self.search.streams.work += (
            ridge.rows * projection.in_features * (projection.in_features + projection.out_features)
        )
        old = projection.weight
        weight = (old.double() + ridge.solve(self.options.damping, self.options.ratio)).to(old.dtype)
        change = Change(self.options.metric, self.options.over)
        set_weight(self.search.changed, name, weight)
        try:
            for number in batches:
                change.add(*self._both(number, sublayer))
        finally:
            projection.weight = old
            self.thin.rest()
            self.dense.rest()
        self._tuned_weights[sublayer] = {name: weight}
        return _finite(change.value(), sublayer)

    def _weights_of(self, dense: torch.Tensor) -> torch.Tensor:
        """Weights `(sequences, tokens or 1, 1)` of the tokens in least squares, as the metric weighs them.

        The first token of a sequence has hidden states hundreds of times as long as the others' in many models; by
        tokens, each one's error counts relative to its own length.
        """
        if self.options.over == "token":
            return dense.float().norm(dim=2, keepdim=True).clamp_min(1e-6).reciprocal()
        if self.options.over == "sentence":
            return dense.float().flatten(1).norm(dim=1).clamp_min(1e-6).reciprocal()[:, None, None]
        return dense.new_ones(len(dense), 1, 1, dtype=torch.float32)


def _scores(step: Step, part: str) -> dict[Sublayer, float]:
    """The scores in the notes of an earlier run."""
    try:
        return {Sublayer.parse(name): float(value) for name, value in step.notes[part].items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"the notes of the last step are no scores of sprint ({error}); --fresh starts anew") from error


def _finite(value: float, sublayer: Sublayer) -> float:
    if not isfinite(value):
        raise RunError(f"without {sublayer}, hidden states are not finite; try --dtype float32")
    return value


def _projection(layers: nn.ModuleList, sublayer: Sublayer) -> tuple[nn.Linear, str]:
    """The output projection of a sublayer, and the name of its weight."""
    part, last = ATTRIBUTES[sublayer.kind], PROJECTIONS[sublayer.kind]
    found = getattr(getattr(layers[sublayer.layer], part), last, None)
    if type(found) is not nn.Linear:
        raise ModelError(f"{sublayer} has no plain linear {last}, so it cannot be tuned; use --tune none")
    return found, f"layers.{sublayer.layer}.{part}.{last}.weight"


@contextmanager
def _inputs(projection: nn.Linear) -> Iterator[list[torch.Tensor]]:
    """Within, the inputs of `projection` go into the list."""
    seen: list[torch.Tensor] = []
    handle = projection.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        handle.remove()


def _check_sums(search: Search) -> None:
    """Refuse a model that does more with the output of a projection than add it to the hidden states.

    Raises:
        ModelError: such a model, where least squares give no weight.
    """
    batch, name = search.streams.batches[0], type(search.model).__name__
    for sublayer in sublayers_of(search.layers)[:2]:
        if sublayer.kind not in search.options.tune:
            continue
        projection, _ = _projection(search.dense, sublayer)
        outputs: list[Any] = []
        handle = projection.register_forward_hook(lambda module, args, output, kept=outputs: kept.append(output))
        others = [one for one in sublayers_of(1) if one != sublayer and one > sublayer]
        try:
            with without(search.dense, others):
                whole = search.streams.run(search.dense, batch, batch.stream, 0, 1)
        finally:
            handle.remove()
        with without(search.dense, [*others, sublayer]):
            rest = (
                batch.stream
                if sublayer.kind == "attention"
                else search.streams.run(search.dense, batch, batch.stream, 0, 1)
            )
        apart = float((whole - rest - outputs[0]).abs().amax() / outputs[0].abs().amax().clamp_min(1e-12))
        if not apart <= (1e-3 if search.model.dtype in (torch.float32, torch.float64) else 0.1):
            raise ModelError(
                f"{name} changes the output of its {sublayer.kind} before it is added, so no least squares tune it; "
                "use --tune none"
            )
