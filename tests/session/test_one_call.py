"""A session serves one call at a time, and says so; whatever ends a call leaves it free."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from erecap.engines.tiny import TinyModel
from erecap.session import ReplanSession
from erecap.session.one_call import OneCall
from tests.session.characters import LETTERS, Characters

CHAT = [{"role": "user", "content": "cool the apple"}]
MORE = [{"role": "user", "content": "shelf 1: nothing"}]


def made() -> ReplanSession:
    return ReplanSession(TinyModel(), Characters(), engine="tiny")


def letters(ids: Any) -> list[int]:
    return LETTERS


CALLS: dict[str, Callable[[ReplanSession, Path], Any]] = {
    "generate": lambda session, folder: session.generate(CHAT, max_new_tokens=2),
    "read": lambda session, folder: session.read([*CHAT, *MORE]),
    "append": lambda session, folder: session.append(MORE),
    "still_valid": lambda session, folder: session.still_valid("go", CHAT),
    "evict": lambda session, folder: session.evict((0, 1)),
    "splice": lambda session, folder: session.splice((0, 1)),
    "forget": lambda session, folder: session.forget((0, 1)),
    "correct": lambda session, folder: session.correct("the shelf is empty"),
    "revive": lambda session, folder: session.revive(),
    "fork": lambda session, folder: session.fork(),
    "save": lambda session, folder: session.save(folder / "a.safetensors"),
    "restore": lambda session, folder: session.restore(folder / "a.safetensors"),
    "close": lambda session, folder: session.close(),
    "reset": lambda session, folder: session.reset(),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_while_another_thread_has_one(name: str, tmp_path: Path) -> None:
    """The first call waits within its answer until the other thread was refused, and answers as if it were alone."""
    session, alone = made(), made()
    inside, refused = threading.Event(), threading.Event()

    def waiting(ids: Any) -> list[int]:
        inside.set()
        assert refused.wait(60)
        return LETTERS

    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(session.generate(CHAT, max_new_tokens=4, allowed_tokens=waiting).text)
    )
    thread.start()
    try:
        assert inside.wait(60)
        with pytest.raises(RuntimeError, match=r"^a session serves one call at a time; "):
            CALLS[name](session, tmp_path)
    finally:
        refused.set()
        thread.join()
    assert answers == [alone.generate(CHAT, max_new_tokens=4, allowed_tokens=letters).text]
    session.append(MORE)
    alone.append(MORE)
    answer = session.generate(max_new_tokens=4, allowed_tokens=letters)
    assert answer.text == alone.generate(max_new_tokens=4, allowed_tokens=letters).text


def test_a_call_within_a_call_of_the_same_thread() -> None:
    session = made()
    with pytest.raises(RuntimeError, match="one call at a time"):
        session.generate(CHAT, max_new_tokens=4, on_text=lambda text: session.close(), allowed_tokens=letters)
    assert session.generate(CHAT, max_new_tokens=2).usage.prompt_tokens


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_call_that_fails_leaves_the_session_free(error: type[BaseException]) -> None:
    session = made()

    def failing(ids: Any) -> list[int]:
        raise error

    with pytest.raises(error):
        session.generate(CHAT, max_new_tokens=2, allowed_tokens=failing)
    with pytest.raises(ValueError, match="max_new_tokens"):
        session.generate(CHAT, max_new_tokens=0)
    assert session.generate(CHAT, max_new_tokens=2).usage.prompt_tokens


def test_a_fork_is_free_while_its_origin_has_a_call() -> None:
    session = made()
    session.read(CHAT)
    fork, found = session.fork(), []

    def asking(ids: Any) -> list[int]:
        found.append(fork.generate(CHAT, max_new_tokens=2).text)
        return LETTERS

    session.generate(CHAT, max_new_tokens=1, allowed_tokens=asking)
    assert found


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copied_guard_is_free(copied: Callable[[OneCall], OneCall]) -> None:
    guard = OneCall()
    with guard.lock:
        copied(guard).check()
        with pytest.raises(RuntimeError):
            guard.check()
