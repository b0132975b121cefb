"""One conversation whose levers change between calls."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erecap.context.tokenize import render_prompt
from erecap.generation import Message
from erecap.language_models.opened import OpenedModel
from erecap.scheduling.levers import LEVERS, rereads
from erecap.session.session import ReplanSession


@dataclass(frozen=True)
class Switch:
    """The price of bringing levers into force."""

    ms: float  # all of it
    reread_tokens: int = 0  # of the conversation, read again by a new session
    anew: bool = False  # a new session took the place of the one before


class LeverSession:
    """A session that is changed, or replaced by a new one which reads the conversation again.

    Args:
        opened: the model, with the mode's own layer plan if it has one.
        own: arguments of a `ReplanSession` as the mode has them.
    """

    def __init__(self, opened: OpenedModel, own: Mapping[str, Any]) -> None:
        self._opened, self._own = opened, dict(own)
        self.session: ReplanSession | None = None
        self.levers: Mapping[str, Any] = {}

    @property
    def evicted(self) -> bool:
        """True if the session no longer stores all that it has read."""
        return self.session is not None and self.session.evicted_tokens > 0

    def apply(self, levers: Mapping[str, Any], history: Sequence[Message]) -> Switch:
        """Bring `levers` into force.

        Args:
            history: messages that have been read; a new session reads them again.

        Raises:
            ConfigError, ModelError: a layer plan that is missing, damaged, or for another model.
            BudgetError: what no eviction may take exceeds the new budget; the levers are then as before.
            ValueError: settings that the model cannot serve.
        """
        started = time.perf_counter()
        if self.session is not None and not rereads(self.levers, levers, self.evicted):
            self._change(levers)
            return Switch(1e3 * (time.perf_counter() - started))
        replaces = self.session is not None
        session = self._made(levers)
        read = session.read(history) if history and _has_room(session, history) else 0
        self.session, self.levers = session, dict(levers)
        return Switch(1e3 * (time.perf_counter() - started), read, replaces)

    def fork(self) -> LeverSession:
        """An independent conversation with the same beginning; what is stored is shared."""
        twin = LeverSession(self._opened, self._own)
        twin.session = None if self.session is None else self.session.fork()
        twin.levers = self.levers
        return twin

    def close(self) -> None:
        """Free what is stored; the next levers make a new session."""
        self.session, self.levers = None, {}

    def _change(self, levers: Mapping[str, Any]) -> None:
        """Change the open session; where one of the levers cannot be had, all are as before."""
        names = sorted(name for name in self.levers.keys() | levers.keys() if self.levers.get(name) != levers.get(name))
        done: list[str] = []
        try:
            for name in names:
                LEVERS[name].change(self.session, levers.get(name), self._own)
                done.append(name)
        except BaseException:
            for name in done:
                LEVERS[name].change(self.session, self.levers.get(name), self._own)
            raise
        self.levers = dict(levers)

    def _made(self, levers: Mapping[str, Any]) -> ReplanSession:
        arguments: dict[str, Any] = dict(self._own)
        for name, value in sorted(levers.items()):
            arguments |= LEVERS[name].arguments(value, self._own)
        plan = arguments.pop("layers", None)
        opened = self._opened.with_layers(plan)
        session = ReplanSession(opened.model, opened.tokenizer, **arguments)
        session.measures_loss = True
        return session


def _has_room(session: ReplanSession, history: Sequence[Message]) -> bool:
    """True if a chat can be read ahead of a call: where nothing may be evicted, the call leaves old messages out."""
    if session.outlives_window:
        return True
    return len(render_prompt(history, session.tokenizer, add_generation_prompt=False).input_ids) < session.engine.window
