"""The text part `compact` on a tiny model: within its budget, and the model's own answers for the chat it shows."""

from __future__ import annotations

import pytest

from erecap.budget import Budget
from erecap.context.compaction import CompactView
from erecap.context.tokenize import render_prompt
from erecap.errors import BudgetError
from erecap.generation import Message
from erecap.language_models.compacted import TARGET, CompactedSessions
from erecap.language_models.transformers import TransformersLanguageModel
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model

NEW = 6
BUDGET = 260


def count(messages: list[Message]) -> int:
    return len(render_prompt(messages, byte_level()).input_ids)


def chat(turns: int) -> list[Message]:
    """A goal and what came of `turns` commands; each look at shelf 0 makes the one before stale."""
    head, seen = "Goal: cool the apple 1.\n", "You see a fridge 1 and a shelf 2."
    messages: list[Message] = [
        {"role": "system", "content": "You plan for a robot.", "observations": []},
        {
            "role": "user",
            "content": head + seen,
            "protect": [(0, len(head) - 1)],
            "observations": [(len(head), len(head) + len(seen))],
        },
    ]
    for number in range(turns):
        command, seen = f"> go to shelf {number}\n", f"On the shelf {number} you see a mug {number * 7} and a knife."
        span = (len(command), len(command) + len(seen))
        messages += [
            {"role": "assistant", "content": f"go to shelf {number}", "protect": [], "observations": []},
            {
                "role": "user",
                "content": command + seen,
                "protect": [(0, span[1])] if number == turns - 1 else [],
                "observations": [span],
                "stale": [span] if number == 1 and turns > 4 else [],
            },
        ]
    return messages


def test_answers_are_the_models_own_within_the_budget() -> None:
    compacted = CompactedSessions(model(), byte_level(), budget=Budget(kv_tokens=BUDGET))
    plain = TransformersLanguageModel(model(), byte_level())
    limit = BUDGET - NEW
    view = CompactView(count, max_tokens=limit, target_tokens=int(TARGET * limit))  # type: ignore[arg-type]
    reused, counted = [], []
    for turns in range(12):
        messages = chat(turns)
        generation = compacted.generate(messages, max_new_tokens=NEW)
        usage, shown = generation.usage, view.show(messages)
        assert usage.prompt_tokens == count(messages)
        assert max(usage.kept_per_layer) == shown.tokens <= limit
        assert generation.text == plain.generate(shown.messages, max_new_tokens=NEW).text
        assert shown.messages[-1]["content"] == messages[-1]["content"]
        assert (usage.masked_observations, usage.dropped_messages) == (shown.edited, len(shown.dropped))
        assert usage.overflow_messages == usage.truncated_tokens == 0
        reused.append((shown.compacted, usage.reused_tokens))
        counted.append(usage.dropped_messages)
    assert sum(done for done, _ in reused) >= 2 and counted[0] == 0 < counted[-1]
    assert all(tokens > 0.5 * TARGET * limit for done, tokens in reused[6:] if not done)  # in between it only appends


def test_an_episode_starts_with_nothing_left_out() -> None:
    compacted = CompactedSessions(model(), byte_level(), budget=Budget(kv_tokens=BUDGET))
    assert compacted.generate(chat(12), max_new_tokens=NEW).usage.dropped_messages > 0
    compacted.reset()
    usage = compacted.generate(chat(1), max_new_tokens=NEW).usage
    assert (usage.masked_observations, usage.reused_tokens, usage.dropped_messages) == (0, 0, 0)


def test_the_trace_names_the_messages_of_the_whole_chat() -> None:
    compacted = CompactedSessions(model(), byte_level(), budget=Budget(kv_tokens=BUDGET))
    compacted.trace = True
    for turns in (11, 12):  # the compaction, and a call that appends to it
        generation = compacted.generate(chat(turns), max_new_tokens=NEW)
        assert generation.usage.dropped_messages > 0
        newest = 2 * turns + 1
        text = {n: "".join(p.text for p in generation.pieces if p.message == n) for n in range(newest + 1)}
        assert text[1].startswith("Goal: cool the apple 1.") and text[2] == text[3] == ""
        assert text[newest - 1] == f"go to shelf {turns - 1}"
        assert text[newest].startswith(f"> go to shelf {turns - 1}\nOn the")


def test_a_goal_beyond_the_budget_is_refused() -> None:
    compacted = CompactedSessions(model(), byte_level(), budget=Budget(kv_tokens=24))
    with pytest.raises(BudgetError, match="system and goal alone take"):
        compacted.generate(chat(3), max_new_tokens=NEW)
