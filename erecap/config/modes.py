"""Modes: compositions of settings for a planner's calls, and the presets with one name everywhere.

A preset is named by a string, the same in code, configs, tables and plots. A run may compose modes of its own from the
same parts (`erecap.config.composition`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from erecap.config.exits import Exit
from erecap.registries import EVICT_BY, LEARNED, mode_scorers

if TYPE_CHECKING:
    from erecap.config.controller import ControllerSettings

_PRUNE = re.compile(r"prune\[([^\[\]]*)\]")


@dataclass(frozen=True)
class Evict:
    """Eviction of stored tokens down to the run's budget."""

    # One of `EVICT_BY`; `learned`: the run's trained pruner; any other text: the name or folder of a trained pruner.
    # None: the run's pruner if it has one, else recency.
    by: str | None = None
    stale_first: bool = False  # evict tokens that the context graph calls stale before all others
    kv_tokens: int | Literal["auto"] | None = None  # a budget of the mode's own; None: the run's


@dataclass(frozen=True)
class Decode:
    """Decoding settings of a mode."""

    # Propose tokens that followed the newest ones before, by a way of `DRAFTS`; True: by the default one. Answers stay
    # the same.
    draft: bool | str = True
    weights: Literal["same", "int8", "int4"] | None = None  # None: the run's `decode_weights`
    exit: Exit | None = None  # name tokens with the first layers, verified by all; None: all layers name them


@dataclass(frozen=True)
class Mode:
    """A composition of settings for the planner's calls; every mode of a run plays the same episodes."""

    name: str  # in rows, tables and plots
    # Keys and values between calls: `reread` keeps none, `reuse` all, `Evict` as many as the budget allows.
    kv: Literal["reread", "reuse"] | Evict = "reread"
    prune: str | None = None  # what ranks prompt tokens for pruning at prefill: a registered scorer, or `learned`
    text: Literal["mask", "compact"] | None = None  # keep the chat within the budget as text; only with `reuse`
    layers: str | None = None  # name or folder of the layer plan that the model is run with; None: the run's
    decode: Decode = field(default_factory=Decode)  # only with `reuse` and `Evict`
    engine: str = "transformers"  # what holds keys and values and runs the model: a name of `ENGINES`
    expert: bool = False  # the environment's expert plans, and no model is asked
    controller: ControllerSettings | None = None  # what changes the session's levers between calls; None: the run's
    served: bool = False  # a server answers, which keeps of the chat what it likes; the run's `model` is its URL

    def __str__(self) -> str:
        return self.name

    @property
    def preset(self) -> bool:
        """True if the mode is a preset, so that its name alone says what it does."""
        return self.name in PRESETS or "[" in self.name

    @property
    def session(self) -> bool:
        """True if keys and values stay between the calls of an episode."""
        return self.kv != "reread"

    @property
    def needs_model(self) -> bool:
        """False for the expert, which asks the environment."""
        return not self.expert

    @property
    def opens_model(self) -> bool:
        """True if a model answers that is opened here: neither the expert nor a server."""
        return not (self.expert or self.served)

    @property
    def budgeted(self) -> bool:
        """True if a budget limits what the mode keeps: the run's, or one of its own."""
        return isinstance(self.kv, Evict) or self.text is not None

    @property
    def own_kv_tokens(self) -> int | Literal["auto"] | None:
        """The budget that the mode states itself; None: the run's counts."""
        return self.kv.kv_tokens if isinstance(self.kv, Evict) else None

    @property
    def takes_run_pruner(self) -> bool:
        """True if the run's trained pruner ranks tokens, where the run has one."""
        return self.prune == LEARNED or (isinstance(self.kv, Evict) and self.kv.by in (None, LEARNED))

    @property
    def needs_run_pruner(self) -> bool:
        """True if the mode cannot be played without the run's trained pruner."""
        return self.prune == LEARNED or (isinstance(self.kv, Evict) and self.kv.by == LEARNED)

    @property
    def own_pruner(self) -> str | None:
        """Name or folder of the trained pruner that the mode names itself."""
        by = self.kv.by if isinstance(self.kv, Evict) else None
        return None if by in (None, LEARNED, *EVICT_BY) else by

    def parts(self) -> dict[str, Any]:
        """The parts that differ from those of `full`, as a run's configuration states them."""
        found: dict[str, Any] = {}
        if isinstance(self.kv, Evict):
            found["kv"] = {"evict": self.kv.by, "stale_first": self.kv.stale_first}
            if self.kv.kv_tokens is not None:
                found["kv"]["kv_tokens"] = self.kv.kv_tokens
        elif self.session:
            found["kv"] = self.kv
        decode = {"draft": self.decode.draft, "weights": self.decode.weights}
        usual = {"draft": True, "weights": None}
        changed: dict[str, Any] = {key: value for key, value in decode.items() if value != usual[key]}
        if self.decode.exit is not None:
            changed["exit"] = self.decode.exit.parts()
        engine = self.engine if self.engine != "transformers" else None
        controller = self.controller.model_dump(exclude_none=True) if self.controller is not None else None
        rest = {
            "prune": self.prune, "text": self.text, "layers": self.layers, "decode": changed or None, "engine": engine,
            "controller": controller,
        }  # fmt: skip
        return found | {key: value for key, value in rest.items() if value is not None}


PRESETS: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("full"),
        Mode("expert", expert=True),
        Mode("reuse", kv="reuse"),
        Mode("erecap", kv=Evict(stale_first=True)),
        *(Mode(criterion, kv=Evict(by=criterion)) for criterion in EVICT_BY),
        Mode("mask", kv="reuse", text="mask"),
        Mode("served", served=True),
    )
}
SESSION_MODES = tuple(name for name, mode in PRESETS.items() if mode.session)
BUDGETED_MODES = tuple(name for name, mode in PRESETS.items() if mode.budgeted)  # that keep within a run's budget


def is_url(model: str) -> bool:
    """True if a run's `model` is the URL of a server that holds it."""
    return model.startswith(("http://", "https://"))


def mode_names() -> list[str]:
    """Every preset that a run can play."""
    return [*PRESETS, *(f"prune[{scorer}]" for scorer in mode_scorers())]


def parse_mode(text: str) -> Mode:
    """The preset of that name: `"prune[attention]"` -> `Mode("prune[attention]", prune="attention")`.

    Raises:
        ValueError: not a preset, or not a scorer; the message names what is allowed.
    """
    name = text.strip()
    if name in PRESETS:
        return PRESETS[name]
    allowed = f"allowed: {', '.join(mode_names())}"
    if name == "prune":
        raise ValueError(f"mode 'prune' names no scorer; {allowed}")
    match = _PRUNE.fullmatch(name)
    if match is None:
        raise ValueError(f"unknown mode {text!r}; {allowed}")
    scorer = match[1]
    if scorer not in mode_scorers():
        raise ValueError(f"unknown scorer {scorer!r} in mode {text!r}; allowed: {', '.join(mode_scorers())}")
    return Mode(f"prune[{scorer}]", prune=scorer)
