"""Messages that go on after they were read: an observation is read while the next one is still to come."""

from __future__ import annotations

from typing import Any

import pytest

from erecap.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start

PARTS = (
    "> go to shelf 1\nOn the shelf 1 you see a mug 7.",
    "> go to shelf 2\nYou see a pan 3.",
    "> look\nNothing new.",
)


def chat(parts: int) -> list[dict[str, Any]]:
    return [
        *start(),
        {"role": "assistant", "content": "go to shelf 1"},
        {"role": "user", "content": "\n".join(PARTS[:parts])},
    ]


def test_no_token_is_read_twice() -> None:
    session, whole = (ReplanSession(model(), byte_level()) for _ in range(2))
    read = [session.read(chat(parts)) for parts in (1, 2, 3)]
    assert all(read) and sum(read) == whole.read(chat(3)) == session.engine.tokens
    assert session.token_ids == whole.token_ids
    assert session.read(chat(3)) == 0
    assert session.generate(chat(3), max_new_tokens=8).text == whole.generate(chat(3), max_new_tokens=8).text


def test_a_rewritten_end_is_read_again_from_where_it_was_read_in_between() -> None:
    session = ReplanSession(model(), byte_level())
    session.read(chat(2))
    session.read(chat(3))
    changed = chat(2)
    changed[-1]["content"] += "\n> open fridge 1\nIt is open."
    read = session.read(changed)
    fresh, half = ReplanSession(model(), byte_level()), ReplanSession(model(), byte_level())
    assert read == fresh.read(changed) - half.read(chat(2)) > 0
    assert session.token_ids == fresh.token_ids


@pytest.mark.parametrize("ahead", [(), (1,), (1, 2)], ids=str)
def test_protected_text_of_the_later_part_is_protected_and_stale_text_goes_first(ahead: tuple[int, ...]) -> None:
    """Whatever was read in between, the same tokens of the message are stored in the end."""
    asked = chat(3)
    text = asked[-1]["content"]
    pan, mug = text.index("a pan 3"), text.index("a mug 7")
    asked[-1] |= {"protect": [(pan, pan + 7)], "stale": [(mug, mug + 7)]}
    asked += [{"role": "assistant", "content": "look"}, {"role": "user", "content": "You see a door."}]
    stored = []
    for parts in (ahead, ()):
        session = ReplanSession(model(), byte_level(), budget=100, stale_first=True)
        for count in parts:
            session.read(chat(count))
        session.read(asked)
        stored.append([session.token_ids[index] for index in session.engine.stored().indices.tolist()])
    assert stored[0] == stored[1]
    kept = byte_level().decode(stored[0])
    assert "a pan 3" in kept and "a mug 7" not in kept


def test_a_trace_shows_every_piece_once() -> None:
    session = ReplanSession(model(), byte_level())
    for parts in (1, 2):
        session.read(chat(parts))
    found = session.generate(chat(3), max_new_tokens=4, trace=True)
    shown = "".join(piece.text for piece in found.pieces if piece.message == 3)
    assert shown == chat(3)[-1]["content"] and {piece.kept for piece in found.pieces} == {1.0}


def test_a_correction_in_between_leaves_the_spans_where_they_are() -> None:
    session = ReplanSession(model(), byte_level())
    session.read(chat(1))
    session.correct("The mug 7 is gone.")
    session.read(chat(3))
    mark = session.conversation.transcript.known_marks[-1]
    text = chat(3)[-1]["content"]
    for words in ("a mug 7", "a pan 3", "Nothing new"):
        low, high = mark.indices(text.index(words), text.index(words) + len(words))
        assert words in byte_level().decode(session.token_ids[low:high])
