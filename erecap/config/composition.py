"""Modes that a run composes from parts, as they are written among its `modes`.

modes: [full, erecap, {name: erecap-int8, kv: {evict: null, stale_first: true}, decode: {weights: int8}}]
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from erecap.budget import AUTO
from erecap.config.controller import ControllerSettings, folder_or_settings
from erecap.config.exits import MOST_DRAFTS, Exit, Scheduling
from erecap.config.modes import PRESETS, Decode, Evict, Mode
from erecap.config.suite import NAME_PATTERN
from erecap.registries import ENGINES, EVICT_BY, LEARNED, mode_scorers
from erecap.validation import PARTS, WORD


def tokens_or_auto(value: Any) -> Any:
    """A budget as configurations write it.

    Raises:
        ValueError: neither `auto`, nor null, nor a number of tokens that a session takes.
    """
    if value is None or value == AUTO or (type(value) is int and value >= 16):
        return value
    raise ValueError(f"got {value!r}; allowed: auto, null or a whole number, at least 16 - tokens stored per layer")


class EvictParts(BaseModel):
    """The part `evict` of a mode: eviction down to the run's budget."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    evict: str | None = Field(
        min_length=1,
        description="What ranks tokens: recency, random, attention, learned, or a trained pruner's name or folder; "
        "null: the run's pruner if it has one, else recency.",
    )
    stale_first: bool = Field(default=False, description="Evict what newer records have made stale before the rest.")
    kv_tokens: int | Literal["auto"] | None = Field(
        default=None, description="A budget of the mode's own, as `budget.kv_tokens`; null: the run's budget."
    )

    @field_validator("kv_tokens", mode="before")
    @classmethod
    def _tokens_or_auto(cls, value: Any) -> Any:
        return tokens_or_auto(value)


def none_for_false(value: Any) -> Any:
    """None for `false`, which an action of a controller takes as well; all else as it is."""
    return None if value is False else value


class ExitParts(BaseModel):
    """The part `exit` of `decode`: early exit, verified."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    predictor: str | None = Field(
        default=None, min_length=1, description="Name or folder of what `erecap train exit` made; or a `layer` instead."
    )
    layer: int | None = Field(default=None, ge=1, description="Layers that draft where they are confident.")
    threshold: float | None = Field(
        default=None, ge=0, le=1, description="Least probability of an exit; null: the predictor's own, or 0.8."
    )
    schedule: Scheduling = Field(
        default="two-level", description="Layers that a predictor looks at: two-level, static or every."
    )
    lossless: bool = Field(default=True, description="Verify every token; without it differing tokens are counted.")
    check: bool | None = Field(
        default=None, description="Ask the whole head at the exit, too; null: where tokens are not verified."
    )
    drafts: int = Field(default=4, ge=1, le=MOST_DRAFTS, description="Tokens that leave before one pass, at most.")

    @model_validator(mode="after")
    def _one_way(self) -> ExitParts:
        self.settings()
        return self

    def settings(self) -> Exit:
        """The same as sessions take it."""
        return Exit(**self.model_dump())


class DecodeParts(BaseModel):
    """The part `decode` of a mode."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    draft: bool | Literal["automaton", "automaton-run", "lookup", "prompt-lookup", "suffix"] = Field(
        default=True,
        description="Draft tokens from earlier text; answers stay the same. true: automaton by reference costs; or a "
        "way by its name: automaton or automaton-run by calibrated costs, lookup, prompt-lookup, suffix.",
    )
    weights: Literal["same", "int8", "int4"] | None = Field(
        default=None, description="Weights while decoding; null: the run's decode_weights."
    )
    exit: Annotated[ExitParts | None, BeforeValidator(none_for_false)] = Field(
        default=None,
        description="Name tokens with the first layers, verified by all; null or false: all layers name them.",
    )


def _word_or_parts(value: Any) -> str:
    return PARTS if isinstance(value, (dict, EvictParts)) else WORD


KV = Annotated[
    Annotated[Literal["reread", "reuse"], Tag(WORD)] | Annotated[EvictParts, Tag(PARTS)], Discriminator(_word_or_parts)
]


