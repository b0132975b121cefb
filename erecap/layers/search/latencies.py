"""Measured latencies of sublayers, and the latency that they predict for a plan. No torch in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from erecap.errors import RunError
from erecap.layers.plan import LayerPlan


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    dense: float = Field(gt=0, allow_inf_nan=False)
    attention: float = Field(allow_inf_nan=False)
    mlp: float = Field(allow_inf_nan=False)
    block: float = Field(allow_inf_nan=False)
    about: dict[str, Any] = {}


@dataclass(frozen=True)
class Latencies:
    """Milliseconds of one phase: of the dense model, and those that each removed part saves.

    The dense model's hold everything: embeddings, all layers, the last norm, the head, keys and values. A removed
    attention saves its keys and values, too. What is left of the dense model's time stays whatever is removed.

    Args:
        dense: of the whole model.
        attention, mlp: that a removed attention and a removed MLP save.
        block: that a removed layer saves.
        about: how they were measured.

    Raises:
        RunError: parts that save nothing, or more than there is.
    """

    dense: float
    attention: float
    mlp: float
    block: float
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("attention", "mlp", "block"):
            saved = getattr(self, name)
            if not 0 < saved < self.dense:
                raise RunError(
                    f"latency of one {name}: {saved:.4g} ms of {self.dense:.4g} cannot be; measure again with more "
                    "repetitions on a quieter machine"
                )

    def of(self, kind: str) -> float:
        """Milliseconds that a removed sublayer of that kind saves."""
        return self.attention if kind == "attention" else self.mlp

    def predicted(self, plan: LayerPlan) -> float:
        """Milliseconds with a plan. Its slices are not counted."""
        saved = (
            len(plan.attention) * self.attention + len(plan.mlp) * self.mlp + len(plan.blocks) * max(self.block, 0.0)
        )
        return self.dense - saved

    def speed_up(self, plan: LayerPlan) -> float:
        """Predicted speed-up of a plan; infinite where it would save all there is."""
        left = self.predicted(plan)
        return self.dense / left if left > 0 else float("inf")

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**vars(self), "about": dict(self.about)}

    @classmethod
    def parse(cls, value: Any) -> Latencies:
        """The latencies of `as_dict`. Raises pydantic's ValidationError, a ValueError, or RunError."""
        return cls(**_Stored.model_validate(value).model_dump())
