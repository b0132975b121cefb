"""The calls of a profile: texts by length, cold prefills, and replanning calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from erecap.bench.prefill import FULL, PRUNED, prefill_call
from erecap.bench.profile.settings import FLOOR, Cell, Profile
from erecap.bench.replan.calls import algorithm_call, floor_call, floor_message, kept_by, synchronise
from erecap.bench.replan.history import Count, cut, next_turn, wander
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError
from erecap.generation import JsonRow, Message
from erecap.registries import LEARNED
from erecap.session.session import ReplanSession
from erecap.tokens.scoring.by_name import scorer_for
from erecap.tokens.scoring.learned import LearnedScorer
from erecap.tokens.scoring.pruner_files import find_pruner

MARGIN = 24  # tokens that a chat template may put around the new turn and before an answer
Measured = Callable[[], JsonRow]


@dataclass(frozen=True)
class Text:
    """A household chat of at most a length."""

    messages: tuple[Message, ...]  # ends with a plan
    ids: tuple[int, ...]  # of the whole chat, rendered
    new: Message  # the turn that follows


class Texts:
    """Household chats by length; all are beginnings of the longest.

    Args:
        most: tokens of the longest one.
    """

    def __init__(self, profile: Profile, tokenizer: Any, most: int) -> None:
        self._tokenizer, self._count = tokenizer, counter(tokenizer)
        # A plan of the end2end part is decoded behind the chat, so the chat is shorter by it.
        replans = "end2end" in (profile.part, profile.of if profile.part == "memory" else None)
        self._less = profile.new_tokens + profile.plan_tokens + MARGIN if replans else 0
        self._longest: list[Message] = wander(most, self._count, seed=profile.seed)
        self._new = next_turn(profile.new_tokens, self._count, seed=profile.seed)

    def of(self, length: int) -> Text:
        """The longest beginning that leaves the call within `length` tokens.

        Raises:
            ConfigError: not even the first turn does.
        """
        messages = within(self._longest, length - self._less, self._count)
        if not messages:
            least = self._count(self._longest[:3]) + self._less
            raise ConfigError(
                f"--lengths: {length} tokens are fewer than a household chat's first turn has; allowed here: {least} "
                "or more"
            )
        return Text(tuple(messages), tuple(render_prompt(messages, self._tokenizer).input_ids), self._new)


def learned_by(profile: Profile, model: Any) -> LearnedScorer | None:
    """The trained pruner of a profile, loaded once for a model; None where it has none.

    Raises:
        ConfigError: no pruner of that name.
        ModelError: one of another model, a damaged or an untested one.
    """
    if profile.pruner is None:
        return None
    try:
        scorer = scorer_for(str(find_pruner(profile.pruner)), model)
    except ValueError as error:
        raise ConfigError(f"--pruner: {error}") from error
    assert isinstance(scorer, LearnedScorer), "a folder of a pruner"
    return scorer


def counter(tokenizer: Any) -> Count:
    """A function that counts the tokens of a rendered chat."""
    return lambda messages: len(render_prompt(messages, tokenizer).input_ids)


def within(messages: Sequence[Message], tokens: int, count: Count) -> list[Message]:
    """The longest beginning of at most `tokens` tokens that ends with a plan; empty where there is none."""
    found = cut(messages, tokens, count)
    while len(found) > 3 and count(found) > tokens:
        found = found[:-2]
    return found if count(found) <= tokens else []


def call_of(part: str, profile: Profile, cell: Cell, model: Any, tokenizer: Any, text: Text) -> Measured:
    """The call of a cell of the part `prefill` or `end2end`. Sessions of `end2end` read the chat when it is made."""
    if part == "prefill":
        return cold_call(profile, cell, model, tokenizer, text)
    return replan_call(profile, cell, model, tokenizer, text)


def cold_call(profile: Profile, cell: Cell, model: Any, tokenizer: Any, text: Text) -> Measured:
    """A read of the whole chat on an empty cache.

    `full` and `prune[...]` read it in one pass, up to the logits of the last token. Sessions read it in chunks, and
    evict between them.

    Returns:
        It returns `tokens` and `kept`, the tokens that each layer stores afterwards.
    """
    mode, learned = cell.parsed, learned_by(profile, model)
    if not mode.session:
        scorer = learned if mode.prune == LEARNED and learned else mode.prune or "recency"
        read = prefill_call(PRUNED if mode.prune else FULL, model, text.ids, cell.keep, scorer)
        return lambda: {"tokens": len(text.ids), "kept": read()}

    keeping = kept_by(mode, profile.kv_tokens, profile.seed, learned)

    def call() -> JsonRow:
        session = ReplanSession(model, tokenizer, draft=False, **keeping)
        session.read(text.messages)
        synchronise(model)
        return {"tokens": session.engine.tokens, "kept": list(session.engine.stored().per_layer)}

    return call


def replan_call(profile: Profile, cell: Cell, model: Any, tokenizer: Any, text: Text) -> Measured:
    """A replanning call after the chat: the new turn is read, and the plan decoded, plainly and in one precision.

    Returns:
        It returns `tokens` of the prompt, `kept` by layer when it returns, and milliseconds of both phases.
    """
    settings = profile.replan(cell)
    if cell.mode == FLOOR:
        alone = floor_message(tokenizer, text.messages, text.new, counter(tokenizer))
        answer = floor_call(settings, model, tokenizer, alone, product=False, plan="")
    else:
        learned = learned_by(profile, model)
        answer = algorithm_call(cell.parsed, settings, model, tokenizer, text.messages, text.new, learned)

    def call() -> JsonRow:
        generation = answer()
        usage, timing = generation.usage, generation.timing
        return {
            "tokens": usage.prompt_tokens,
            "kept": list(usage.kept_per_layer),
            "read": usage.new_tokens,
            "kv_bytes": usage.kv_bytes,
            "prefill_ms": timing.prefill_ms,
            "decode_ms": timing.decode_ms,
        }

    return call
