"""Forks, files, threads: independent copies that go on as the original would."""

from __future__ import annotations

import threading

import pytest

from erecap.budget import Budget
from erecap.errors import RunError
from erecap.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.tokens.models import without_attention

NEW = 6
BUDGET = Budget(kv_tokens=120)


def played(turns: int = 3, name: str = "llama", **options) -> tuple[ReplanSession, list]:  # type: ignore[no-untyped-def]
    session = ReplanSession(model(name), byte_level(), budget=BUDGET, **options)
    messages = start()
    for number in range(turns):
        messages += turn(session.generate(messages, max_new_tokens=NEW).text, number)
    return session, messages


def go_on(session: ReplanSession, messages: list, turns: int = 2) -> list[str]:
    messages, texts = list(messages), []
    for number in range(turns):
        texts.append(session.generate(messages, max_new_tokens=NEW).text)
        messages += turn(texts[-1], number + 50)
    return [*texts, session.token_ids, session.cache.kept_lengths()]


@pytest.mark.parametrize("evict_by", ["recency", "attention"])
def test_a_fork_goes_on_alone(evict_by: str) -> None:
    session, messages = played(evict_by=evict_by)
    fork, second = session.fork(), session.fork()
    expected = go_on(fork, messages)
    second.generate([*messages[:-1], {"role": "user", "content": "Something else."}], max_new_tokens=NEW)
    assert go_on(session, messages) == expected


def test_a_fork_of_a_chat_keeps_what_both_share() -> None:
    session, messages = played()
    other = [*messages[:4], {"role": "user", "content": "Something else."}]
    fork = session.fork(other)
    marks = session.conversation.transcript.marks
    assert fork.cache.get_seq_length() == marks[3].tokens < session.cache.get_seq_length()
    copy = session.fork()
    assert go_on(fork, other) == go_on(copy, other)
    # The chat is the fork's own: it answers without being given it again.
    asked = session.fork().generate(other, max_new_tokens=NEW)
    assert session.fork(other).generate(max_new_tokens=NEW).text == asked.text
    nothing = session.fork([{"role": "user", "content": "Another."}])
    assert nothing.cache.get_seq_length() == 0 and nothing.cache.kv_bytes() == 0


def test_eight_forks_of_a_long_session_cost_hardly_more_than_one() -> None:
    session = ReplanSession(model(), byte_level())
    session.append([*start(), {"role": "assistant", "content": "look"}])
    session.append([{"role": "user", "content": "You see a mug. " * 640}])
    assert session.cache.get_seq_length() > 3900

    def memory(sessions: list[ReplanSession]) -> int:
        layers = [layer for one in sessions for layer in one.cache.layers]
        found = [tensor.untyped_storage() for layer in layers for tensor, _ in layer.held()]
        return sum({storage.data_ptr(): storage.nbytes() for storage in found}.values())

    alone = memory([session])
    forks = [session.fork() for _ in range(8)]
    for number, fork in enumerate(forks):
        with fork.engine.attached():
            fork.engine.verify([5 + number])
    assert memory([session, *forks]) < 1.1 * alone
    for fork in forks:
        fork.close()
    assert memory([session, *forks]) == alone


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_saved_and_restored_it_goes_on_alike(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    session, messages = played(name=name)
    session.splice((30, 40))
    session.save(tmp_path / "agent.safetensors")
    other = ReplanSession(model(name), byte_level(), budget=BUDGET)
    other.restore(tmp_path / "agent.safetensors")
    assert other.cache.kv_bytes() == session.cache.kv_bytes()
    assert go_on(other, messages) == go_on(session, messages)
    with pytest.raises(ValueError, match="needs a new session"):
        other.restore(tmp_path / "agent.safetensors")


def test_files_that_are_no_session_of_this_model(tmp_path) -> None:  # type: ignore[no-untyped-def]
    session, messages = played()
    path = tmp_path / "agent.safetensors"
    session.save(path)
    fresh = ReplanSession(model("qwen2"), byte_level())
    with pytest.raises(RunError, match="saved from model llama"):
        fresh.restore(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(RunError, match="damaged session file"):
        fresh.restore(path)
    with pytest.raises(RunError, match="no such session"):
        fresh.restore(tmp_path / "none.safetensors")
    assert fresh.generate(messages, max_new_tokens=NEW).usage.reused_tokens == 0  # still usable


@pytest.mark.parametrize("empty", [0, 7])
@pytest.mark.parametrize("evict_by", ["recency", "attention"])
def test_a_model_in_which_a_layer_stores_nothing(empty: int, evict_by: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = without_attention(model(), empty)
    session = ReplanSession(made, byte_level(), budget=BUDGET, evict_by=evict_by)
    messages = start()
    for number in range(4):
        answer = session.generate(messages, max_new_tokens=NEW, trace=True)
        assert answer.usage.kept_per_layer[empty] == 0 < min(answer.usage.kept_per_layer[1:7])
        assert max(piece.kept for piece in answer.pieces) == 1.0
        messages += turn(answer.text, number)
    assert session.evicted_tokens > 0
    session.splice((30, 40))
    session.save(tmp_path / "agent.safetensors")
    other = ReplanSession(made, byte_level(), budget=BUDGET, evict_by=evict_by)
    other.restore(tmp_path / "agent.safetensors")
    fork = session.fork()
    assert other.cache.kv_bytes() == fork.cache.kv_bytes() == session.cache.kv_bytes() > 0
    expected = go_on(session, messages)
    assert go_on(fork, messages) == expected
    if evict_by == "recency":  # the last prompt's attention weights are not saved
        assert go_on(other, messages) == expected


def test_a_closed_session_starts_again() -> None:
    session, messages = played()
    session.close()
    assert session.token_ids == [] and session.cache.kv_bytes() == 0
    twin = ReplanSession(model(), byte_level(), budget=BUDGET)
    assert go_on(session, messages) == go_on(twin, messages)


def test_two_threads_with_two_sessions_on_one_model() -> None:
    options = [{"evict_by": "attention"}, {"evict_by": "random"}]
    expected = [go_on(*played(**option)) for option in options]
    got: list = [None, None]
    barrier = threading.Barrier(2)

    def work(number: int) -> None:
        barrier.wait()
        got[number] = [go_on(*played(**options[number])) for _ in range(2)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [[expected[0]] * 2, [expected[1]] * 2]


def test_a_session_that_evicted_nothing_can_be_saved(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """All its layers store the same tokens and share what is known of them."""
    session, messages = played(1)
    session.save(tmp_path / "agent.safetensors")
    other = ReplanSession(model(), byte_level(), budget=BUDGET)
    other.restore(tmp_path / "agent.safetensors")
    assert go_on(other, messages) == go_on(session, messages)
