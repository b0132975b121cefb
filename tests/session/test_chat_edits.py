"""Edits that a chat brings along: their effect against masked oracles, and warm sessions against cold ones."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from erecap.budget import Budget
from erecap.context.thinking import thinking_spans, thoughts_in
from erecap.engines.tiny import TinyModel
from erecap.errors import MessagesError
from erecap.session import ReplanSession
from erecap.session.chat_edits import ChatEdits
from erecap.session.conversation.edit_record import Event, Made, reach
from tests.context.small_tokenizers import INST, byte_level, llama_like
from tests.session.chats import start, turn
from tests.session.sharp import sharp

NEW = 8


def chat(turns: int = 4) -> list[dict]:
    talk = start()
    for number in range(turns):
        talk += turn(f"<think>perhaps the mug {number} is on it</think>go to shelf {number}", number)
    return talk


def masked(messages: list[dict], dropped: dict[int, list[int]], thinking: bool = False) -> str:
    """The bare model's answer, every token of it under a mask, written out for ChatML by hand."""
    tokenizer, bare = byte_level(), sharp()
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, starts = list(encoded["input_ids"]), [low for low, _ in encoded["offset_mapping"]]
    ends = [high for _, high in encoded["offset_mapping"]]
    begins = [n for n, token in enumerate(ids) if tokenizer.decode([token]) == "<|im_start|>"]
    total = len(ids) + NEW
    allowed = torch.ones(total, total, dtype=torch.bool).tril()
    for behind, numbers in dropped.items():
        for number in numbers:
            allowed[begins[behind + 1] :, begins[number] : begins[number + 1]] = False
    for number, message in enumerate(messages):
        if thinking and message["role"] == "assistant":
            low, high = (
                text.index("<think>", starts[begins[number]]) + 7,
                text.index("</think>", starts[begins[number]]),
            )
            inside = [n for n in range(len(ids)) if starts[n] >= low and ends[n] <= high]
            assert inside
            allowed[begins[number + 1] :, inside] = False
    for _ in range(NEW):
        mask = torch.zeros(1, 1, len(ids), len(ids)).masked_fill(~allowed[: len(ids), : len(ids)], -1e30)
        with torch.no_grad():
            logits = bare(torch.tensor([ids]), attention_mask=mask, use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(ids[len(encoded["input_ids"]) :], skip_special_tokens=True)


def test_dropped_messages_are_unseen_from_the_end_of_the_message_behind_which_they_go() -> None:
    messages, drop = chat(), {5: [2, 3], 8: [4, 8]}
    session = ReplanSession(sharp(), byte_level())
    made = session.generate(messages, max_new_tokens=NEW, edits=ChatEdits(drop))
    assert made.text == masked(messages, drop)
    plain = ReplanSession(sharp(), byte_level()).generate(messages, max_new_tokens=NEW)
    assert made.text != plain.text and made.usage.prompt_tokens == plain.usage.prompt_tokens
    assert session.evicted_tokens == session.edited_tokens > 100


def test_thinking_is_unseen_from_the_end_of_its_message() -> None:
    messages = chat()
    session = ReplanSession(sharp(), byte_level())
    made = session.generate(messages, max_new_tokens=NEW, edits=ChatEdits(thinking=True))
    assert made.text == masked(messages, {}, thinking=True)
    left = session.engine.stored().indices.tolist()
    assert "perhaps" not in byte_level().decode([session.token_ids[index] for index in left])
    assert byte_level().decode([session.token_ids[index] for index in left]).count("<think></think>go to shelf") == 4


def test_an_edit_is_the_same_edits_by_hand() -> None:
    """Read, evict, splice and read on: the primitives of a session's engine, in the order of the list."""
    messages, tokenizer = chat(), byte_level()
    session = ReplanSession(sharp(), tokenizer)
    made = session.generate(messages, max_new_tokens=NEW, edits=ChatEdits({5: [2, 3], 7: [5]}, reposition=[5, 7]))
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    begins = [n for n, token in enumerate(ids) if tokenizer.decode([token]) == "<|im_start|>"]
    by_hand = ReplanSession(sharp(), tokenizer)
    engine, read = by_hand.engine, 0
    for behind, numbers in ((5, [2, 3]), (7, [5])):
        engine.read(ids[read : begins[behind + 1]])
        read = begins[behind + 1]
        own = engine.stored().groups[0]
        gone = [i for i in own if any(begins[n] <= i < begins[n + 1] for n in numbers)]
        engine.evict([gone] * len(engine.stored().groups))
        engine.reposition()
    rows, answer = engine.read(ids[read:]), []
    while len(answer) < NEW and int(rows.argmax()) != tokenizer.eos_token_id:
        answer.append(int(rows.argmax()))
        with engine.attached():
            rows = engine.verify(answer[-1:])[-1]
    assert made.text == tokenizer.decode(answer)
    assert session.cache.layout(0).positions[0].tolist() == list(range(session.engine.stored().most))


EDITS = ChatEdits({5: [2, 3], 7: [4]}, reposition=[7])


@pytest.mark.parametrize("retokenize", [False, True])
def test_the_same_list_again_changes_nothing_and_a_list_without_an_edit_takes_it_back(retokenize: bool) -> None:
    session = ReplanSession(sharp(), byte_level(), retokenize=retokenize)
    talk = chat()
    first = session.generate(talk, max_new_tokens=NEW, edits=EDITS)
    again = session.generate(talk, max_new_tokens=NEW, edits=EDITS)
    header = 7  # of an answer: a session that does not retokenize goes back to the end of a content
    assert again.text == first.text and again.usage.reused_tokens >= again.usage.prompt_tokens - header
    assert again.usage.skipped_tokens == session.edited_tokens and first.usage.skipped_tokens == 0
    talk += turn(first.text, 9)
    kept = session.generate(talk, max_new_tokens=NEW, edits=EDITS)
    fresh = ReplanSession(sharp(), byte_level(), retokenize=retokenize)
    assert kept.text == fresh.generate(talk, max_new_tokens=NEW, edits=EDITS).text
    assert kept.usage.reused_tokens > first.usage.prompt_tokens - header
    assert session.generate(talk, max_new_tokens=NEW).text == kept.text  # no list given: what is in force stays
    back = session.generate(talk, max_new_tokens=NEW, edits=ChatEdits())
    assert back.text == ReplanSession(sharp(), byte_level()).generate(talk, max_new_tokens=NEW).text != kept.text
    assert session.evicted_tokens == session.edited_tokens == 0
    assert 40 < back.usage.reused_tokens < 60  # what comes before the first message that was dropped


def test_a_saved_session_goes_on_under_its_edits(tmp_path: Path) -> None:
    session, talk = ReplanSession(sharp(), byte_level()), chat()
    talk += turn(session.generate(talk, max_new_tokens=NEW, edits=EDITS).text, 9)
    session.save(tmp_path / "s.safetensors")
    other = ReplanSession(sharp(), byte_level())
    other.restore(tmp_path / "s.safetensors")
    assert other.edited_tokens == session.edited_tokens > 0
    one, two = (each.generate(talk, max_new_tokens=NEW, edits=EDITS) for each in (session, other))
    assert one.text == two.text and one.usage.reused_tokens == two.usage.reused_tokens > 300
    assert other.fork(talk[:4]).evicted_tokens == 0  # from before what it dropped


def test_a_budget_holds_beside_edits() -> None:
    session, talk = ReplanSession(sharp(), byte_level(), budget=Budget(160)), chat(9)
    made = session.generate(talk, max_new_tokens=NEW, edits=ChatEdits({5: [2, 3], 7: [4]}))
    assert session.engine.stored().most <= 160 and made.usage.evicted_tokens > 0
    assert session.generate(talk, max_new_tokens=NEW, edits=ChatEdits({5: [2, 3], 7: [4]})).text
    session.generate(talk, max_new_tokens=NEW, edits=ChatEdits())
    assert session.engine.stored().most <= 160 and session.edited_tokens == 0


def test_what_no_template_tells_and_no_list_may_say_is_refused() -> None:
    with pytest.raises(ValueError, match="drop: got message 3 behind message 2; allowed: 0 to 2"):
        ChatEdits({2: [3]})
    with pytest.raises(ValueError, match=r"reposition: got \[2, 1\]"):
        ChatEdits(reposition=[2, 1])
    session = ReplanSession(sharp(), llama_like(INST))
    with pytest.raises(MessagesError, match=r"messages\[0\]: the chat template does not tell where it ends"):
        session.generate(start(), max_new_tokens=4, edits=ChatEdits({1: [0]}))
    plain = ReplanSession(sharp(), byte_level())
    odd = [*start(), {"role": "assistant", "content": "<think>hm"}, {"role": "user", "content": "x"}]
    with pytest.raises(MessagesError, match=r"messages\[2\].content: a <think> at character 0 without </think>"):
        plain.generate(odd, max_new_tokens=4, edits=ChatEdits(thinking=True))
    with pytest.raises(ValueError, match="give it"):
        plain.generate(max_new_tokens=4, edits=ChatEdits())
    plain.generate(chat(), max_new_tokens=4, edits=EDITS)
    with pytest.raises(ValueError, match="edits of the chat are in force"):
        plain.forget((3, 5))


def test_thoughts_are_told_by_pairs_of_marks() -> None:
    assert [tuple(one) for one in thoughts_in("<think>a</think>b<think>c</think>")] == [(0, 7, 8, 16), (17, 24, 25, 33)]
    assert [tuple(one) for one in thoughts_in("a</think>b")] == [(0, 0, 1, 9)]  # the template wrote the first mark
    for text in ("<think>a", "<think>a<think>b</think>", "<think>a</think>b</think>"):
        with pytest.raises(ValueError, match=r"without|a second"):
            thoughts_in(text)
        assert thinking_spans({"role": "assistant", "content": text}) == []
    assert thinking_spans({"role": "user", "content": "<think>a</think>"}) == []


def test_what_an_undone_edit_took_is_read_again() -> None:
    def event(number: int) -> Event:
        return Event(number, (number - 1,), False, False)

    made = [Made(event(3), 30, 10, 5), Made(event(5), 50, 40, 5)]
    assert reach(made, [event(3), event(5)], 60) == (2, 60)
    assert reach(made, [event(3)], 60) == (1, 40)
    assert reach(made, [event(3), event(5)], 45) == (1, 40)  # rolled back below the second edit
    assert reach(made, [event(3), event(5)], 20) == (0, 10)
    assert reach([Made(event(3), 30, 10, 5, done=False)], [event(3)], 60) == (0, 10)


def test_an_edit_costs_what_is_read_behind_it() -> None:
    session, talk = ReplanSession(sharp(), byte_level()), chat()
    session.generate(talk, max_new_tokens=NEW)
    ends = {mark.message: mark.tokens for mark in session.conversation.transcript.known_marks}
    late = session.generate(talk, max_new_tokens=NEW, edits=ChatEdits({7: [2, 3]}))
    assert late.usage.reused_tokens == ends[7]  # the template's end of message 7 is read again, and what follows
    dropped = session.edited_tokens
    last = {7: [2, 3], 9: [4]}
    made = session.generate(talk, max_new_tokens=NEW, edits=ChatEdits(last, [9]))
    assert made.usage.reused_tokens == ends[9] and made.usage.skipped_tokens == dropped
    # All that is stored behind message 3 has moved, as far as it was read before.
    start_of_4 = ends[3] + 2
    own = session.edited_tokens - dropped
    assert made.usage.moved_tokens == ends[9] - start_of_4 - own
    # An answer told in other words: the session goes back to the end of message 9, behind which it has edited.
    talk += turn("another answer", 9)
    more = session.generate(talk, max_new_tokens=NEW, edits=ChatEdits(last, [9]))
    assert more.usage.reused_tokens == ends[9] + 2
    assert more.text == ReplanSession(sharp(), byte_level()).generate(
        talk, max_new_tokens=NEW, edits=ChatEdits(last, [9])
    ).text  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_any_session_answers_as_one_that_reads_the_chat_under_its_list_from_the_beginning(seed: int) -> None:
    """Lists and chats that change at random, interrupted calls, forks: warm and cold sessions agree to the bit."""
    rng, tokenizer = random.Random(seed), byte_level()
    on = TinyModel(vocabulary=len(tokenizer), seed=seed)

    def session() -> ReplanSession:
        return ReplanSession(on, tokenizer, engine="tiny", retokenize=bool(seed % 2))

    warm, talk = session(), chat(2)
    drop: dict[int, list[int]] = {}
    moved: set[int] = set()
    thinking = False
    for _ in range(14):
        match rng.randrange(9):
            case 0 | 1 | 2 | 3:
                talk = [*talk, *turn(f"<think>{rng.random()}</think>look {rng.randrange(9)}", rng.randrange(99))]
            case 4 if len(talk) > 6:
                at = rng.randrange(2, len(talk))
                talk = [*talk[:at], {**talk[at], "content": f"changed {rng.random()}"}, *talk[at + 1 :]]
            case 5 if len(talk) > 6:
                talk = talk[: 2 * rng.randrange(2, len(talk) // 2)]
            case 6:
                warm = warm.fork(talk[: rng.randrange(1, len(talk) + 1)])
        # One change of the list, so that most of what was made is still wanted.
        behind = rng.choice([len(talk) - 1, len(talk) - 1, rng.randrange(2, len(talk) + 3)])
        match rng.randrange(7):
            case 0 | 1 | 2:
                drop[behind] = rng.sample(range(behind + 1), rng.randrange(0, 3))
            case 3 if drop:
                del drop[rng.choice(sorted(drop))]
            case 4:
                moved ^= {min(behind, len(talk) - 1)}
            case 5 if moved:
                moved.remove(rng.choice(sorted(moved)))
            case 6:
                thinking = not thinking
        edits = ChatEdits(dict(drop), sorted(number for number in moved if number < len(talk)), thinking)
        if rng.random() < 0.3:
            calls = iter([False] * rng.randrange(1, 6))
            warm.generate(talk, max_new_tokens=4, edits=edits, cancel=lambda calls=calls: next(calls, True))
        if rng.random() < 0.3:
            warm.read(talk, edits=edits)
        made = warm.generate(talk, max_new_tokens=6, edits=edits)
        fresh = session()
        other = fresh.generate(talk, max_new_tokens=6, edits=edits)
        assert made.text == other.text
        assert warm.edited_tokens == fresh.edited_tokens and warm.evicted_tokens == fresh.evicted_tokens
        engines = [each.engine.fork() for each in (warm, fresh)]
        stored, others = (engine.stored().indices.tolist() for engine in engines)
        assert stored == others
        # A logit tells by its last bit what each token has attended to, and from which distance.
        one, two = (engine.verify([7]).tolist() for engine in engines)
        assert one == two
