"""Settings of a planner's training, checked before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from erecap.errors import ConfigError

Amp = Literal["auto", "bf16", "none"]
ADAPTER_LR, FULL_LR = 5e-4, 5e-5
RANK = 16
MAX_RANK = 32  # what ships has to stay small


@dataclass(frozen=True)
class PlannerTraining:
    """Settings of `erecap train planner`.

    Raises:
        ConfigError: a value out of range; names it and what is allowed.
    """

    data: tuple[str, ...]  # trajectory folders
    _: KW_ONLY
    model: str = "smollm2-135m-instruct"
    init: str | None = None  # adapter to go on from
    full: bool = False  # all weights instead of a LoRA adapter
    rank: int | None = None  # of the adapter; None: that of `init`, else RANK
    lr: float | None = None  # highest learning rate; None: ADAPTER_LR or FULL_LR
    epochs: int = 2
    accumulate: int = 8  # transcripts a step
    batch_tokens: int | None = None  # of transcripts read in one forward pass, with padding; None: one transcript
    max_tokens: int = 4096  # of one transcript; the rest is cut at the end of a plan
    held_out: float = 0.05  # share of the episodes that are scored and not learned
    evaluations: int = 2  # of the held-out episodes, an epoch
    patience: int = 3  # evaluations without improvement that end the training
    warmup: float = 0.05  # share of the steps
    schedule: Literal["cosine", "linear"] = "cosine"
    weight_decay: float = 0.01
    clip: float = 1.0  # largest norm of the gradient
    amp: Amp = "auto"
    checkpointing: bool = False  # compute activations twice instead of keeping them
    device: str = "auto"
    seed: int = 0
    kv_tokens: int | None = None  # budget under which part of the transcripts is read; None: all are read whole
    pruner: str | None = None  # ranks what stays within the budget; None: the newest
    pruned_share: float = 0.5  # of the transcripts that are read under the budget
    layer_dropout: float = 0.0  # probability that the last layer is left out of a step; less for those before it
    early_loss: float = 0.0  # weight of the losses after early layers, so that they learn to name tokens; 0: none
    early_turns: int = 8  # steps in which each early layer has its turn once

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("no trajectory folder; `erecap collect` makes one")
        repeated = next((name for name in self.data if self.data.count(name) > 1), None)
        if repeated is not None:
            raise ConfigError(f"trajectory folder {repeated} is named twice; once each is allowed")
        if self.full and self.rank is not None:
            raise ConfigError("--rank is of an adapter, and --full trains all weights; choose one")
        if self.pruner is not None and self.kv_tokens is None:
            raise ConfigError("--pruner ranks what stays within a budget; name the budget with --kv-tokens, too")
        for name, low, high in (
            ("rank", 1, MAX_RANK),
            ("lr", 1e-8, 1.0),
            ("epochs", 1, 1000),
            ("accumulate", 1, 4096),
            ("batch_tokens", 32, 1 << 24),
            ("max_tokens", 32, 1 << 20),
            ("held_out", 0.0, 0.5),
            ("evaluations", 1, 1000),
            ("patience", 1, 1000),
            ("warmup", 0.0, 0.9),
            ("weight_decay", 0.0, 1.0),
            ("clip", 1e-3, 1e6),
            ("seed", 0, 2**31 - 1),
            ("kv_tokens", 16, 1 << 20),
            ("pruned_share", 0.0, 1.0),
            ("layer_dropout", 0.0, 0.9),
            ("early_loss", 0.0, 10.0),
            ("early_turns", 1, 1000),
        ):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} is {value}; allowed: {low:.10g} to {high:.10g}")
        if self.checkpointing and self.trains_early:
            raise ConfigError("--gradient-checkpointing goes without --layer-dropout and --early-loss")
        for name, allowed in (("amp", ("auto", "bf16", "none")), ("schedule", ("cosine", "linear"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"--{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")

    @property
    def trains_early(self) -> bool:
        """True if early layers are trained to name tokens."""
        return self.layer_dropout > 0 or self.early_loss > 0

    @property
    def highest_lr(self) -> float:
        """The learning rate after the warm-up."""
        return self.lr if self.lr is not None else FULL_LR if self.full else ADAPTER_LR

    def learning_rate(self, step: int, steps: int) -> float:
        """Learning rate of step `step` of `steps`, from 0: a linear rise, a fall to a tenth (cosine) or 0 (linear)."""
        rise = max(1, round(self.warmup * steps))
        if step < rise:
            return self.highest_lr * (step + 1) / rise
        done = (step - rise) / max(1, steps - rise)
        if self.schedule == "linear":
            return self.highest_lr * (1 - done)
        return self.highest_lr * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))

    def facts(self) -> dict[str, Any]:
        """The settings as JSON values, folders by their last part: a result tells nothing of a machine."""
        values = asdict(self)
        values["data"] = [Path(name).name for name in self.data]
        for key in ("model", "init", "pruner"):
            if values[key] is not None and Path(values[key]).is_absolute():
                values[key] = Path(values[key]).name
        return values

    def command(self, out: Path) -> str:
        """The command line that repeats this training, with what differs from the defaults."""
        facts, plain = self.facts(), PlannerTraining(("x",))
        parts = ["erecap train planner", *facts.pop("data"), f"--model {facts.pop('model')}", f"--out {out.name}"]
        for name, value in facts.items():
            if value == getattr(plain, name):
                continue
            option = "gradient-checkpointing" if name == "checkpointing" else name.replace("_", "-")
            parts.append(f"--{option}" if value is True else f"--{option} {value}")
        return " ".join(parts)
