"""Recorded conversations as a remote planner would have been sent them: tokens, dollars, and facts that are lost.

Nothing is asked of a model: the recorded answers are taken, and what each call would have sent is counted. A server
finds the beginning of a prompt in its cache as far as it is that of the call before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from erecap.bench.remote.kept_facts import needed_facts, told
from erecap.bench.remote.views import VIEWS
from erecap.context.tokenize import render_prompt
from erecap.cost.prices import ModelPrices
from erecap.errors import ConfigError
from erecap.generation import JsonRow, Message


@dataclass(frozen=True)
class Talk:
    """A recorded conversation."""

    messages: list[Message]
    plans: Sequence[tuple[int, str]]  # per planning call: how many messages it was sent, and what an expert answered


@dataclass(frozen=True)
class RemoteBench:
    """Settings of `erecap bench remote`.

    Raises:
        ConfigError: an unknown view, or numbers that make no sense.
    """

    views: Sequence[str] = ("none", "recency", "mask", "compact", "compact-priced")
    budget: int = 1024  # tokens of a prompt
    cache_block: int = 128  # a cached prefix is a multiple of so many tokens
    cache_least: int = 1024  # and has at least so many

    def __post_init__(self) -> None:
        unknown = [name for name in self.views if name not in VIEWS]
        if unknown or not self.views:
            raise ConfigError(f"views: got {', '.join(unknown) or 'none'}; allowed: {', '.join(VIEWS)}")
        if min(self.budget, self.cache_block) < 1 or self.cache_least < 0:
            raise ConfigError("budget and cache_block must be at least 1, cache_least at least 0")

    def measure(self, conversations: Iterable[Talk], tokenizer: Any, prices: ModelPrices) -> JsonRow:
        """`rows`, one per view, and what they were measured on.

        Raises:
            ConfigError: no conversation has a planning call, or a view's package is missing.
        """

        def ids(messages: Sequence[Message]) -> list[int]:
            return render_prompt(messages, tokenizer).input_ids

        def count(messages: Sequence[Message]) -> int:
            return len(ids(messages)) if messages else 0

        sums = {name: _Sums() for name in self.views}
        talks = 0
        for talk in conversations:
            talks += bool(talk.plans)
            for name in self.views:
                view = VIEWS[name](count, self.budget, prices)
                before: list[int] = []
                for number, (sent, plan) in enumerate(talk.plans):
                    whole = talk.messages[:sent]
                    shown = view.show(whole, len(talk.plans) - number - 1)
                    prompt = ids(shown)
                    needed = told(needed_facts(plan), whole)
                    answer = len(tokenizer(plan, add_special_tokens=False)["input_ids"])
                    sums[name].add(len(prompt), self._cached(before, prompt), answer, needed, told(needed, shown))
                    before = prompt
        if not talks:
            raise ConfigError("no conversation has a planning call; `erecap collect` makes such data")
        return {
            "budget": self.budget,
            "cache": {"block": self.cache_block, "least": self.cache_least},
            "prices": prices.model_dump(),
            "conversations": talks,
            "calls": sums[self.views[0]].calls,
            "rows": [{"view": name, **sums[name].row(prices, self.budget)} for name in self.views],
        }

    def _cached(self, before: Sequence[int], prompt: Sequence[int]) -> int:
        """Tokens of `prompt` that the server has from the call before."""
        same = 0
        for one, other in zip(before, prompt, strict=False):
            if one != other:
                break
            same += 1
        same -= same % self.cache_block
        return same if same >= self.cache_least else 0


@dataclass
class _Sums:
    calls: int = 0
    prompt: list[int] = field(default_factory=list)
    cached: int = 0
    output: int = 0
    needed: int = 0
    lost: int = 0
    spoiled: int = 0  # calls that lack a fact

    def add(self, prompt: int, cached: int, output: int, needed: set, told_now: set) -> None:
        self.calls += 1
        self.prompt.append(prompt)
        self.cached += cached
        self.output += output
        self.needed += len(needed)
        self.lost += len(needed - told_now)
        self.spoiled += bool(needed - told_now)

    def row(self, prices: ModelPrices, budget: int) -> JsonRow:
        total = sum(self.prompt)
        new = total - self.cached

        def dollars(caching: bool) -> float:
            paid = prices.dollars(cached=self.cached, uncached=new, output=self.output, caching=caching)
            return round(paid, 6)

        return {
            "prompt_tokens": total,
            "longest": max(self.prompt),
            "within_budget": round(sum(n <= budget for n in self.prompt) / self.calls, 4),
            "cached_share": round(self.cached / total, 4),
            "dollars": dollars(True),
            "dollars_without_cache": dollars(False),
            "facts_lost": round(self.lost / max(1, self.needed), 4),
            "calls_without_a_fact": round(self.spoiled / self.calls, 4),
        }
