"""A session whose call was broken off anywhere goes on like a fork that nothing happened to; threads do not meet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from erecap.budget import Budget
from erecap.engines.rotate_keys import KeyRotator
from erecap.session import ReplanSession
from erecap.tokens import PruneConfig
from erecap.tokens.cache.storage import KVLayer
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start
from tests.session.test_append import SETTINGS, observation
from tests.session.test_properties import check

KINDS = [kind for kind in SETTINGS if kind != "budget"]  # `attention` and the others have one
NEW = 8
TURNS = 4


def session_of(kind: str) -> ReplanSession:
    return ReplanSession(model(), byte_level(), **SETTINGS[kind])


def play(session: ReplanSession, first: int, turns: int) -> list[Any]:
    """Answers and state over some turns of the session's own chat; the chat ends with an observation."""
    seen: list[Any] = []
    for number in range(first, first + turns):
        generation = session.generate(max_new_tokens=NEW)
        session.append([observation(number)])
        seen += [generation.text, session.token_ids, session.cache.kept_lengths()]
    return seen


class Planted:
    """Lets the n-th call of a method fail."""

    def __init__(self, owner: Any, name: str, calls: int, error: type[BaseException], monkeypatch: Any) -> None:
        self.left = calls
        original = getattr(owner, name)

        def watched(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise error("planted")
            return original(*args, **options)

        monkeypatch.setattr(owner, name, watched)


def broken_off(session: ReplanSession, error: type[BaseException], call: Callable[[], Any]) -> None:
    with pytest.raises(error, match="planted"):
        call()
    assert session.cache.reading is None
    check(session, None, False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("layer_calls", "error"),
    [(1, MemoryError), (8, KeyboardInterrupt), (9, RuntimeError), (23, KeyboardInterrupt)],
)
def test_broken_off_in_a_layer(kind: str, error: type, layer_calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    session, twin = session_of(kind), session_of(kind)
    for one in (session, twin):
        one.append(start())
    assert play(session, 0, TURNS) == play(twin, 0, TURNS)
    # Reading for an answer, and decoding it.
    with monkeypatch.context() as patch:
        Planted(session.cache, "update", layer_calls, error, patch)
        broken_off(session, error, lambda: session.generate(max_new_tokens=60))
    assert play(session, 50, 1) == play(twin, 50, 1)
    # Reading an observation.
    if layer_calls <= 8:
        for one in (session, twin):
            one.generate(max_new_tokens=NEW)
        with monkeypatch.context() as patch:
            Planted(session.cache, "update", layer_calls, error, patch)
            broken_off(session, error, lambda: session.append([observation(7)]))
        for one in (session, twin):
            one.append([observation(7)])
    assert play(session, 60, 2) == play(twin, 60, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 5])
def test_interrupted_between_decoding_steps(kind: str, steps: int) -> None:
    session, twin = session_of(kind), session_of(kind)
    for one in (session, twin):
        one.append(start())
        play(one, 0, TURNS)
    left = [steps]

    def interrupt() -> bool:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt("planted")
        return False

    broken_off(session, KeyboardInterrupt, lambda: session.generate(max_new_tokens=20, cancel=interrupt))
    assert play(session, 50, 2) == play(twin, 50, 2)


@pytest.mark.parametrize("layers", [1, 3, 8])
def test_broken_off_while_closing_up(layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are turned in all layers or in none."""
    session, twin = (ReplanSession(model(window=160), byte_level(), budget=Budget(kv_tokens=100)) for _ in range(2))
    for one in (session, twin):
        one.append(start())
    number = 0
    while session.cache.get_seq_length() - session.engine.shift + 45 < 160:
        assert play(session, number, 1) == play(twin, number, 1)
        number += 1
    with monkeypatch.context() as patch:
        Planted(KeyRotator, "__call__", layers, MemoryError, patch)
        broken_off(session, MemoryError, lambda: session.generate(max_new_tokens=40))
    for one in (session, twin):
        one.generate(max_new_tokens=40)
        one.append([observation(3)])
    assert play(session, 60, 2) == play(twin, 60, 2)
    assert session.engine.shift > 0


@pytest.mark.parametrize("evictions", [1, 2, 5])
def test_broken_off_while_evicting(evictions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer stands; the next call brings the session back to its budget."""
    session = session_of("budget")
    session.append(start())
    play(session, 0, TURNS)
    with monkeypatch.context() as patch:
        Planted(KVLayer, "select", evictions, MemoryError, patch)
        broken_off(session, MemoryError, lambda: session.generate(max_new_tokens=NEW))
    session.append([observation(9)])
    check(session, 120, True)
    assert byte_level().decode(session.token_ids).count("assistant") == TURNS + 1


def test_three_threads_with_three_sessions_on_one_model() -> None:
    options: list[dict[str, Any]] = [
        {"prune": PruneConfig("recency", 0.7, (2, 5)), "budget": Budget(kv_tokens=120)},
        {"evict_by": "attention", "budget": Budget(kv_tokens=120)},
        {"prune": PruneConfig("attention", 0.8, (3, 5))},
    ]

    def work(number: int) -> list[Any]:
        session = ReplanSession(model(), byte_level(), **options[number])
        session.append(start())
        return play(session, 0, 4)

    expected = [work(number) for number in range(3)]
    got: list[Any] = [None] * 3
    barrier = threading.Barrier(3)

    def run(number: int) -> None:
        barrier.wait()
        got[number] = [work(number) for _ in range(2)]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [[one, one] for one in expected]
