"""The choice of a session for a conversation, and of the sessions that are dropped."""

from __future__ import annotations

from erecap.budget import Budget
from erecap.serving.store import SessionStore
from erecap.session.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn

OPTIONS = {"max_new_tokens": 6}


def store(most: int = 4, most_bytes: int | None = None, kv_tokens: int | None = None) -> SessionStore:
    budget = None if kv_tokens is None else Budget(kv_tokens)
    return SessionStore(lambda: ReplanSession(model(), byte_level(), budget=budget), most, most_bytes)


def memory(sessions: SessionStore) -> dict[int, int]:
    """Bytes of all distinct memory behind the keys and values of the sessions, by address."""
    layers = [layer for held in sessions.held for layer in held.session.cache.layers]
    found = [tensor.untyped_storage() for layer in layers for tensor, _ in layer.held()]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


def answer(sessions: SessionStore, messages: list[dict]) -> tuple[list[dict], int]:
    """The conversation with its answer, and how much of the prompt was known."""
    held = sessions.take(messages)  # type: ignore[arg-type]
    made = held.session.generate(messages, **OPTIONS)  # type: ignore[arg-type]
    talk = [*messages, {"role": "assistant", "content": made.text}]
    sessions.put_back(held, talk)  # type: ignore[arg-type]
    return talk, made.usage.reused_tokens


def test_a_conversation_keeps_its_session() -> None:
    sessions = store()
    talk, reused = answer(sessions, start())
    assert reused == 0
    for number in range(3):
        talk, reused = answer(sessions, [*talk, turn("", number)[1]])
        assert reused > 40 and len(sessions) == 1


def test_what_two_have_in_common_is_copied_and_both_go_on() -> None:
    sessions = store()
    begun = [[*start(), *turn("look", 1)], [*start(), *turn("go to shelf 2", 2)]]
    talks = [answer(sessions, messages) for messages in begun]
    assert talks[1][1] > 40 and len(sessions) == 2
    for messages, (talk, _) in zip(begun, talks, strict=True):
        more = [*talk, turn("", 5)[1]]
        held = sessions.take(more)  # type: ignore[arg-type]
        made = held.session.generate(more, **OPTIONS)  # type: ignore[arg-type]
        alone = ReplanSession(model(), byte_level())
        alone.generate(messages, **OPTIONS)  # type: ignore[arg-type]
        assert made.text == alone.generate(more, **OPTIONS).text  # type: ignore[arg-type]
        assert made.usage.reused_tokens > 60
        sessions.put_back(held, more)  # type: ignore[arg-type]


def test_a_session_that_is_busy_or_has_evicted_is_not_shared() -> None:
    sessions = store()
    held = sessions.take(start())  # type: ignore[arg-type]
    assert sessions.take(start()) is not held and len(sessions) == 2  # type: ignore[arg-type]
    small = store(kv_tokens=90)
    answer(small, [*start(), *turn("look", 1), *turn("look", 2)])
    _, reused = answer(small, [*start(), *turn("go to shelf 2", 2)])
    assert reused == 0 and len(small) == 2


def test_one_that_has_evicted_hides_none_that_has_not() -> None:
    sessions = store()
    answer(sessions, start())
    common = [*start(), *turn("look", 1)]
    held = sessions.take([{"role": "user", "content": "Another."}])  # type: ignore[arg-type]
    # It has more in common with what comes next than the first one has, and has let some of it go.
    held.session.read(common)  # type: ignore[arg-type]
    assert held.session.evict((30, 35)) == 5 and not held.whole
    sessions.put_back(held, [*common, *turn("go to fridge 1", 2), turn("look", 2)[0]])  # type: ignore[arg-type]
    _, reused = answer(sessions, [*common, *turn("look", 3)])
    assert reused > 40 and len(sessions) == 2  # the first goes on: its answer was told in other words


def test_the_least_recently_used_goes_first() -> None:
    sessions = store(most=2)
    talks = [answer(sessions, [{"role": "user", "content": f"Agent {number} asks."}])[0] for number in range(2)]
    answer(sessions, [*talks[0], {"role": "user", "content": "And now?"}])
    answer(sessions, [{"role": "user", "content": "Agent 2 asks."}])
    assert len(sessions) == 2 and sessions.evicted == 1
    _, reused = answer(sessions, [*talks[1], {"role": "user", "content": "And now?"}])
    assert reused == 0  # its session was the oldest


