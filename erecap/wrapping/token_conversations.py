"""The conversations that a wrapped model has read, found by the longest common beginning of their tokens."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

import torch

from erecap.engines.newest_attention import NewestAttention
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.cache.shared_storage import stored_bytes

LEAST_SHARED = 8  # tokens; a shorter common beginning makes no fork
SLACK = 8  # tokens: a chat template may write the header of an answer anew once the answer is there
LEAST_STORED = 0.5  # share of what is stored, or of the common beginning, that a roll back has to leave


def _no_tokens() -> torch.Tensor:
    return torch.empty(0, dtype=torch.long, device="cpu")


@dataclass(eq=False)
class TokenConversation:
    """One growing text: its keys and values, and the tokens that they belong to."""

    cache: PrunedCache
    tokens: torch.Tensor = field(default_factory=_no_tokens)  # (read,) on the CPU
    asked: int = 0  # tokens of the newest prompt; those read behind it are of its answer
    first: int = 0  # tokens of the first prompt
    shift: int = 0  # token index minus position of the next token; above 0 once it was repositioned
    evicted: int = 0  # tokens evicted so far
    attention: NewestAttention | None = None
    dropped_because: str | None = None  # the reason of the newest eviction in this call; None: there was none

    @property
    def read(self) -> int:
        """Tokens read, evicted ones included."""
        return len(self.tokens)

    @property
    def stored(self) -> int:
        """Tokens that the fullest layer stores."""
        return max(self.cache.kept_lengths(), default=0)

    @property
    def next_position(self) -> int:
        """Position of the next token."""
        return self.read - self.shift

    def kept_of_prompt(self, tokens: int) -> tuple[int, ...]:
        """Return for each layer how many of the first `tokens` tokens it stores, while all behind them are stored."""
        behind = max(0, self.cache.get_seq_length() - tokens)
        return tuple(max(0, kept - behind) for kept in self.cache.kept_lengths())

    def common(self, prompt: torch.Tensor) -> int:
        """Length of the longest common beginning with `prompt` `(n,)`."""
        length = min(len(prompt), self.read)
        differ = (prompt[:length] != self.tokens[:length]).nonzero()
        return int(differ[0]) if len(differ) else length

    def roll_back(self, tokens: int) -> None:
        """Roll back to the first `tokens` tokens."""
        if tokens >= self.read:
            return
        self.cache.crop(tokens - self.read)
        self.tokens, self.asked = self.tokens[:tokens], min(self.asked, tokens)
        self.attention = None
        if self.shift:  # go on right behind the last token that is still stored
            last = max((int(layout.positions.max()) for layout in self.cache.layouts() if layout.width), default=-1)
            self.shift = tokens - (last + 1)

    def fork(self) -> TokenConversation:
        """An independent conversation with the same beginning."""
        return TokenConversation(
            self.cache.fork(), self.tokens, self.asked, self.first, self.shift, self.evicted, self.attention
        )


@dataclass(frozen=True)
class ConversationSummary:
    """Totals of what a wrapped model stores between calls."""

    count: int  # conversations
    stored_tokens: int  # of all conversations, in their fullest layers
    kv_bytes: int  # keys and values of all conversations; what they share counts once


class TokenConversations:
    """Holds conversations between calls, the most recently used last. A call takes one out and gives it back.

    Args:
        most: conversations held.
        memory_bytes: keys and values held, of all conversations together.
    """

    def __init__(self, most: int, memory_bytes: int) -> None:
        self.most, self.memory_bytes = most, memory_bytes
        self._idle: list[TokenConversation] = []
        # Prompts of conversations that were dropped, and the reason: the call that goes on with one is told of it.
        self._dropped: deque[tuple[torch.Tensor, str]] = deque(maxlen=most)
        self._lock = threading.Lock()

    def take(self, prompt: torch.Tensor) -> tuple[TokenConversation | None, str]:
        """The conversation that `prompt` `(n,)` continues, rolled back to the common beginning, and why this one.

        A prompt that continues everything that was asked before goes on in place. One that leaves it earlier gets a
        fork, so that the other conversation can go on as well. At least one token of `prompt` remains to be read.

        Returns:
            None where no conversation shares enough with `prompt`.
        """
        with self._lock:
            shared = [(min(held.common(prompt), len(prompt) - 1), n) for n, held in enumerate(self._idle)]
            tokens, number = max(shared, default=(0, 0))
            if tokens < min(LEAST_SHARED, len(prompt) - 1) or tokens == 0:
                return None, self._why_new(prompt)
            found = self._idle[number]
            if found.evicted:
                still = int((found.cache.stored_index() < tokens).sum())
                if still < LEAST_STORED * min(tokens, found.stored):
                    return None, "a new conversation: most of the common beginning was evicted"
            # The oldest of a full house would be thrown out for its own fork.
            oldest = number == 0 and len(self._idle) >= self.most
            if tokens >= found.asked - SLACK or oldest:
                del self._idle[number]
                why = f"continued at token {tokens}"
            else:
                found, why = found.fork(), f"forked at token {tokens}"
            found.roll_back(tokens)
        return found, why

    def _why_new(self, prompt: torch.Tensor) -> str:
        """Why `prompt` continues no stored conversation."""
        for asked, why in reversed(self._dropped):
            if len(asked) <= len(prompt) and torch.equal(prompt[: len(asked)], asked):
                return f"a conversation that is no longer stored: {why}"
        return "a new conversation"

    def give_back(self, conversation: TokenConversation) -> str | None:
        """Hold `conversation` as the most recently used one; drop the least recently used ones that exceed a bound.

        Returns:
            None, or the reason why not even `conversation` alone could be held.
        """
        why = None
        with self._lock:
            self._idle.append(conversation)
            while len(self._idle) > self.most:
                self._drop(f"{self.most} newer ones are")
            while self._idle and (taken := self._bytes()) > self.memory_bytes:
                alone = len(self._idle) == 1
                bound = f"than the memory of {self.memory_bytes:,}"
                why = f"it takes {taken:,} bytes, more {bound}" if alone else None
                self._drop(why or f"with newer ones it took {taken:,} bytes, more {bound}")
        return why

    def _drop(self, why: str) -> None:
        """Drop the least recently used conversation and remember its prompt, but for an end that may change."""
        dropped = self._idle.pop(0)
        length = dropped.asked - SLACK if dropped.asked >= 2 * SLACK else dropped.asked
        self._dropped.append((dropped.tokens[:length].clone(), why))

    def idle(self) -> list[TokenConversation]:
        """The conversations that are not in use, the most recently used last."""
        with self._lock:
            return list(self._idle)

    def clear(self) -> None:
        """Forget all conversations that are not in use."""
        with self._lock:
            self._idle.clear()
            self._dropped.clear()

    def summary(self) -> ConversationSummary:
        """Totals of what is stored."""
        with self._lock:
            stored = sum(held.stored for held in self._idle)
            return ConversationSummary(len(self._idle), stored, self._bytes())

    def _bytes(self) -> int:
        return stored_bytes(layer for held in self._idle for layer in held.cache.layers)
