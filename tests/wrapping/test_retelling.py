"""Hosts that tell their past anew: common parts are shown as before, and compactions stay rare."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, pairwise
from pathlib import Path

import pytest

import erecap
from erecap.context.compaction import MARKER
from tests.wrapping.test_conversations import rows, seen


def rules(number: int) -> list[dict]:
    return [{"role": "system", "content": "Rules."}, {"role": "user", "content": "Goal: a mug."}]


def pairs(number: int) -> list[list[dict]]:
    return [
        [{"role": "assistant", "content": f"go {step % 3}"}, {"role": "user", "content": seen(step) * 2}]
        for step in range(number)
    ]


def flat(parts: Iterable[list[dict]]) -> list[dict]:
    return list(chain.from_iterable(parts))


def retold_newest(number: int) -> list[dict]:
    past = [
        message
        for step in range(number)
        for message in (
            {"role": "user", "content": f"Observation:\n{seen(step) * 2}"},
            {"role": "assistant", "content": "go"},
        )
    ]
    return [
        {"role": "user", "content": "Rules."},
        *past,
        {"role": "user", "content": f"Current Observation:\n{seen(number) * 2}"},
    ]


def sliding(number: int) -> list[dict]:
    return [*rules(number), *flat(pairs(number)[-15:])]


def sliding_without_a_goal(number: int) -> list[dict]:
    past = flat([*reversed(pair)] for pair in pairs(number))[-30:]
    return [rules(number)[0], *past, {"role": "user", "content": seen(number)}]


def counted_steps(number: int) -> list[dict]:
    return [{"role": "system", "content": f"Rules. Step {number} of 60."}, *rules(number)[1:], *flat(pairs(number))]


def aging(number: int) -> list[dict]:
    """Every old message says how old it is."""
    past = [
        [said, {**told, "content": f"{number - step} steps ago: {told['content']}"}]
        for step, (said, told) in enumerate(pairs(number))
    ]
    return [*rules(number), *flat(past)]


def horizon(number: int) -> list[dict]:
    """Two parts in each message, of which the second becomes another once it is old."""
    chat = [*rules(number), *flat(pairs(number))]
    for place, message in enumerate(chat):
        if place > 1 and message["role"] == "user":
            frame = "<frame>" if place >= len(chat) - 4 else "<old frame>"
            parts = [{"type": "text", "text": text} for text in (message["content"], frame)]
            chat[place] = {**message, "content": parts}
    return chat


def note_at_the_end(number: int) -> list[dict]:
    """The newest message carries a state that the same message lacks later."""
    chat = [*rules(number), *flat(pairs(number))]
    return [*chat[:-1], {**chat[-1], "content": f"{chat[-1]['content']}\nBattery: {number} %."}]


HOSTS: dict[Callable[[int], list[dict]], bool] = {  # and whether the front of the chat stays as it is
    retold_newest: True, sliding: True, sliding_without_a_goal: True, counted_steps: False, aging: False, horizon: True,
    note_at_the_end: True,
}  # fmt: skip


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.__name__)
def test_hosts_that_retell_their_past_are_not_compacted_at_every_call(host: Callable, tmp_path: Path) -> None:
    shown: list[list[dict]] = []
    wrapped = erecap.wrap(lambda chat: shown.append(chat) or "go", keep_tokens=600, log=tmp_path)
    for number in range(60):
        chat = host(number)
        wrapped(chat)
        assert shown[-1][0] == chat[0] and shown[-1][-1] == chat[-1]
        assert all(message in chat or message["content"] == MARKER for message in shown[-1])
    noted = rows(tmp_path)
    assert max(row["kept_tokens"] for row in noted) <= 600
    assert noted[-1]["compactions"] <= 16 and noted[-1]["thrashed"] <= 2
    late = noted[20:]
    if HOSTS[host]:
        assert sum(row["reused_tokens"] for row in late) > 0.5 * sum(row["kept_tokens"] for row in late)


def test_a_string_whose_newest_observation_is_told_anew(tmp_path: Path) -> None:
    shown: list[str] = []
    wrapped = erecap.wrap(lambda prompt: shown.append(prompt) or "go", keep_tokens=500, log=tmp_path)
    for number in range(50):
        past = "".join(f"Observation: {seen(step)}\n> go\n" for step in range(number))
        wrapped(f"Rules of the game, which are told at length.\n{past}Current Observation: {seen(number)}\n>")
    noted = rows(tmp_path)
    assert max(row["kept_tokens"] for row in noted) <= 500 < noted[-1]["prompt_tokens"]
    assert noted[-1]["compactions"] <= 16 and noted[-1]["thrashed"] <= 2
    assert all(prompt.endswith(f"Current Observation: {seen(number)}\n>") for number, prompt in enumerate(shown))


def test_thrashing_is_counted(tmp_path: Path) -> None:
    """Where little but the newest exchange fits, each call has to be compacted, and the log says so."""
    wrapped = erecap.wrap(lambda chat: "go", keep_tokens=110, log=tmp_path)
    for number in range(20):
        wrapped([*rules(number), *flat(pairs(number))])
    last = rows(tmp_path)[-1]
    assert last["compactions"] > 10 and last["thrashed"] >= last["compactions"] - 1


def test_what_saves_next_to_nothing_does_not_change_the_front(tmp_path: Path) -> None:
    """The head alone exceeds the budget: nothing that goes would bring the call within it."""
    shown: list[list[dict]] = []
    wrapped = erecap.wrap(lambda chat: shown.append(chat) or "go", keep_tokens=100, log=tmp_path)
    chat = [{"role": "system", "content": "Rules. " * 4000}, {"role": "user", "content": "Goal."}]
    for number in range(12):
        wrapped(chat)
        chat = [*chat, {"role": "assistant", "content": "go"}, {"role": "user", "content": f"mug {number}"}]
    assert rows(tmp_path)[-1]["compactions"] == 0
    assert all(later[: len(one)] == one for one, later in pairwise(shown))
