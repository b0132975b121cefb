"""Measurement of what reading everything again takes, beside a language model that keeps what it has read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Protocol

from erecap.generation import Generation, Message
from erecap.protocols import ForkingModel, LanguageModel, ReadingModel

ONLY_KEPT = ("old_plan", "trigger")  # options of a call that only a scheduled session takes


class KeepingModel(ForkingModel, ReadingModel, Protocol):
    """A language model that keeps what it has read between calls, also before it is asked to answer."""

    def fork(self, messages: Sequence[Message]) -> KeepingModel: ...


class RereadBeside:
    """A language model, some of whose calls are made once more on an empty cache (`Generation.reread`).

    The answers are those of the model. The calls beside it change nothing but the time that an episode takes.

    Args:
        kept: the model that answers.
        again: makes the calls beside it, from nothing each time.
        every: the first call of an episode and every such call after it are made once more; 1: all of them.
    """

    def __init__(self, kept: KeepingModel, again: LanguageModel, every: int) -> None:
        self.kept, self.again, self.every = kept, again, every
        self._calls = count()

    @property
    def trace(self) -> bool:
        """True if answers say which share of the layers kept each piece of the prompt."""
        return self.kept.trace

    @trace.setter
    def trace(self, value: bool) -> None:
        self.kept.trace = value

    @property
    def tokenizer(self) -> Any | None:
        """The tokenizer of the model that answers."""
        return self.kept.tokenizer

    @property
    def takes_old_plan(self) -> bool:
        """True if the model that answers takes it."""
        return self.kept.takes_old_plan

    def reset(self) -> None:
        """Begin an episode."""
        self.kept.reset()
        self.again.reset()
        self._calls = count()

    def fork(self, messages: Sequence[Message]) -> RereadBeside:
        """A conversation of its own; of the calls of all forks together, every so many are made once more."""
        twin = copy.copy(self)
        twin.kept = self.kept.fork(messages)
        return twin

    @property
    def stored_tokens(self) -> int:
        """Tokens that the model which answers has stored for its next call."""
        return self.kept.stored_tokens

    def read(self, messages: Sequence[Message]) -> int:
        """Let the model that answers read what is new of a chat; returns the tokens read."""
        return self.kept.read(messages)

    def generate(self, messages: Sequence[Message], **options: Any) -> Generation:
        """Answer as the model does; a call that is due is made once more afterwards."""
        answer = self.kept.generate(messages, **options)
        due = next(self._calls) % self.every == 0
        if not due or not answer.usage.prompt_tokens:  # a scheduler may have deferred it
            return answer
        self.again.reset()
        rest = {name: value for name, value in options.items() if name not in ONLY_KEPT}
        reread = self.again.generate(messages, **rest)
        self.again.reset()  # frees its keys and values
        return replace(answer, reread=reread)
