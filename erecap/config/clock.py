"""Schema of a run's clock: whether the world goes on while the planner thinks, and at what price."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

ClockKind = Literal["charged", "wall"]
Charge = Literal["measured", "cost-model", "fixed"]
Coefficients = list[Annotated[float, Field(ge=0)]]


class CostSettings(BaseModel):
    """Coefficients of the cost model (`erecap.cost.model`), as `erecap calibrate` stores them under `model`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    prefill: Coefficients = Field(min_length=5, max_length=5, description="Milliseconds of a chunk of prefill.")
    decode: Coefficients = Field(min_length=8, max_length=8, description="Milliseconds of a pass of decoding.")
    evict: Coefficients = Field(default=[0.0, 0.0], min_length=2, max_length=2, description="The same of an eviction.")
    splice: Coefficients = Field(default=[0.0, 0.0], min_length=2, max_length=2, description="The same of a splice.")
    prefill_short: Coefficients | None = Field(
        default=None, min_length=5, max_length=5, description="Milliseconds of a short chunk; null: as of the others."
    )
    short: int = Field(default=0, ge=0, description="Tokens of the longest short chunk.")
    chunk: int = Field(default=512, ge=1, description="Tokens that prefill reads at once.")

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Runs from before there was a coefficient stay those of the same configuration.
        return {name: value for name, value in handler(self).items() if name in self.model_fields_set}


class ClockSettings(BaseModel):
    """Settings of the world's clock while the planner thinks."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    kind: ClockKind = Field(
        description="charged: the simulator advances by the price of each call; wall: robots and planner really wait "
        "for each other."
    )
    charge: Charge = Field(
        default="measured",
        description="Price of a call: measured: the milliseconds that it took; cost-model: those that the cost model "
        "predicts for its tokens; fixed: fixed_ms.",
    )
    fixed_ms: float | None = Field(default=None, ge=0, description="Price of a call with charge fixed.")
    costs: CostSettings | None = Field(
        default=None,
        description="With charge cost-model, its coefficients, as `erecap calibrate` stores them under `model`.",
    )
    scale: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="Simulated seconds that a second of the planner takes: a planner or a robot of another speed.",
    )
    read_ahead: bool = Field(
        default=True, description="Sessions read new observations while the plan is carried out, not after it."
    )
    slo_ms: float | None = Field(
        default=None, gt=0, description="Simulated milliseconds that no call should be waited for longer; null: none."
    )

    @model_validator(mode="after")
    def _what_goes_together(self) -> ClockSettings:
        if self.kind == "wall" and self.charge != "measured":
            raise ValueError(f"charge: got {self.charge} with kind wall; allowed: measured, since it really waits")
        if (self.fixed_ms is not None) != (self.charge == "fixed"):
            raise ValueError(f"fixed_ms: got {self.fixed_ms} with charge {self.charge}; allowed: a number, with fixed")
        if self.costs is not None and self.charge != "cost-model":
            raise ValueError(f"costs: given with charge {self.charge}; allowed: with cost-model")
        if self.costs is None and self.charge == "cost-model":
            raise ValueError(
                "costs: missing with charge cost-model; allowed: coefficients, as `erecap calibrate` stores them"
            )
        return self


def kind_or_settings(value: Any) -> Any:
    """A clock as configurations write it: its settings, or `charged`, `wall` or `none` alone."""
    if value == "none":
        return None
    return {"kind": value} if isinstance(value, str) else value
