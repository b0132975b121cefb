"""The mode `mask` on a tiny model: within its budget, and the model's own answers for the chat that it shows."""

from __future__ import annotations

import pytest

from erecap.budget import Budget
from erecap.context.compaction import MARKER
from erecap.context.tokenize import render_prompt
from erecap.errors import BudgetError
from erecap.generation import Message
from erecap.language_models.masked import MaskedSessions
from erecap.language_models.transformers import TransformersLanguageModel
from erecap.protocols import LanguageModel
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model

NEW = 6


def chat(turns: int) -> list[Message]:
    head = "Goal: cool the apple 1.\n"
    seen = "You see a fridge 1 and a shelf 2."
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
        protect = [(0, len(command) + len(seen))] if number == turns - 1 else []
        messages += [
            {"role": "assistant", "content": f"go to shelf {number}", "protect": [], "observations": []},
            {
                "role": "user",
                "content": command + seen,
                "protect": protect,
                "observations": [(len(command), len(command) + len(seen))],
            },
        ]
    return messages


def test_answers_are_the_models_own_within_the_budget() -> None:
    masked = MaskedSessions(model(), byte_level(), budget=Budget(kv_tokens=260))
    assert isinstance(masked, LanguageModel)
    plain = TransformersLanguageModel(model(), byte_level())
    reused, masks = [], []
    for turns in range(9):
        messages = chat(turns)
        generation = masked.generate(messages, max_new_tokens=NEW)
        usage = generation.usage
        assert usage.prompt_tokens == len(render_prompt(messages, byte_level()).input_ids)
        assert max(usage.kept_per_layer) + NEW <= 260
        shown = masked.show(messages, NEW).messages
        assert plain.generate(shown, max_new_tokens=NEW).text == generation.text
        assert (MARKER in shown[1]["content"]) == (usage.masked_observations > 0)
        assert shown[-1] == messages[-1] and shown[0] == messages[0]
        assert usage.overflow_messages == usage.truncated_tokens == 0
        reused.append(usage.reused_tokens)
        masks.append((usage.masked_observations, usage.dropped_messages))
    assert masks[0] == (0, 0) and masks == sorted(masks) and masks[-1][0] > 3 and masks[-1][1] > 0
    assert any(count > 60 for count in reused[4:])  # between two maskings it only appends


def test_an_episode_starts_with_nothing_blanked() -> None:
    masked = MaskedSessions(model(), byte_level(), budget=Budget(kv_tokens=200))
    assert masked.generate(chat(8), max_new_tokens=NEW).usage.masked_observations > 0
    masked.reset()
    usage = masked.generate(chat(1), max_new_tokens=NEW).usage
    assert (usage.masked_observations, usage.reused_tokens, usage.dropped_messages) == (0, 0, 0)


def test_the_trace_names_the_messages_of_the_whole_chat() -> None:
    masked = MaskedSessions(model(), byte_level(), budget=Budget(kv_tokens=200))
    masked.trace = True
    generation = masked.generate(chat(9), max_new_tokens=NEW)
    assert generation.usage.dropped_messages > 0
    text = {n: "".join(p.text for p in generation.pieces if p.message == n) for n in range(20)}
    assert text[1].startswith("Goal: cool the apple 1.") and MARKER in text[1]
    assert text[2] == text[3] == "" and text[18] == "go to shelf 8" and text[19].startswith("> go to shelf 8\nOn the")


def test_a_goal_beyond_the_budget_is_refused() -> None:
    masked = MaskedSessions(model(), byte_level(), budget=Budget(kv_tokens=24))
    with pytest.raises(BudgetError, match="system and goal alone take"):
        masked.generate(chat(3), max_new_tokens=NEW)
