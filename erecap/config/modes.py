"""Modes: one name each, the same in code, configs, tables and plots."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from erecap.registries import mode_scorers

# Modes that keep keys and values between calls. `reuse` keeps all of them; the others evict down to the budget:
# `erecap` by the context graph and then recency, the controls by the one criterion that they are named after. `mask`
# stays within the budget as text: it blanks the oldest observations of the chat.
SESSION_MODES = ("reuse", "erecap", "recency", "random", "attention", "mask")

BUDGETED_MODES = tuple(mode for mode in SESSION_MODES if mode != "reuse")  # that keep within a run's budget

_PATTERN = re.compile(r"(?P<kind>[a-z]+)(?:\[(?P<scorer>[^\[\]]*)\])?")


@dataclass(frozen=True)
class Mode:
    """A way to make the planner's calls; every mode of a run plays the same episodes."""

    kind: Literal["full", "expert", "prune", "reuse", "erecap", "recency", "random", "attention", "mask"]
    scorer: str | None = None  # for `prune`: what ranks the tokens

    def __str__(self) -> str:
        return f"{self.kind}[{self.scorer}]" if self.scorer else self.kind

    @property
    def session(self) -> bool:
        """Whether keys and values stay between the calls of an episode."""
        return self.kind in SESSION_MODES

    @property
    def needs_model(self) -> bool:
        """False for the expert, which asks the environment."""
        return self.kind != "expert"


def mode_names() -> list[str]:
    """Every mode that a run can play."""
    return ["full", "expert", *SESSION_MODES, *(f"prune[{scorer}]" for scorer in mode_scorers())]


def parse_mode(text: str) -> Mode:
    """`"prune[attention]"` -> `Mode("prune", "attention")`.

    Raises:
        ValueError: not a mode, or not a scorer; the message names what is allowed.
    """
    allowed = f"allowed: {', '.join(mode_names())}"
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"unknown mode {text!r}; {allowed}")
    kind, scorer = match["kind"], match["scorer"]
    if kind == "prune":
        if scorer is None:
            raise ValueError(f"mode 'prune' names no scorer; {allowed}")
        if scorer not in mode_scorers():
            scorers = ", ".join(mode_scorers())
            raise ValueError(f"unknown scorer {scorer!r} in mode {text!r}; allowed: {scorers}")
        return Mode("prune", scorer)
    if scorer is not None or kind not in ("full", "expert", *SESSION_MODES):
        raise ValueError(f"unknown mode {text!r}; {allowed}")
    return Mode(kind)  # type: ignore[arg-type]  # checked against the names just above
