"""The schema of `/v1/chat/completions`. Fields that would change an answer and are not supported are refused."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

COLDEST = 1e-4  # logits divided by less are no longer finite


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A request; fields as in the OpenAI API."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(1 << 63), lt=1 << 63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    # Known, and refused unless they ask for what is done anyway.
    logprobs: bool | None = None
    response_format: dict[str, Any] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @model_validator(mode="after")
    def _what_is_done(self) -> ChatRequest:
        asked = {
            "n": self.n not in (None, 1),
            "logprobs": bool(self.logprobs),
            "response_format": self.response_format is not None and self.response_format.get("type") != "text",
            "frequency_penalty": bool(self.frequency_penalty),
            "presence_penalty": bool(self.presence_penalty),
            "logit_bias": bool(self.logit_bias),
        }
        for name, is_asked in asked.items():
            if is_asked:
                raise ValueError(f"{name}: got {getattr(self, name)!r}; this server does not do that, leave it out")
        if self.temperature is not None and 0 < self.temperature < COLDEST:
            raise ValueError(f"temperature: got {self.temperature}; allowed: 0, or {COLDEST} to 2")
        if isinstance(self.stop, list) and len(self.stop) > 16:
            raise ValueError(f"stop: got {len(self.stop)} texts; allowed: up to 16")
        return self

    @property
    def longest(self) -> int | None:
        """The most tokens of the answer."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        """Texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])
