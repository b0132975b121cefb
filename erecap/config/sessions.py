"""Settings of what a run's modes read, keep and measure: pruning at prefill, the budget, the schedule, re-reading."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from erecap.budget import AUTO, Budget
from erecap.config.composition import tokens_or_auto
from erecap.registries import PRESETS, SINKS

Preset = Literal["keep09", "keep08", "keep07"]


class PruneSettings(BaseModel):
    """Settings of pruning at prefill for the modes `prune[...]`; the mode names the scorer."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    keep: float = Field(default=0.7, gt=0, le=1, description="Share of its tokens that one stage keeps.")
    preset: Preset | None = Field(default=None, description="A published keep ratio by name, instead of `keep`.")
    stages: list[int] | None = Field(
        default=None, description="Layers before which tokens are dropped, rising; null: every third from 4 on."
    )
    sinks: int = Field(default=SINKS, ge=0, description="First tokens of the prompt that are always kept.")
    local: float = Field(default=0.1, ge=0, le=1, description="Share of the prompt, its newest tokens, always kept.")

    @model_validator(mode="before")
    @classmethod
    def _preset_sets_keep(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("preset") not in list(PRESETS):
            return values
        ratio = PRESETS[values["preset"]]
        if values.get("keep", ratio) != ratio:
            raise ValueError(f"keep is {values['keep']!r}, but preset {values['preset']!r} means {ratio}")
        return {**values, "keep": ratio}

    @field_validator("stages")
    @classmethod
    def _rising(cls, stages: list[int] | None) -> list[int] | None:
        if stages and (stages[0] < 1 or any(b <= a for a, b in pairwise(stages))):
            raise ValueError(f"got {stages}; allowed: layers from 1 on, rising")
        return stages


class BudgetSettings(BaseModel):
    """Settings of the budget that session modes with eviction keep between calls."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    kv_tokens: int | Literal["auto"] | None = Field(
        default=AUTO,
        description="Tokens stored per layer when a call returns, protected ones included; auto: all, until they no "
        "longer fit the window or memory_gb; null: all.",
    )
    kv_ratio: float | None = Field(
        default=None, gt=0, le=1, description="The same as a share of all tokens read; kv_tokens is then null or fixed."
    )
    memory_gb: float | None = Field(
        default=None, gt=0, description="With auto: 10^9 bytes of keys and values that a session may store."
    )
    pays: float | None = Field(
        default=None, gt=0, lt=0.5, description="With auto: drop earlier where that saves this share of a call's time."
    )

    @model_validator(mode="before")
    @classmethod
    def _a_ratio_is_not_automatic(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("kv_ratio") is None:
            return values
        if values.get("kv_tokens") == AUTO:
            raise ValueError("kv_ratio: got a share of what is read beside kv_tokens auto; allowed: one of them")
        return {"kv_tokens": None, **values}

    @field_validator("kv_tokens", mode="before")
    @classmethod
    def _tokens_or_auto(cls, value: Any) -> Any:
        return tokens_or_auto(value)

    @model_validator(mode="after")
    def _only_of_auto(self) -> BudgetSettings:
        for name in ("memory_gb", "pays"):
            value = getattr(self, name)
            if value is not None and self.kv_tokens != AUTO:
                raise ValueError(f"{name}: got {value} with kv_tokens {self.kv_tokens}; allowed with auto")
        return self

    def budget(self) -> Budget:
        """The budget as sessions take it."""
        if isinstance(self.kv_tokens, str):
            return Budget.auto(None if self.memory_gb is None else int(1e9 * self.memory_gb), self.pays)
        return Budget(self.kv_tokens, self.kv_ratio)


class ScheduleSettings(BaseModel):
    """Settings of the scheduler, which decides call by call in session modes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    deadline_ms: float | None = Field(default=None, gt=0, description="What one call should take at most.")
    low_watermark: float = Field(
        default=0.8, gt=0, le=1, description="Share of the budget that an eviction leaves, so that the next need none."
    )
    cooldown: int = Field(default=2, ge=0, le=1000, description="Calls between two evictions that nothing forces.")
    horizon: int = Field(default=8, ge=1, le=1000, description="Calls over which the saving of an eviction counts.")
    may_defer: bool = Field(
        default=False, description="A call may be put off while commands of the old plan are left (`planner.period`)."
    )
    reuse_plan: bool = Field(
        default=False,
        description="Past the deadline, verify what is left of the old plan (`planner.period`) instead of writing on.",
    )


class RereadSettings(BaseModel):
    """Settings of a measurement beside the calls of a mode: the price of reading the same prompt anew."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    mode: str = Field(min_length=1, description="A mode of this run that keeps a session and reads the whole chat.")
    every: int = Field(
        ge=1, le=1000, description="The first call of an episode and every such call after it are made once more."
    )
