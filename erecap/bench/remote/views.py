"""Views of a growing chat for a remote planner: the ways of shortening that are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from erecap.context.compaction import CompactView, mask_messages
from erecap.context.compaction.mask import CountTokens, Place
from erecap.context.fit import drop_oldest
from erecap.context.lines import PATTERNS, annotate
from erecap.cost.prices import ModelPrices
from erecap.errors import ConfigError
from erecap.generation import Message

LOW_WATERMARK = 0.9  # share of the budget that masking leaves, as in the mode `mask`


class View(Protocol):
    """Shows one conversation, call by call."""

    def show(self, messages: Sequence[Message], calls_left: int) -> list[Message]:
        """The messages that are sent for the chat up to now."""


class Everything:
    """Sends the whole chat."""

    def show(self, messages: Sequence[Message], calls_left: int) -> list[Message]:
        return list(messages)


class Newest:
    """Leaves out the oldest messages as soon as the chat is too long; the head and the newest message stay."""

    def __init__(self, count: CountTokens, budget: int) -> None:
        self._count, self._budget = count, budget

    def show(self, messages: Sequence[Message], calls_left: int) -> list[Message]:
        tokens = self._count(messages)
        return list(messages) if tokens <= self._budget else drop_oldest(messages, self._count, self._budget, tokens)[0]


class Masking:
    """Blanks the oldest observations; a blanked one stays blanked."""

    def __init__(self, count: CountTokens, budget: int) -> None:
        self._count, self._budget = count, budget
        self._masked: frozenset[Place] = frozenset()

    def show(self, messages: Sequence[Message], calls_left: int) -> list[Message]:
        marked = annotate(messages, PATTERNS["erecap"])
        shown = mask_messages(marked, None, self._count, already=self._masked)
        if shown.tokens > self._budget:
            target = int(LOW_WATERMARK * self._budget)
            shown = mask_messages(marked, target, self._count, already=self._masked)
        self._masked = shown.places
        return shown.messages


class Compacting:
    """Compacts record by record, seldom and far; with prices also before it must."""

    def __init__(self, count: CountTokens, budget: int, prices: ModelPrices | None = None) -> None:
        self._view = CompactView(count, max_tokens=budget, prices=prices)

    def show(self, messages: Sequence[Message], calls_left: int) -> list[Message]:
        self._view.calls_left = calls_left
        return self._view.show(annotate(messages, PATTERNS["erecap"])).messages


class LiteLLM:
    """`litellm.compress`: messages that match the newest one least (BM25) become stubs.

    Raises:
        ConfigError: the package litellm is not installed.
    """

    def __init__(self, budget: int) -> None:
        try:
            import litellm
        except ImportError as error:
            raise ConfigError("litellm: the package litellm is not installed; pip install litellm") from error
        if not hasattr(litellm, "compress"):
            raise ConfigError("litellm: this version has no `compress`; 1.109 and later have it")
        self._litellm: Any = litellm
        self._budget = budget

    def show(self, messages: Sequence[Message], calls_left: int) -> list[Message]:
        plain = [{"role": message["role"], "content": message["content"]} for message in messages]
        # The model's name only chooses the tokenizer that LiteLLM counts with.
        done = self._litellm.compress(
            plain, "gpt-4o-mini", compression_trigger=self._budget, compression_target=int(0.6 * self._budget)
        )
        return done["messages"]


VIEWS: dict[str, Callable[[CountTokens, int, ModelPrices], View]] = {
    "none": lambda count, budget, prices: Everything(),
    "recency": lambda count, budget, prices: Newest(count, budget),
    "mask": lambda count, budget, prices: Masking(count, budget),
    "compact": lambda count, budget, prices: Compacting(count, budget),
    "compact-priced": lambda count, budget, prices: Compacting(count, budget, prices),
    "litellm": lambda count, budget, prices: LiteLLM(budget),
}
