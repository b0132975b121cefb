"""Engines on a model that is split over several processes: rank 0 leads, the others follow.

Rank 0 decides what is read and evicted, as with any engine. Each change of the stored keys, and each forward pass, is
told to the other ranks, which make it on their part of the keys. So all ranks store the same tokens. Scores by which
tokens are dropped inside a forward pass are computed on rank 0 and sent; attention weights are the mean over all heads.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from erecap.engines.newest_attention import collecting
from erecap.engines.protocol import EngineSettings
from erecap.engines.rope_lengths import follows_length
from erecap.engines.token_bytes import bytes_per_token
from erecap.engines.transformers import SUPPORTS, TransformersEngine
from erecap.errors import RunError
from erecap.parallel.ranks import TOGETHER, Ranks
from erecap.parallel.start import joined
from erecap.protocols import ScoreContext, TokenScorer
from erecap.tokens.scoring import probe
from erecap.tokens.scoring.schedule import PruneConfig
from erecap.tokens.scoring.scorers import make_scorer

_numbers = count(1)
_gone: list[int] = []  # engines of rank 0 that are no more; the others hear of it with the next message


class SharedScorer:
    """A scorer whose scores are computed on rank 0 alone; `scorer` is None on the others."""

    def __init__(self, ranks: Ranks, scorer: TokenScorer | None, needs_attention: bool) -> None:
        self.needs_attention = needs_attention
        self._ranks, self._scorer = ranks, scorer

    def score(self, layer: int, hidden: torch.Tensor, ctx: ScoreContext) -> torch.Tensor:
        """Scores `(batch, tokens)` of rank 0's scorer."""
        if self._scorer is None:
            return self._ranks.share(torch.empty(ctx.index.shape, dtype=torch.float32, device=hidden.device))
        return self._ranks.share(self._scorer.score(layer, hidden, ctx))