def test_bytes_are_bounded_too() -> None:
    one = store()
    answer(one, start())
    sessions = store(most=9, most_bytes=int(2.5 * one.kv_bytes()))
    for number in range(6):
        answer(sessions, [{"role": "system", "content": f"Robot {number}."}, *start()[1:]])
        assert sessions.kv_bytes() <= 2.5 * one.kv_bytes()
    assert len(sessions) == 2 and sessions.evicted == 4
    # The newest stays, however large it is.
    tiny = store(most=9, most_bytes=1)
    answer(tiny, start())
    assert len(tiny) == 1


SYSTEM = {"role": "system", "content": "You plan for a robot. " * 10}


def long_chat(text: str, times: int) -> list[dict]:
    return [SYSTEM, {"role": "user", "content": f"{text} " * times}]


def test_a_stranger_shares_the_system_message_and_keeps_nothing_else_alive() -> None:
    sessions = store()
    answer(sessions, long_chat("You see a fridge 1 and a shelf 2.", 165))
    first = sessions.held[0].session
    assert first.cache.get_seq_length() > 1900
    per_token, before = first.cache.kv_bytes() / first.cache.kept_lengths()[0], sum(memory(sessions).values())
    stranger = long_chat("Another task.", 10)
    held = sessions.take(stranger)  # type: ignore[arg-type]
    assert (
        held.session.cache.get_seq_length() == first.conversation.transcript.marks[0].tokens
    )  # cropped before it answers
    sessions.release(held)
    sessions.drop(held)
    _, reused = answer(sessions, stranger)
    assert reused > 150
    second = sessions.held[1].session
    own = second.cache.kept_lengths()[0]
    # It has room for a quarter more, at least for 128 tokens.
    assert sum(memory(sessions).values()) - before <= per_token * (own + max(128, own / 4 + 32))
    sessions.drop(sessions.held[0])
    assert sum(memory(sessions).values()) <= per_token * (own + max(128, own / 4 + 32))
    assert sessions.kv_bytes() == second.cache.kv_bytes() == per_token * own


def test_an_answer_asked_for_anew_costs_what_it_reads() -> None:
    sessions = store(most=9)
    chat = long_chat("You see a fridge 1 and a shelf 2.", 165)
    answer(sessions, [*answer(sessions, chat)[0], turn("", 9)[1]])
    alone, before = sessions.kv_bytes(), sum(memory(sessions).values())
    long = sessions.held[0].session
    for number in range(4):
        _, reused = answer(sessions, [*chat, *turn("look", number)])
        assert reused > 1900
    per_token = alone / long.cache.kept_lengths()[0]
    shared = long.conversation.transcript.marks[1].tokens  # the chat that all of them began with
    new = [held.session.cache.kept_lengths()[0] - shared for held in sessions.held[1:]]
    assert sessions.kv_bytes() <= alone + per_token * sum(new)
    assert sum(memory(sessions).values()) <= before + per_token * (sum(new) + 4 * 64) < 1.3 * before
    for held in sessions.held[1:4]:
        sessions.drop(held)
    sessions.drop(sessions.held[0])  # the one that read the beginning goes, those who share it go on
    last = sessions.held[0].session
    assert sessions.kv_bytes() == last.cache.kv_bytes()
    more = [*chat, *turn("look", 3), *turn("go to shelf 2", 8)]
    alone_session = ReplanSession(model(), byte_level())
    alone_session.generate(more[:4], **OPTIONS)  # type: ignore[arg-type]
    assert last.generate(more, **OPTIONS).text == alone_session.generate(more, **OPTIONS).text  # type: ignore[arg-type]
    assert not any(layer.shared for layer in last.cache.layers)
    assert sum(memory(sessions).values()) < 1.4 * last.cache.kv_bytes()


def test_shared_beginnings_count_once_against_the_limit() -> None:
    chat = long_chat("You see a fridge 1 and a shelf 2.", 165)
    one = store()
    answer(one, chat)
    sessions = store(most=9, most_bytes=int(1.5 * one.kv_bytes()))
    answer(sessions, [*answer(sessions, chat)[0], turn("", 9)[1]])
    for number in range(5):
        answer(sessions, [*chat, *turn("look", number)])
    assert len(sessions) == 6 and sessions.evicted == 0
    answer(sessions, [{"role": "system", "content": "Another robot."}, chat[1]])
    assert sessions.evicted > 0 and sessions.kv_bytes() <= 1.5 * one.kv_bytes()
