"""Prefill and decode times of several models, measured in turn: a model beside itself with parts left out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache

from erecap.bench.replan.calls import steady, synchronise
from erecap.decoding.linear import Weights
from erecap.engines.protocol import EngineSettings
from erecap.engines.transformers import TransformersEngine
from erecap.errors import ConfigError
from erecap.layers import LayerPlan, with_plan
from erecap.layers.search.latencies import Latencies
from erecap.models.cache_argument import CACHE

TURN = 4  # tokens that one model decodes before the next has its turn
EVERY = 4  # of the parts of a kind, one in so many is left out to learn what it takes


@dataclass
class Times:
    """Milliseconds of one model, in order of measurement; those of all models at one index were taken in turn."""

    prefill: list[float] = field(default_factory=list)  # of the whole text
    decode: list[float] = field(default_factory=list)  # of one token

    def rounds(self, decoded: int) -> list[tuple[float, float]]:
        """Of each round the prefill, and the mean of a decoded token; `decoded`: tokens of a round."""
        turns = [min(TURN, decoded - start) for start in range(0, decoded, TURN)]
        found = []
        for number, prefill in enumerate(self.prefill):
            own = self.decode[number * len(turns) : (number + 1) * len(turns)]
            found.append((prefill, sum(ms * count for ms, count in zip(own, turns, strict=True)) / decoded))
        return found

    def median(self, phase: str) -> float:
        """The median of `prefill` or `decode`."""
        return statistics.median(getattr(self, phase))

    def saved(self, other: Times, phase: str) -> float:
        """Milliseconds that `other` takes less: the median over pairs."""
        pairs = zip(getattr(self, phase), getattr(other, phase), strict=True)
        return statistics.median(before - after for before, after in pairs)

    def speed_up(self, other: Times, phase: str) -> float:
        """Speed-up of `other`: the median over pairs."""
        pairs = zip(getattr(self, phase), getattr(other, phase), strict=True)
        return statistics.median(before / after for before, after in pairs)


@dataclass(frozen=True)
class LayerClock:
    """Settings of a measurement.

    Raises:
        ConfigError: a number below 1, or packed weights of several sequences.
    """

    tokens: int = 1024  # that are read
    decoded: int = 32  # that are decoded after them
    repetitions: int = 5  # rounds; one more warms up
    batch: int = 1  # sequences side by side; 1 is a session, more is the model's own forward with a stock cache
    weights: Weights = "same"  # precision of a session's weights while decoding

    def __post_init__(self) -> None:
        for name in ("tokens", "decoded", "repetitions", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"clock {name}: got {getattr(self, name)}; allowed: 1 or more")
        if self.batch > 1 and self.weights != "same":
            raise ConfigError(f"clock weights: got {self.weights} with batch {self.batch}; allowed: same, or batch 1")


class _Session:
    """A session's reads of one sequence."""

    def __init__(self, model: Any, weights: Weights) -> None:
        self._engine = TransformersEngine(model, EngineSettings(decode_weights=weights))
        self.window = self._engine.window

    def read(self, ids: Sequence[int]) -> int:
        self._engine.reset()
        return int(self._engine.read(ids).argmax())

    def decode(self, token: int, count: int) -> int:
        with self._engine.attached():
            for _ in range(count):
                token = int(self._engine.forward([token], keep=1, decode=True).argmax())
        return token

    def end(self) -> None:
        self._engine.reset()


class _Batch:
    """The model's own reads of equal sequences side by side."""

    def __init__(self, model: Any, size: int) -> None:
        self._model, self._size, self._cache = model, size, DynamicCache()
        self.window = int(model.config.get_text_config(decoder=True).max_position_embeddings)

    def read(self, ids: Sequence[int]) -> int:
        self._cache = DynamicCache()
        return self._forward(ids)

    def decode(self, token: int, count: int) -> int:
        for _ in range(count):
            token = self._forward([token])
        return token

    def end(self) -> None:
        self._cache = DynamicCache()

    @torch.no_grad()
    def _forward(self, ids: Sequence[int]) -> int:
        rows = torch.tensor([list(ids)] * self._size, device=self._model.device)
        found = self._model(rows, **{CACHE: self._cache}, use_cache=True, logits_to_keep=1)
        token = int(found.logits[0, -1].argmax())
        synchronise(self._model)
        return token