class LeadingEngine(TransformersEngine):
    """The engine of rank 0."""

    supports = SUPPORTS - {"packed weights", "share forward passes", "early exit", "some logits"}

    def __init__(self, model: Any, settings: EngineSettings | None = None) -> None:
        self._ranks = ranks = joined()
        if ranks.rank:
            raise ValueError(f"sessions on a split model are led by rank 0; rank {ranks.rank} calls follow(model)")
        settings = settings or EngineSettings()
        if settings.decode_weights != "same":
            raise ValueError("decode weights are packed where all weights are; a split model has 'same'")
        if follows_length(model) and not settings.evicts and settings.prune is None:
            raise ValueError(
                f"{type(model).__name__} has angles that follow the length of the text, which is read again where they "
                "change; a split model does so under a budget only"
            )
        self._number = next(_numbers)
        told = _as_json(settings)
        if settings.prune is not None and not isinstance(settings.prune.scorer, SharedScorer):
            scorer = make_scorer(settings.prune.scorer)
            shared = SharedScorer(ranks, scorer, scorer.needs_attention)
            settings = replace(settings, prune=replace(settings.prune, scorer=shared))
        with self._all("make", settings=told):
            super().__init__(model, settings)
        weakref.finalize(self, _gone.append, self._number).atexit = False

    @contextmanager
    def _all(self, do: str, **details: Any) -> Iterator[None]:
        """Tell all ranks what is done here within."""
        with self._ranks.together(), over_heads(self._ranks):
            gone = [_gone.pop() for _ in range(len(_gone))]
            self._ranks.tell({"do": do, "engine": self._number, "gone": gone, **details})
            yield

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token's keys and values on this rank."""
        whole = bytes_per_token(self.model, self.cache)
        return whole if any(layer.is_initialized for layer in self.cache.layers) else int(whole * _share(self.model))

    @property
    def why_fixed(self) -> str | None:
        """Reason why keys of this model cannot be rotated to other positions; None: they can."""
        if "_why_not_turned" in vars(self):
            return super().why_fixed
        with self._all("why fixed"):  # measured by forward passes
            return super().why_fixed

    def take_from(self, other: TransformersEngine) -> None:
        """Become a fork of `other`, on all ranks."""
        assert isinstance(other, LeadingEngine), "engines of one model are of one kind"
        with other._all("fork", into=self._number):
            super().take_from(other)

    def reset(self) -> None:
        """Free all keys and values, on all ranks."""
        with self._all("reset"):
            super().reset()

    def forward_alone(self, ids: Sequence[int], keep: int, decode: bool) -> torch.Tensor:
        """As `TransformersEngine.forward_alone`, on all ranks."""
        armed, spans = self.cache.orders
        protected = None if spans is None else [[int(start), int(end)] for start, end in spans]
        order = {"ids": [int(token) for token in ids], "keep": keep, "decode": decode}
        collect = probe.current.collect is not None
        with self._all("forward", **order, armed=armed, protected=protected, collect=collect):
            return super().forward_alone(ids, keep, decode)

    def _rollback(self, to: int) -> None:
        with self._all("rollback", to=int(to)):
            super()._rollback(to)

    def skip(self, tokens: int, gap: bool) -> None:
        """Count tokens as read without storing them, on all ranks."""
        with self._all("skip", tokens=int(tokens), gap=gap):
            super().skip(tokens, gap)

    def evict(self, gone: Sequence[Sequence[int] | np.ndarray]) -> int:
        """Drop keys and values, on all ranks."""
        with self._all("evict", indices=[[int(index) for index in group] for group in gone]):
            return super().evict(gone)

    def reposition(self) -> None:
        """Give the stored tokens consecutive positions, on all ranks."""
        with self._all("reposition"):
            super().reposition()

    def revive(self, span: tuple[int, int] | None) -> int:
        """Bring parked tokens back into the deeper layers, on all ranks."""
        with self._all("revive", span=None if span is None else [int(place) for place in span]):
            return super().revive(span)

    def save(self, path: Path, arrays: Mapping[str, np.ndarray], known: Mapping[str, Any]) -> None:
        """Each rank holds a part of the keys, so nothing is saved."""
        raise RunError(f"{path.name}: {self._no_file()}")

    def restore(self, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """As `save`."""
        raise RunError(f"{path.name}: {self._no_file()}")

    def _no_file(self) -> str:
        return f"a session on a model that is split over {self._ranks.size} processes is neither saved nor restored"


class FollowingEngine(TransformersEngine):
    """The engine of another rank, which does what rank 0 says."""

    def __init__(self, model: Any, settings: EngineSettings) -> None:
        with over_heads(joined()):
            super().__init__(model, settings)

    def follow(self, message: Mapping[str, Any]) -> None:
        """Do what one message says."""
        do = message["do"]
        with over_heads(joined()):
            if do == "forward":
                spans = message["protected"]
                self.cache.orders = message["armed"], spans and [(start, end) for start, end in spans]
                with self.attached(), collecting(message["collect"]):
                    self.forward_alone(message["ids"], message["keep"], message["decode"])
            elif do == "rollback":
                self._rollback(message["to"])
            elif do == "skip":
                self.skip(message["tokens"], message["gap"])
            elif do == "evict":
                self.evict(message["indices"])
            elif do == "revive":
                self.revive(None if message["span"] is None else tuple(message["span"]))
            elif do == "reposition":
                self.reposition()
            elif do == "reset":
                self.reset()
            elif do == "why fixed":
                assert self.why_fixed is None or self.why_fixed
            else:
                raise RunError(f"rank 0 asks for {do!r}, which is no order")


def follow(model: Any) -> None:
    """Do what rank 0 says, until it ends.

    Raises:
        RankLost: rank 0, or another one, is gone.
    """
    ranks, engines = joined(), dict[int, FollowingEngine]()
    while True:
        message = ranks.hear()
        if message["do"] == "end":
            return
        for number in message["gone"]:
            engines.pop(number, None)
        number = message["engine"]
        with ranks.together():
            # Errors that every rank meets at the same place are told by rank 0; a rank that fails alone ends.
            with suppress(*TOGETHER):
                if message["do"] == "make":
                    engines[number] = FollowingEngine(model, _from_json(message["settings"], ranks))
                elif message["do"] == "fork":
                    engines[message["into"]].take_from(engines[number])
                else:
                    engines[number].follow(message)


@contextmanager
def over_heads(ranks: Ranks) -> Iterator[None]:
    """Within, attention weights by which tokens are ranked are the mean over the heads of all ranks."""
    before, probe.current.over_heads = probe.current.over_heads, ranks.over_heads
    try:
        yield
    finally:
        probe.current.over_heads = before


def _as_json(settings: EngineSettings) -> dict[str, Any]:
    prune = settings.prune
    known = {**asdict(replace(settings, prune=None, evict_by="recency")), "prune": None}
    # Scores of read tokens are taken on rank 0 alone, which evicts; attention weights need all heads.
    known["evict_by"] = settings.evict_by if settings.evict_by == "attention" else "recency"
    if prune is not None:
        by_attention = make_scorer(prune.scorer).needs_attention
        known["prune"] = {**asdict(replace(prune, scorer="recency")), "scorer": by_attention}
    return known


def _from_json(known: dict[str, Any], ranks: Ranks) -> EngineSettings:
    prune = known.pop("prune")
    if prune is not None:
        stages = prune.pop("stages")
        scorer = SharedScorer(ranks, None, prune.pop("scorer"))
        prune = PruneConfig(scorer=scorer, stages=None if stages is None else tuple(stages), **prune)
    return EngineSettings(prune=prune, **known)


def _share(model: Any) -> float:
    """This rank's part of the key heads."""
    for name, weight in model.named_parameters():
        if name.endswith("k_proj.weight") and hasattr(weight, "to_local"):
            return float(weight.to_local().shape[0] / weight.shape[0])
    return 1.0
