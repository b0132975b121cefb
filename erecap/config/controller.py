"""Schema of a run's controller: a trained one, or one forced action."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ControllerSettings(BaseModel):
    """Settings of the controller, which changes the levers of a session from call to call."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    checkpoint: str | None = Field(
        default=None, min_length=1, description="Trained controller: a folder, or a checkpoint's name."
    )
    fixed: str | None = Field(
        default=None, min_length=1, description="This action in every call, whatever the state; null: it decides."
    )
    actions: str | None = Field(
        default=None,
        min_length=1,
        description="With fixed and without a checkpoint: YAML file of actions; null: the default actions.",
    )
    slo_ms: float | None = Field(
        default=None, gt=0, description="Latency that a call should not exceed; null: the one that it was trained for."
    )

    @model_validator(mode="after")
    def _decided_by_something(self) -> ControllerSettings:
        if self.checkpoint is None and self.fixed is None:
            raise ValueError("controller: got neither a checkpoint nor fixed: ACTION; allowed: one of them, or both")
        if self.checkpoint is not None and self.actions is not None:
            raise ValueError("controller.actions: got a file beside a checkpoint, whose card names the actions")
        return self


def folder_or_settings(value: Any) -> Any:
    """`controller: FOLDER` is short for `controller: {checkpoint: FOLDER}`."""
    return {"checkpoint": value} if isinstance(value, str) else value
