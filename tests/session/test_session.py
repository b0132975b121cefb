"""A session answers as the unmodified model that re-reads everything."""

from __future__ import annotations

import pytest
import torch

from erecap.context.tokenize import render_prompt
from erecap.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.tokens.models import ARCHITECTURES

NEW = 8


def fresh_answer(name: str, ids: list[int]) -> list[int]:
    """The unmodified model's greedy ids after `ids`."""
    given = torch.tensor([ids])
    output = model(name).generate(given, attention_mask=torch.ones_like(given), max_new_tokens=NEW, do_sample=False)
    return output[0, len(ids) :].tolist()


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_unpruned_it_equals_the_model_re_reading_its_ids(name: str, draft: bool) -> None:
    session = ReplanSession(model(name), byte_level(), draft=draft)
    messages = start()
    for number in range(12):
        asked: list[list[int]] = []
        engine = session.engine
        read = engine.read

        def watched(ids, *rest, read=read, asked=asked, session=session, **options):  # type: ignore[no-untyped-def]
            asked.append(session.token_ids + list(ids))
            return read(ids, *rest, **options)

        engine.read = watched
        generation = session.generate(messages, max_new_tokens=NEW)
        engine.read = read
        expected = fresh_answer(name, asked[0])
        text = byte_level().decode(expected, skip_special_tokens=True)
        assert generation.text == text, number
        if number:
            assert generation.usage.reused_tokens > 0
        messages += turn(generation.text, number)
    assert generation.usage.new_tokens < 80 < generation.usage.reused_tokens


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_with_canonical_replies_it_equals_the_chat_template(name: str) -> None:
    """Where the host writes the replies itself, the ids read are those of the template over the whole chat."""
    session = ReplanSession(model(name), byte_level())
    messages = start()
    for number in range(6):
        generation = session.generate(messages, max_new_tokens=NEW)
        ids = render_prompt(messages, byte_level()).input_ids
        assert generation.text == byte_level().decode(fresh_answer(name, ids), skip_special_tokens=True)
        assert generation.usage.prompt_tokens == len(ids)
        messages += turn(f"go to shelf {number}", number)


def test_the_same_chat_twice_reads_only_the_header_again() -> None:
    session = ReplanSession(model(), byte_level())
    first = session.generate(start(), max_new_tokens=NEW)
    again = session.generate(start(), max_new_tokens=NEW)
    assert again.text == first.text
    assert again.usage.new_tokens < 12 and again.usage.rewritten_tokens > 0


def test_a_rewritten_middle_is_read_again_from_there_and_said() -> None:
    session = ReplanSession(model(), byte_level())
    messages = start()
    for number in range(4):
        session.generate(messages, max_new_tokens=NEW)
        messages += turn(f"go to shelf {number}", number)
    session.generate(messages, max_new_tokens=NEW)
    messages[3] = {"role": "user", "content": "The shelf 0 is empty after all."}
    generation = session.generate(messages, max_new_tokens=NEW)
    ids = render_prompt(messages, byte_level()).input_ids
    fresh = ReplanSession(model(), byte_level()).generate(messages, max_new_tokens=NEW)
    assert generation.text == fresh.text and generation.usage.rewritten_tokens > 100
    assert 0 < generation.usage.reused_tokens < len(ids) / 2


def test_stop_text_inside_the_last_tokens() -> None:
    session = ReplanSession(model(), byte_level())
    whole = ReplanSession(model(), byte_level()).generate(start(), max_new_tokens=20).text
    messages = start()
    generation = session.generate(messages, max_new_tokens=20, stop=[whole[4:6]])
    assert generation.text == whole[: whole.find(whole[4:6])] and generation.finish_reason == "stop"
    messages += turn(generation.text, 1)
    fresh = ReplanSession(model(), byte_level()).generate(messages, max_new_tokens=NEW)
    assert session.generate(messages, max_new_tokens=NEW).text == fresh.text


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("layer_calls", [3, 11])
def test_a_call_that_fails_leaves_the_session_as_it_was(kind: type, layer_calls: int) -> None:
    session = ReplanSession(model(), byte_level())
    messages = start()
    messages += turn(session.generate(messages, max_new_tokens=NEW).text, 1)
    calls = {"left": layer_calls}

    def fail(module, args):  # type: ignore[no-untyped-def]
        calls["left"] -= 1
        if calls["left"] == 0:
            raise kind("planted")

    handle = model().model.layers[2].mlp.register_forward_pre_hook(fail)
    try:
        with pytest.raises(kind, match="planted"):
            session.generate(messages, max_new_tokens=60)
    finally:
        handle.remove()
    assert session.cache.get_seq_length() == len(session.token_ids)
    fresh = ReplanSession(model(), byte_level())
    fresh.generate(start(), max_new_tokens=NEW)
    assert session.generate(messages, max_new_tokens=NEW).text == fresh.generate(messages, max_new_tokens=NEW).text


