"""Settings of `erecap train pruner`."""

from __future__ import annotations

from dataclasses import dataclass

from erecap.errors import ConfigError


@dataclass(frozen=True)
class PrunerSettings:
    """Settings of a pruner's training.

    Raises:
        ConfigError: a value out of range, or no term at all.
    """

    task: bool = True  # KL to the dense model under simulated pruning; without it no model is run while training
    mse: bool = True  # regression of standardised scores on standardised log-saliency
    rank: bool = True  # order of pairs
    epochs: int = 10
    lr: float = 1e-3
    keep: float = 0.7  # task: share of its tokens that a stage keeps
    temperature: float = 1.0  # task: of the Gumbel-softmax
    max_tokens: int = 1024  # task: longer samples are left out of this term; it holds every attention map
    held_out: float = 0.1  # share of the samples that is not trained on
    patience: int = 3  # epochs without a better rank correlation on held-out samples that end the training
    budget: float = 0.35  # share of the history that stays in the test at the end
    test_samples: int = 12  # held-out samples of that test at most
    seed: int = 0
    kv_tokens: int = 1024  # tokens stored in the same test as sessions evict

    def __post_init__(self) -> None:
        if not (self.task or self.mse or self.rank):
            raise ConfigError("nothing to train by: at least one of task, mse and rank is needed")
        for name in ("epochs", "patience", "test_samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}; allowed: 1 or more")
        for name in ("lr", "temperature"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: got {getattr(self, name)}; allowed: above 0")
        for name in ("keep", "held_out", "budget"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}; allowed: between 0 and 1")
        for name in ("max_tokens", "kv_tokens"):
            if getattr(self, name) < 32:
                raise ConfigError(f"{name}: got {getattr(self, name)}; allowed: 32 or more")
