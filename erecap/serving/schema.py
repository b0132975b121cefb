"""The schema of `/v1/chat/completions`. Fields that this server does not serve are refused, see `fields`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from erecap.serving.fields import HARMLESS, unserved
from erecap.serving.values import depth, unreadable

COLDEST = 1e-4  # logits divided by less are no longer finite
NARROWEST = 1e-6  # a nucleus of this probability is the likeliest token, in any vocabulary
_STOPS, _STOP_CHARACTERS = 16, 1000
_DEEPEST = 100  # levels of lists and objects; what reads and writes them goes as deep
_NUMBERS = ("temperature", "top_p", "seed", "min_tokens", "max_tokens", "max_completion_tokens", "max_output_tokens")
_PENDING_OPTIONS = ("include_obfuscation", "continuous_usage_stats")


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool = False

    @model_validator(mode="after")
    def _what_is_done(self) -> StreamOptions:
        for name, value in (self.model_extra or {}).items():
            # What pads chunks against eavesdroppers is not done, and a client that wants it off has it off.
            if not (value is None or (name in _PENDING_OPTIONS and value is False)):
                raise ValueError(_refusal(name, value))
        return self


class Sampling(BaseModel):
    """Fields that all requests for an answer share."""

    model_config = ConfigDict(extra="allow", strict=False)

    model: str
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(1 << 63), lt=1 << 63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    min_tokens: int | None = Field(default=None, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _readable(cls, given: Any) -> Any:
        if depth(given) > _DEEPEST:
            raise ValueError(f"the request is nested more than {_DEEPEST} levels deep")
        if isinstance(given, dict) and (found := unreadable(_shown(given))) is not None:
            raise ValueError(f"{found[0]}: got {found[1]}")
        return given

    @field_validator(*_NUMBERS, mode="before", check_fields=False)
    @classmethod
    def _no_truth(cls, given: Any) -> Any:
        if isinstance(given, bool):  # an int to Python
            raise ValueError(f"got {str(given).lower()}; wanted a number")
        return given

    @model_validator(mode="after")
    def _what_is_done(self) -> Sampling:
        found = unserved(self.model_extra or {})
        if found is not None:
            raise ValueError(_refusal(*found))
        if self.temperature is not None and 0 < self.temperature < COLDEST:
            raise ValueError(f"temperature: got {self.temperature}; allowed: 0, or {COLDEST} to 2")
        if len(self.stops) > _STOPS:
            raise ValueError(f"stop: got {len(self.stops)} texts; allowed: up to {_STOPS}")
        if "" in self.stops:
            raise ValueError("stop: got an empty text, which ends nothing; leave it out")
        longest = max(map(len, self.stops), default=0)
        if longest > _STOP_CHARACTERS:
            raise ValueError(f"stop: got a text of {longest} characters; allowed: up to {_STOP_CHARACTERS}")
        if self.min_tokens and self.longest is not None and self.min_tokens > self.longest:
            raise ValueError(f"min_tokens: got {self.min_tokens}, and max_tokens {self.longest}")
        return self

    @property
    def longest(self) -> int | None:
        """The most tokens of the answer; None: as many as fit."""
        return None

    @property
    def stops(self) -> list[str]:
        """Texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    def options(self) -> dict[str, Any]:
        """Keywords of `ReplanSession.generate`."""
        return {
            "max_new_tokens": self.longest,
            "min_new_tokens": self.min_tokens or 0,
            "stop": self.stops,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else max(self.top_p, NARROWEST),
            "seed": self.seed,
        }


class ChatRequest(Sampling):
    """A request for the next message of a chat; fields as in the OpenAI API."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None  # as vLLM has it
    # Edits of the chat, see `edit_fields`, which names the place of what is wrong in them.
    drop_message: Any = None
    reposition: Any = None
    drop_rule: Any = None

    @property
    def longest(self) -> int | None:
        """The most tokens of the answer; None: as many as fit."""
        return self.max_completion_tokens or self.max_tokens


class TextRequest(Sampling):
    """A request for the continuation of a text; fields as in the OpenAI API."""

    prompt: str | list[str]
    max_tokens: int | None = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _one_prompt(self) -> TextRequest:
        if isinstance(self.prompt, list) and len(self.prompt) != 1:
            raise ValueError(f"prompt: got {len(self.prompt)} texts; this server continues one")
        if not self.text:
            raise ValueError("prompt: got an empty text; there is nothing to continue")
        return self

    @property
    def text(self) -> str:
        """The text to continue."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]

    @property
    def longest(self) -> int | None:
        """The most tokens of the answer; None: as many as fit."""
        return self.max_tokens


class ResponseRequest(Sampling):
    """A request of the Responses API, without any state that the server would keep; fields as in the OpenAI API."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None

    @property
    def longest(self) -> int | None:
        """The most tokens of the answer; None: as many as fit."""
        return self.max_output_tokens


def _shown(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request that the model is shown, or that shape its answer."""
    return {name: value for name, value in given.items() if name != "model" and name not in HARMLESS}


def _refusal(name: str, value: Any) -> str:
    return f"{name:.60}: got {value!r:.80}; this server does not do that, leave it out"
