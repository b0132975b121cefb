"""A session's choices along a given plan, against the model's own logits."""

from __future__ import annotations

import pytest
import torch

from erecap.budget import Budget
from erecap.context.tokenize import render_prompt
from erecap.session.session import ReplanSession
from erecap.session.teacher_forcing import plan_choices
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn

PLAN = "go to fridge 1\nopen fridge 1"


def oracle(messages: list[dict], plan: str) -> list[int]:
    ids = render_prompt(messages, byte_level()).input_ids  # type: ignore[arg-type]
    wanted = byte_level()(plan, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model()(input_ids=torch.tensor([[*ids, *wanted]])).logits[0]
    return logits[len(ids) - 1 :].argmax(-1).tolist()


def test_an_unpruned_session_chooses_as_the_model_does_and_forgets_the_plan() -> None:
    session, messages = ReplanSession(model(), byte_level()), start()
    for number in range(5):
        found = plan_choices(session, messages, PLAN)  # type: ignore[arg-type]
        assert found == oracle(messages, PLAN)
        assert len(found) == len(byte_level()(PLAN, add_special_tokens=False)["input_ids"]) + 1
        messages = [*messages, *turn(PLAN, number)]
    plain = ReplanSession(model(), byte_level()).generate(messages, max_new_tokens=6)  # type: ignore[arg-type]
    after = session.generate(messages, max_new_tokens=6)  # type: ignore[arg-type]
    assert after.text == plain.text and after.usage.reused_tokens > 0


def test_a_session_under_a_budget_stays_within_it_and_differs_in_the_end() -> None:
    session, messages, same = ReplanSession(model(), byte_level(), budget=Budget(kv_tokens=96)), start(), []
    for number in range(7):
        found = plan_choices(session, messages, PLAN)  # type: ignore[arg-type]
        same.append(found == oracle(messages, PLAN))
        assert max(session.cache.kept_lengths()) <= 96
        messages = [*messages, *turn(PLAN, number)]
    assert same[0] and not all(same)


def test_beyond_the_window_there_is_nothing_to_compare() -> None:
    small = model("llama", 128)
    messages = [*start(), *turn(PLAN, 1), *turn(PLAN, 2), *turn(PLAN, 3)]
    assert plan_choices(ReplanSession(small, byte_level()), messages, PLAN) is None  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty plan"):
        plan_choices(ReplanSession(small, byte_level()), messages, "")  # type: ignore[arg-type]