def test_reading_ahead_changes_no_answer() -> None:
    """New text can be prefilled while the body moves; the answer is that of a session that reads it when asked."""
    ahead, plain = (ReplanSession(model(), byte_level()) for _ in range(2))
    messages = start()
    for number in range(4):
        assert ahead.read(messages) > 0
        assert ahead.read(messages) == 0
        got, expected = (session.generate(messages, max_new_tokens=NEW) for session in (ahead, plain))
        assert got.text == expected.text and ahead.token_ids == plain.token_ids
        assert got.usage.new_tokens < 12 and got.usage.rewritten_tokens == 0
        messages += turn(got.text, number)


def test_an_answer_of_at_least_so_many_tokens() -> None:
    ends = byte_level().eos_token_id

    def end_at_once(module, args, logits):  # type: ignore[no-untyped-def]
        return logits.index_fill(-1, torch.tensor([ends]), 1e4)

    handle = model().lm_head.register_forward_hook(end_at_once)
    try:
        assert ReplanSession(model(), byte_level()).generate(start(), max_new_tokens=9).usage.completion_tokens == 1
        session = ReplanSession(model(), byte_level())
        generation = session.generate(start(), max_new_tokens=9, min_new_tokens=9)
    finally:
        handle.remove()
    assert generation.usage.completion_tokens == 9 and generation.finish_reason == "length"
    assert ends not in session.token_ids[-8:]


@pytest.mark.parametrize("failing", [False, True])
def test_the_unread_end_of_an_answer_is_read_once_whatever_follows(failing: bool) -> None:
    """The last generated token is not stored when a call returns; it must neither get lost nor be read twice."""
    session = ReplanSession(model(), byte_level(), draft=False)
    messages = start()
    answer = session.generate(messages, max_new_tokens=NEW)
    assert answer.finish_reason == "length" and len(session.conversation.pending) == 1
    whole = [*session.token_ids, *session.conversation.pending]
    first, second = [*messages, *turn(answer.text, 1)], [*messages, *turn(answer.text, 2)]
    if failing:
        forward = session.engine.forward
        session.engine.forward = lambda ids, keep: (_ for _ in ()).throw(MemoryError("planted"))
        with pytest.raises(MemoryError):
            session.generate(first, max_new_tokens=NEW)
        session.engine.forward = forward
    else:
        session.read(first)
    session.generate(second, max_new_tokens=NEW)
    assert session.token_ids[: len(whole)] == whole
    text = byte_level().decode(session.token_ids)
    assert text.startswith(byte_level().decode(whole)) and "mug 14" in text and "mug 7" not in text


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_plan_is_valid_as_far_as_the_model_would_say_it_again(name: str) -> None:
    session = ReplanSession(model(name), byte_level())
    messages = start()
    session.generate(messages, max_new_tokens=NEW)
    messages += turn("go to shelf 1", 1)
    plan = byte_level().decode(fresh_answer(name, render_prompt(messages, byte_level()).input_ids))
    canonical = byte_level()(plan, add_special_tokens=False)["input_ids"]
    # Teacher-forced over the plan's own tokens, by the unmodified model.
    ids = render_prompt(messages, byte_level()).input_ids
    with torch.no_grad():
        rows = model(name)(torch.tensor([[*ids, *canonical]])).logits[0, len(ids) - 1 : -1]
    expected = (rows.argmax(-1) == torch.tensor(canonical)).float().mean().item()
    assert session.still_valid(plan, messages) == pytest.approx(expected)
    assert session.still_valid("zzz", messages) < 1
    # Asking changes nothing.
    fresh = ReplanSession(model(name), byte_level())
    assert session.generate(messages, max_new_tokens=NEW).text == fresh.generate(messages, max_new_tokens=NEW).text
    with pytest.raises(ValueError, match="empty plan"):
        session.still_valid("", messages)
