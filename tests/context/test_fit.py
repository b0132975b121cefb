"""Chats are made to fit: old messages go first, the goal stays, roles alternate, spans follow their text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.context.fit import MARKER, fit_messages
from erecap.context.protection import protected_spans
from erecap.errors import BudgetError
from erecap.generation import Message
from tests.context.small_tokenizers import INST, byte_level, llama_like

OVERHEAD = 3  # tokens around a message


def words(messages: Sequence[Message]) -> int:
    return sum(OVERHEAD + len(message["content"].split()) for message in messages)


def say(role: str, count: int, word: str = "word") -> Message:
    return {"role": role, "content": " ".join(f"{word}{index}" for index in range(count))}  # type: ignore[typeddict-item]


def episode(turns: int, size: int = 10) -> list[Message]:
    messages = [say("system", 5, "sys"), say("user", 5, "goal")]
    for turn in range(turns):
        messages += [say("assistant", 3, f"plan{turn}x"), say("user", size, f"seen{turn}x")]
    return messages


def test_what_fits_is_left_alone() -> None:
    messages = episode(3)
    fitted = fit_messages(messages, words, words(messages))
    assert fitted.messages == messages and (fitted.dropped, fitted.truncated_tokens) == (0, 0)


def test_oldest_pairs_go_first() -> None:
    messages = episode(6)
    fitted = fit_messages(messages, words, words(messages) - 1)
    assert fitted.messages == messages[:2] + messages[4:] and fitted.dropped == 2
    # Where just enough would be two pairs, a whole step goes.
    fitted = fit_messages(messages, words, words(messages[:2] + messages[-4:]))
    assert fitted.messages == messages[:2] + messages[-2:] and fitted.truncated_tokens == 0
    # Where so much cannot go, just enough goes.
    fitted = fit_messages(messages, words, words(messages[:2] + messages[-2:]))
    assert fitted.messages == messages[:2] + messages[-2:] and fitted.truncated_tokens == 0


def test_a_chat_that_grows_loses_the_same_for_several_calls() -> None:
    messages, limit = episode(200, size=9), 800
    begins = []
    for turns in range(10, 200):
        chat = messages[: 2 + 2 * turns]
        fitted = fit_messages(chat, words, limit)
        assert words(fitted.messages) <= limit and fitted.messages[:2] == messages[:2]
        assert fitted.messages[2:] == chat[2 + fitted.dropped :] and fitted.truncated_tokens == 0
        # No more than a step and a turn is left unused.
        assert not fitted.dropped or words(fitted.messages) > limit * 7 / 8 - words(messages[2:4])
        begins.append(fitted.dropped)
    changes = sum(a != b for a, b in pairwise(begins))
    assert begins == sorted(begins) and 0 < changes <= words(messages) / (limit / 8)


def test_newest_is_trimmed_in_the_middle() -> None:
    messages = episode(3, size=500)
    fitted = fit_messages(messages, words, 200)
    assert fitted.messages[:3] == [messages[0], messages[1], messages[-2]] and fitted.dropped == 4
    newest = fitted.messages[-1]["content"]
    head, tail = newest.split(MARKER)
    assert messages[-1]["content"].startswith(head) and messages[-1]["content"].endswith(tail)
    assert abs(len(head) - len(tail)) < 80
    # Not only does it fit, the room is used.
    assert 190 <= words(fitted.messages) <= 200
    assert fitted.truncated_tokens == words([messages[0], messages[1], *messages[-2:]]) - words(fitted.messages)


def test_goal_survives_a_long_first_observation() -> None:
    first: Message = {"role": "user", "content": "Goal: cool the apple\n" + say("user", 20_000)["content"]}
    first["protect"] = [(0, 20), (21, len(first["content"]))]
    for rest in ([], [say("assistant", 3), say("user", 40, "new")]):
        fitted = fit_messages([say("system", 5), first, *rest], words, 400)
        assert words(fitted.messages) <= 400 and fitted.dropped == 0
        kept = fitted.messages[1]
        assert kept["content"].startswith("Goal: cool the apple\n")
        assert kept["protect"][0] == (0, 20)
        # The newest observation is whole: the older one gave way.
        assert fitted.messages[2:] == rest
        assert fitted.truncated_tokens > 19_000


def test_protect_spans_follow_their_text() -> None:
    content = "keepme " + "filler " * 300 + "andme"
    newest: Message = {"role": "user", "content": content}
    newest["protect"] = [(0, 6), (700, 1400), (len(content) - 5, len(content))]
    fitted = fit_messages([say("system", 2), say("user", 2), say("assistant", 1), newest], words, 100)
    message = fitted.messages[-1]
    texts = [message["content"][start:end] for start, end in message["protect"]]
    assert texts[0] == "keepme" and texts[-1] == "andme"
    protected_spans(fitted.messages)


def test_system_and_goal_beyond_the_limit() -> None:
    with pytest.raises(BudgetError, match=r"system and goal alone take \d+ tokens; at most 20 fit"):
        fit_messages([say("system", 30), say("user", 5), say("assistant", 5), say("user", 5)], words, 20)
    goal = say("user", 50)
    goal["protect"] = [(0, len(goal["content"]))]
    with pytest.raises(BudgetError):
        fit_messages([say("system", 5), goal], words, 40)


def test_chats_of_other_shapes() -> None:
    for roles in (["user"], ["system"], ["assistant"], ["user", "user", "user"], ["assistant", "user", "assistant"]):
        messages = [say(role, 50, f"m{index}x") for index, role in enumerate(roles)]
        if roles == ["system"]:
            with pytest.raises(BudgetError):
                fit_messages(messages, words, 30)
            continue
        fitted = fit_messages(messages, words, 40)
        assert words(fitted.messages) <= 40
    middle = [say("user", 5), say("assistant", 5), say("system", 5, "rule"), say("user", 5)]
    fitted = fit_messages([*middle, say("assistant", 5), say("user", 5)], words, 35)
    assert middle[2] in fitted.messages


@pytest.mark.parametrize("make", [byte_level, lambda: llama_like(INST)], ids=["chatml", "alternating"])
def test_with_a_real_template(make) -> None:  # type: ignore[no-untyped-def]
    from erecap.context.tokenize import render_prompt

    tokenizer = make()

    def count(messages: Sequence[Message]) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    messages = episode(30, size=12)
    for limit in (count(messages) - 1, 900, 400):
        fitted = fit_messages(messages, count, limit)
        assert count(fitted.messages) <= limit and fitted.messages[:2] == messages[:2]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 8), st.integers(0, 12), st.lists(st.integers(0, 60), max_size=10), st.integers(1, 200),
    st.booleans(),
)  # fmt: skip
def test_always_fits_or_says_so(system: int, goal: int, sizes: list[int], limit: int, protect: bool) -> None:
    messages = [say("system", system), say("user", goal, "goal")]
    for turn, size in enumerate(sizes):
        messages.append(say("assistant" if turn % 2 == 0 else "user", size, f"m{turn}x"))
    if protect:
        for message in messages[1:]:
            size = len(message["content"])
            message["protect"] = [(size // 4, size // 2), (size // 2, size)]
    calls = 0

    def count(part: Sequence[Message]) -> int:
        nonlocal calls
        calls += 1
        return words(part)

    original = [dict(message) for message in messages]
    try:
        fitted = fit_messages(messages, count, limit)
    except BudgetError:
        # Nothing but the head, the stubs of one or two messages and their overhead was left.
        assert limit < system + goal + 4 * OVERHEAD + 3
        return
    assert [dict(message) for message in messages] == original
    assert words(fitted.messages) <= limit
    assert len(fitted.messages) == len(messages) - fitted.dropped
    assert fitted.messages[0] == messages[0]
    roles = [message["role"] for message in fitted.messages]
    assert all(first != second for first, second in pairwise(roles))
    assert fitted.messages[-1]["role"] == messages[-1]["role"]
    protected_spans(fitted.messages)
    assert calls < 60
