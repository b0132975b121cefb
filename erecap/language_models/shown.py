"""Sessions that read a chat shortened as text: shared by the modes with a `text` part."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from erecap.budget import Budget, Limit
from erecap.context.fit import Fitted, fit_messages
from erecap.context.tokenize import render_prompt
from erecap.engines.token_bytes import bytes_per_token, check_memory
from erecap.generation import Generation, Message, PromptPiece, Usage
from erecap.language_models.per_episode import EpisodeSessions
from erecap.tokens.cache.ropes import window_of_model


@dataclass(frozen=True)
class ShownChat:
    """The chat that the model is shown."""

    messages: list[Message]
    numbers: list[int]  # which message of the whole chat each of them is
    masked: int  # observations that were blanked
    dropped: int  # messages that were left out
    fitted: Fitted
    whole: int  # tokens of the whole chat


class ShownSessions(ABC):
    """A language model over sessions that keep everything of the chat that they are shown.

    A session with all of its keys and values reads the shown chat: after each change in front it reads again from the
    first character that changed, so answers are those of the unmodified model for the chat that it is shown.

    `usage.prompt_tokens` counts the whole chat, as in sessions that evict; `kept_per_layer` the shown part.

    Args:
        model, tokenizer: as for `ReplanSession`.
        budget: tokens of chat and answer together; `kv_ratio` is a share of the tokens of the whole chat. An automatic
            one is the model's window, or what of it the memory holds.
        options: more arguments of `EpisodeSessions`.

    Raises:
        ValueError: a budget with `pays`: a shorter text is re-read, which saves no time.
    """

    def __init__(self, model: Any, tokenizer: Any, *, budget: Budget, **options: Any) -> None:
        if budget.pays is not None:
            raise ValueError(f"pays={budget.pays} is for modes that evict; a text that is shortened is read anew")
        check_memory(bytes_per_token(model), budget.memory_bytes)
        self._window = window_of_model(model, reused=False)
        self._bytes_per_token = bytes_per_token(model)
        self.tokenizer = tokenizer
        self.budget = budget
        self.trace = False
        self._sessions = EpisodeSessions(model, tokenizer, **options)
        self.takes_old_plan = self._sessions.takes_old_plan
        self.forget()

    def reset(self) -> None:
        """Begin an episode: nothing of the last one is remembered."""
        self.forget()
        self._sessions.reset()

    @property
    def stored_tokens(self) -> int:
        """Tokens stored for the next call, in the layer that stores most."""
        return self._sessions.stored_tokens

    def generate(self, messages: Sequence[Message], *, max_new_tokens: int, **options: Any) -> Generation:
        """As `ReplanSession.generate`.

        Raises:
            BudgetError: system and goal alone exceed the budget.
        """
        started = time.perf_counter()
        shown = self.show(messages, max_new_tokens)
        spent = 1e3 * (time.perf_counter() - started)
        self._sessions.trace = self.trace
        generation = self._sessions.generate(shown.messages, max_new_tokens=max_new_tokens, **options)
        timing = generation.timing
        return replace(
            generation,
            usage=_usage(generation.usage, shown),
            dropped_because=self._why_dropped(shown) or generation.dropped_because,
            timing=replace(timing, tokenize_ms=timing.tokenize_ms + spent, total_ms=timing.total_ms + spent),
            pieces=tuple(_renumbered(piece, shown.numbers) for piece in generation.pieces),
        )

    @abstractmethod
    def forget(self) -> None:
        """Forget how the chat of the last episode was shortened."""

    @abstractmethod
    def show(self, messages: Sequence[Message], max_new_tokens: int) -> ShownChat:
        """The chat that the model is shown, with room for an answer of `max_new_tokens`; remembers what it shortens."""

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of a chat."""
        return len(render_prompt(messages, self.tokenizer).input_ids)

    def limit(self, whole: int, max_new_tokens: int) -> int:
        """Tokens that may be shown of a chat of `whole` tokens."""
        room = self._limit(whole)
        return whole if room is None else max(1, room.most - max_new_tokens)

    def _limit(self, whole: int) -> Limit | None:
        return self.budget.limit(read=whole, window=self._window, bytes_per_token=self._bytes_per_token)

    def _why_dropped(self, shown: ShownChat) -> str | None:
        fitted, limit = shown.fitted, self._limit(shown.whole)
        if limit is None or not (shown.masked or shown.dropped or fitted.dropped or fitted.truncated_tokens):
            return None
        return f"chat and answer are kept within {limit.reason}"

    def fitted(
        self, rest: Sequence[Message], limit: int, gone: Sequence[int], given: int, masked: int, whole: int
    ) -> ShownChat:
        """The shown chat, shortened until `rest` fits where nothing else helps.

        Args:
            rest: the chat as it was shortened.
            gone: numbers of the messages that it lacks, of the `given` messages of the whole chat.
        """
        fitted = fit_messages(rest, self.count, limit)
        left_out = set(gone)
        numbers = [number for number in range(given) if number not in left_out]
        head = next((place + 1 for place, message in enumerate(rest) if message["role"] == "user"), 0)
        del numbers[head : head + fitted.dropped]
        return ShownChat(fitted.messages, numbers, masked, len(left_out), fitted, whole)


def _usage(usage: Usage, shown: ShownChat) -> Usage:
    return replace(
        usage,
        prompt_tokens=shown.whole,
        overflow_messages=usage.overflow_messages + shown.fitted.dropped,
        truncated_tokens=usage.truncated_tokens + shown.fitted.truncated_tokens,
        masked_observations=shown.masked,
        dropped_messages=shown.dropped,
    )


def _renumbered(piece: PromptPiece, numbers: Sequence[int]) -> PromptPiece:
    """`piece` with the number that its message has in the whole chat."""
    return replace(piece, message=numbers[piece.message]) if piece.message >= 0 else piece
