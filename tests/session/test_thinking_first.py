"""Eviction of thinking before anything else, in chats that are brought whole and in the session's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from erecap.budget import Budget
from erecap.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn


def spoken(number: int) -> list[dict]:
    talk = turn(f"<think>perhaps the mug {number} is on it</think>go to shelf {number}", number)
    talk[1]["stale"] = [(0, 10)]
    return talk


def stored(session: ReplanSession) -> str:
    return byte_level().decode([session.token_ids[index] for index in session.engine.stored().indices.tolist()])


def test_thinking_goes_before_what_is_stale_and_nothing_goes_that_fits() -> None:
    talk = [*start(), *spoken(1), *spoken(2), *spoken(3)]
    texts, sizes = {}, {}
    for first in (True, False):
        free = ReplanSession(model(), byte_level(), thinking_first=first)
        free.read(talk)
        assert free.evicted_tokens == 0  # as long as there is room
        session = ReplanSession(model(), byte_level(), budget=Budget(free.engine.tokens - 8), thinking_first=first)
        session.read(talk)
        texts[first], sizes[first] = stored(session), session.engine.stored().most
    assert sizes[True] == sizes[False]
    assert "> go to shelf 1" in texts[True] and texts[True].count("perhaps") < 3
    assert texts[False].count("perhaps") == 3 and "> go to shelf 1" not in texts[False]


@pytest.mark.parametrize("whole", [True, False])
def test_a_conversation_of_its_own_forgets_its_thinking_first(whole: bool, tmp_path: Path) -> None:
    tokenizer = byte_level()
    session = ReplanSession(model(), tokenizer, budget=Budget(150), thinking_first=True)
    said = "<think>perhaps the mug 7 is on it</think>look"
    ids = [*tokenizer(said, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    options = {"max_new_tokens": len(ids), "allowed_tokens": lambda done: [ids[len(done)]] * 2}
    talk = start()
    for number in range(4):
        if whole:
            assert session.generate(talk, **options).text == said
        else:
            session.append(talk[-1:] if number else talk)
            assert session.generate(**options).text == said
        if number == 2:
            session.save(tmp_path / "s.safetensors")
            session = ReplanSession(model(), tokenizer, budget=Budget(150), thinking_first=True)
            session.restore(tmp_path / "s.safetensors")
        talk = [*talk, {"role": "assistant", "content": said}, turn("", number)[1]]
    assert session.evicted_tokens > 0 and stored(session).count("perhaps") <= 1
    assert stored(session).count("you see a mug") >= 3  # what was seen outlasts it
