"""The first user message is the goal, and stays whole, also where it is the newest message."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erecap.budget import Budget
from erecap.engines.tiny import BYTES, TinyModel
from erecap.errors import BudgetError
from erecap.registries import SINKS
from erecap.session import ReplanSession
from erecap.session.conversation.transcript import Mark
from erecap.session.eviction import HEAD, NEWEST, priorities
from tests.session.characters import LETTERS, Characters

GOAL = {"role": "user", "content": "bring the red mug to the shelf, then the blue one. " * 4}
SYSTEM = {"role": "system", "content": "you plan"}
LATER = [{"role": "assistant", "content": "go"}, {"role": "user", "content": "a shelf", "protect": []}]
WORDS = r"system, goal and format take \d+ tokens, the budget is kv_tokens=100"


def made(**options: Any) -> ReplanSession:
    return ReplanSession(TinyModel(), Characters(), engine="tiny", budget=Budget(kv_tokens=100), **options)


@pytest.mark.parametrize("before", [[], [SYSTEM]], ids=["alone", "behind system"])
@pytest.mark.parametrize("after", [[], LATER], ids=["newest", "followed"])
def test_a_goal_beyond_the_budget_is_refused_in_the_same_words(before: list, after: list) -> None:
    messages = [*before, GOAL, *after]
    for asked in (
        lambda session: session.generate(messages, max_new_tokens=4),
        lambda session: session.read(messages),
        lambda session: session.append(messages),
    ):
        session = made()
        with pytest.raises(BudgetError, match=WORDS):
            asked(session)
        # It is as before, and goes on with a chat that fits.
        answer = session.generate(
            [{"role": "user", "content": "go"}], max_new_tokens=2, allowed_tokens=lambda ids: LETTERS
        )
        assert len(answer.text) == 2 and session.engine.stored().most <= 100


@pytest.mark.parametrize("times", [8, 80])
@pytest.mark.parametrize("budget", [Budget(kv_tokens=100), Budget.auto(memory_bytes=100 * BYTES)], ids=str)
def test_the_refusal_counts_what_is_not_read_yet(times: int, budget: Budget) -> None:
    goal = {"role": "user", "content": "bring the red mug." * times}
    session = ReplanSession(TinyModel(), Characters(), engine="tiny", budget=budget)
    with pytest.raises(BudgetError, match="nor is the first user message, unless it says what of it to protect") as one:
        session.generate([goal], max_new_tokens=4)
    with pytest.raises(BudgetError) as other:
        session.generate([SYSTEM, goal, *LATER], max_new_tokens=4)
    said = [re.findall(r"take ([\d,]+) tokens", str(caught.value))[0] for caught in (one, other)]
    size = len(goal["content"])
    assert [int(count.replace(",", "")) for count in said] == [SINKS + size, SINKS + len(SYSTEM["content"]) + size]


@pytest.mark.parametrize("how", ["generate", "append"])
def test_a_goal_that_says_what_to_keep_is_trimmed_in_its_middle(how: str) -> None:
    goal = {**GOAL, "protect": [(0, len(GOAL["content"]))]}
    session = made()
    if how == "append":
        session.append([goal])
        session.generate(max_new_tokens=4)
    else:
        session.generate([goal], max_new_tokens=4)
    assert session.engine.stored().most == 100


def test_a_later_newest_message_is_trimmed_and_the_goal_is_not(tmp_path: Path) -> None:
    session, goal = made(), {"role": "user", "content": "bring the red mug"}
    long = {"role": "user", "content": "a shelf with a mug. " * 20}
    session.append([goal])
    session.generate(max_new_tokens=4, allowed_tokens=lambda ids: LETTERS)
    session.save(tmp_path / "a.safetensors")
    again = made()
    again.restore(tmp_path / "a.safetensors")
    for one in (session, again):
        one.append([long])
        mark = one.conversation.transcript.marks[0]
        stored = one.engine.stored().indices
        assert set(range(mark.first, mark.tokens)) <= set(stored.tolist()) and len(stored) == 100


def test_a_stale_part_of_the_goal_is_not_protected() -> None:
    session = made()
    session.append([{"role": "user", "content": "bring the red mug, and then the blue one"}])
    session.generate(max_new_tokens=4, allowed_tokens=lambda ids: LETTERS)
    session.append([{"role": "user", "content": "a shelf with a mug. " * 20}], stale=[(0, 17, 40)])
    mark = session.conversation.transcript.marks[0]
    stored = set(session.engine.stored().indices.tolist())
    first, second = mark.indices(0, 17), mark.indices(17, 40)
    assert set(range(*first)) <= stored and not set(range(*second)) & stored


@pytest.mark.parametrize(("claim", "level"), [({}, HEAD), ({"protect": [(0, 4)]}, NEWEST)])
def test_priority_of_a_goal_that_is_the_newest_message(claim: dict, level: float) -> None:
    messages = [{"role": "system", "content": "ab"}, {"role": "user", "content": "goal", **claim}]
    marks = [Mark(n, 0, b"", n * 4 + 4, True, n * 4, (0, 1, 2, 3)) for n in range(2)]
    found = priorities(np.arange(8), marks, messages, [(0, 0, 4), (1, 0, 4)], sinks=0)
    assert found.tolist() == [HEAD] * 4 + [level] * 4