class ModeParts(BaseModel):
    """The parts of a mode; those that are left out are as in the mode `full`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kv: KV = Field(
        default="reread", description="Keys and values between calls: none, all, or {evict: ...} within the budget."
    )
    prune: str | None = Field(default=None, description="Scorer of pruning at prefill; its settings are the run's.")
    text: Literal["mask", "compact"] | None = Field(
        default=None, description="Keep the chat within the budget as text, with kv: reuse."
    )
    layers: str | None = Field(
        default=None,
        min_length=1,
        description="Layer plan of the model, a folder or a checkpoint's name; null: the run's.",
    )
    decode: DecodeParts | None = Field(default=None, description="How sessions decode, with kv: reuse or evict.")
    engine: str = Field(
        default="transformers", description="What holds keys and values and runs the model: a registered engine."
    )
    controller: Annotated[ControllerSettings | None, BeforeValidator(folder_or_settings)] = Field(
        default=None,
        description="What changes the session's levers between calls: a trained controller's folder, or {fixed: "
        "ACTION}; null: the run's.",
    )

    @field_validator("prune")
    @classmethod
    def _known_scorer(cls, prune: str | None) -> str | None:
        if prune is not None and prune not in mode_scorers():
            raise ValueError(f"unknown scorer {prune!r}; allowed: {', '.join(mode_scorers())}")
        return prune

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, engine: str) -> str:
        if engine not in ENGINES:
            raise ValueError(f"unknown engine {engine!r}; allowed: {', '.join(ENGINES)}")
        return engine

    @model_validator(mode="after")
    def _parts_go_together(self) -> ModeParts:
        if self.text is not None and self.kv != "reuse":
            raise ValueError(f"text: {self.text} is read by a session that keeps all of it; allowed: with kv: reuse")
        if self.decode is not None and self.kv == "reread":
            raise ValueError("decode: sessions have these settings; allowed: with kv: reuse or kv: {evict: ...}")
        if self.engine != "transformers" and (self.kv == "reread" or self.text is not None):
            raise ValueError(f"engine: {self.engine} serves sessions; allowed: with kv: reuse or evict, without text")
        if self.engine != "transformers" and self.decode is not None and self.decode.exit is not None:
            raise ValueError(f"decode.exit: got it with engine: {self.engine}; allowed: with engine: transformers")
        if self.engine != "transformers" and self.layers is not None:
            raise ValueError(f"layers: got a plan with engine: {self.engine}; allowed: with engine: transformers")
        if self.controller is not None:
            beside = {"kv: reread": self.kv == "reread", f"text: {self.text}": self.text is not None}
            beside[f"engine: {self.engine}"] = self.engine != "transformers"
            found = next((what for what, there in beside.items() if there), None)
            if found is not None:
                raise ValueError(
                    f"controller: it steers a session, got {found}; allowed: with kv: reuse or evict, without text, "
                    "with engine: transformers"
                )
        by = self.kv.evict if isinstance(self.kv, EvictParts) else None
        if self.prune == LEARNED and by not in (None, LEARNED, *EVICT_BY):
            raise ValueError(
                f"kv.evict: got {by!r} beside prune: {LEARNED}; allowed: one pruner in a mode, evict: {LEARNED}"
            )
        return self

    def mode(self, name: str) -> Mode:
        """The mode of these parts."""
        kv, decode = self.kv, self.decode or DecodeParts()
        return Mode(
            name,
            kv=Evict(kv.evict, kv.stale_first, kv.kv_tokens) if isinstance(kv, EvictParts) else kv,
            prune=self.prune,
            text=self.text,
            layers=self.layers,
            decode=Decode(decode.draft, decode.weights, None if decode.exit is None else decode.exit.settings()),
            engine=self.engine,
            controller=self.controller,
        )

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Runs from before there were controllers stay those of the same configuration.
        return {key: value for key, value in handler(self).items() if (key, value) != ("controller", None)}


def names_and_parts(modes: Any) -> tuple[Any, dict[str, Any]]:
    """Names of the modes, and by name the parts of those that are written as a mapping.

    Raises:
        ValueError: a mapping without a name, with the name of a preset, or with a name that another one has.
    """
    if not isinstance(modes, list):
        return modes, {}
    names: list[Any] = []
    found: dict[str, Any] = {}
    for entry in modes:
        if not isinstance(entry, dict):
            names.append(entry)
            continue
        parts = dict(entry)
        name = parts.pop("name", None)
        if not isinstance(name, str):
            raise ValueError(f"modes: got {entry}; a mode of parts needs a name, such as {{name: mine, kv: reuse}}")
        if not re.fullmatch(NAME_PATTERN, name):
            raise ValueError(f"modes: got name {name!r}; allowed: letters, digits, '.', '_' and '-', no sign at first")
        if name in PRESETS:
            raise ValueError(f"modes: {name!r} is the name of a preset; give the mode of parts another one")
        if name in found:
            raise ValueError(f"modes: two modes of parts are called {name!r}; allowed: one")
        names.append(name)
        found[name] = parts
    return names, found
