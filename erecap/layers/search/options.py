"""Options of searches, and which of them a method reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from erecap.errors import ConfigError
from erecap.layers.search.steps import KINDS

METRICS = ("l1", "l2", "cosine")
OVER = ("sentence", "token", "channel")
PHASES = ("decode", "prefill")
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class SearchOptions:
    """Options of a search. A method declares those that it reads with `uses`.

    Raises:
        ConfigError: a value out of range.
    """

    metric: str = "l2"  # distance of hidden states, relative to the dense ones
    over: str = "token"  # vectors that it is taken of: whole sequences, tokens, or channels; then their mean
    latency_aware: bool = True  # divide the change by the sublayer's latency
    phase: str = "decode"  # latencies that count
    tune: tuple[str, ...] = ("mlp",)  # kinds of sublayers whose output projection may be solved anew; (): none
    ratio: float = 1.0  # share of its output channels that are: those that changed most
    damping: float = 0.1  # lambda of the ridge, over the mean of the diagonal of X'X
    candidates: int = 5  # best sublayers that are tuned and scored again
    checkpoints: int = 8  # layers before which hidden states are kept; 0: only the embeddings
    batch_tokens: int = 2048  # tokens of one forward pass
    loss_sequences: int = 0  # first calibration sequences on which a loss is computed; 0: all

    def __post_init__(self) -> None:
        for name, allowed in (("metric", METRICS), ("over", OVER), ("phase", PHASES)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"--{name}: got {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        if len(set(self.tune)) < len(self.tune) or not set(self.tune) <= set(KINDS):
            raise ConfigError(f"--tune: got {','.join(self.tune)!r:.60}; allowed: none, {', '.join(KINDS)}, or both")
        if not 0 < self.ratio <= 1:
            raise ConfigError(f"--ratio: got {self.ratio:g}; allowed: above 0 and at most 1")
        if not 0 <= self.damping < float("inf"):
            raise ConfigError(f"--damping: got {self.damping:g}; allowed: 0 or more")
        for name, least in (("candidates", 1), ("checkpoints", 0), ("batch_tokens", 1), ("loss_sequences", 0)):
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option}: got {getattr(self, name)}; allowed: {least} or more")


def uses(*names: str) -> Callable[[Method], Method]:
    """Decorate a method with the names of the `SearchOptions` that it reads; others are refused for it."""

    def mark(method: Method) -> Method:
        method.uses = names  # type: ignore[attr-defined]
        return method

    return mark


def options_of(method: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the options that a method reads; all that a method without a declaration could."""
    return tuple(getattr(method, "uses", SearchOptions.__dataclass_fields__))