def clock(
    models: Sequence[Any],
    ids: Sequence[int],
    settings: LayerClock,
    say: Callable[[str], None] = lambda text: None,
    what: str = "layers",
) -> list[Times]:
    """Time all models on `ids`, in turn and in changing order.

    Args:
        what: is measured, for messages.

    Raises:
        ConfigError: a model that no session serves, or lengths that pass its window.
    """
    try:
        readers: list[_Session | _Batch] = [
            _Session(one, settings.weights) if settings.batch == 1 else _Batch(one, settings.batch) for one in models
        ]
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from error
    if len(ids) + settings.decoded > readers[0].window:
        raise ConfigError(
            f"{what}: {len(ids)} tokens and {settings.decoded} decoded ones pass the window of {readers[0].window}"
        )
    found, order = [Times() for _ in models], list(range(len(models)))
    for round_ in range(settings.repetitions + 1):
        tokens = [0] * len(models)
        with steady() as collect:
            for number in order:
                collect()
                started = time.perf_counter()
                tokens[number] = readers[number].read(ids)
                _note(found[number].prefill, started, 1, round_)
            for start in range(0, settings.decoded, TURN):
                count = min(TURN, settings.decoded - start)
                for number in order:
                    started = time.perf_counter()
                    tokens[number] = readers[number].decode(tokens[number], count)
                    _note(found[number].decode, started, count, round_)
        order.reverse()
        for reader in readers:
            reader.end()
        say(f"timed {round_} of {settings.repetitions} rounds" if round_ else "warmed up")
    return found


def _note(times: list[float], started: float, count: int, round_: int) -> None:
    spent = 1e3 * (time.perf_counter() - started) / count
    if round_:  # the first warms up
        times.append(spent)


def measure_latencies(
    model: Any, ids: Sequence[int], settings: LayerClock, say: Callable[[str], None] = lambda text: None
) -> dict[str, Latencies]:
    """Latencies of the sublayers of a model, by phase: it is timed whole, and with a quarter of each kind left out.

    Raises:
        ConfigError: as `clock`, or a model of one layer.
        RunError: parts whose latency drowns in noise.
    """
    layers = int(model.config.get_text_config(decoder=True).num_hidden_layers)
    if layers < 2:
        raise ConfigError("a model of one layer has none to leave out")
    quarter = tuple(range(EVERY // 2, layers, EVERY)) or (layers - 1,)
    kinds = {"attention": "attention", "mlp": "mlp", "block": "blocks"}
    plans = [LayerPlan(layers, **{part: quarter}) for part in kinds.values()]
    say(f"timing the model whole, and without a quarter of its attentions, MLPs and blocks, on {len(ids)} tokens")
    whole, *others = clock([model, *(with_plan(model, plan) for plan in plans)], ids, settings, say)
    about = {
        **vars(settings),
        "tokens": len(ids),
        "left_out": list(quarter),
        "threads": torch.get_num_threads(),
        "device": model.device.type,
    }
    return latencies_of(whole, dict(zip(kinds, others, strict=True)), len(quarter), about)


def latencies_of(
    whole: Times, without: Mapping[str, Times], count: int, about: Mapping[str, Any]
) -> dict[str, Latencies]:
    """Latencies by phase, from the times of the whole model and of the model without `count` parts of each kind.

    Raises:
        RunError: parts whose latency drowns in noise.
    """
    return {
        phase: Latencies(
            whole.median(phase),
            **{kind: whole.saved(other, phase) / count for kind, other in without.items()},
            about=about,
        )
        for phase in ("decode", "prefill")
    }
