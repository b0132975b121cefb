"""A conversation is recognised by what it has in common with what was read, and has one session."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erecap.session.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.serving.asking import answer, choosing, writing
from tests.session.chats import model, start, turn

THOUGHT = "<think>the mug is on shelf 1</think>go to shelf 1"
CALL = '<tool_call>\n{"name": "go", "arguments": {"to": "shelf 1"}}\n</tool_call>'

# What clients make of an answer before they hand it back.
CHANGES = {
    "as it was": (THOUGHT, lambda said: said),
    "one character more": (THOUGHT, lambda said: f"{said}."),
    "stripped": (f"{THOUGHT}\n\n", str.strip),
    "reasoning cut": (THOUGHT, lambda said: said.split("</think>")[1]),
    "emptied": (THOUGHT, lambda said: ""),
    "another answer altogether": (THOUGHT, lambda said: "look"),
    "a call with other spaces": (CALL, lambda said: said.replace(": ", ":").replace("\n", "")),
    "a call with its keys in another order": (
        CALL,
        lambda said: json.dumps({"arguments": {"to": "shelf 1"}, "name": "go"}),
    ),
    "composed characters": ("go to caf\u00e9 1", lambda said: said.replace("\u00e9", "e\u0301")),
}


@pytest.mark.parametrize("kv_tokens", [None, 200])
@pytest.mark.parametrize("change", list(CHANGES))
def test_an_answer_handed_back_in_other_words_keeps_the_session(engines, change: str, kv_tokens: int | None) -> None:  # type: ignore[no-untyped-def]
    said, handed_back = CHANGES[change]
    on, talk, before = engines(kv_tokens=kv_tokens), start(), 0
    for number in range(6):
        usage = answer(on, talk, **writing(said)).usage
        # All of the last prompt was known, but for the header of its answer.
        assert usage.reused_tokens >= before - 5, number
        assert len(on.store) == 1 and on.store.busy == 0
        before = usage.prompt_tokens
        talk = [*talk, *turn(handed_back(said), number)]
    assert before > 200 and (kv_tokens is None or on.store.held[0].session.evicted_tokens > 0)


def test_what_a_long_answer_has_in_common_is_not_read_again(engines) -> None:  # type: ignore[no-untyped-def]
    said = "go to shelf 1, then take mug 2, then open cabinet 3. " * 4
    on = engines()
    first = answer(on, start(), **writing(said))
    usage = answer(on, [*start(), *turn(f"{said}Then look.", 1)]).usage
    assert usage.reused_tokens > first.usage.prompt_tokens + 0.9 * first.usage.completion_tokens


def test_the_newest_message_told_anew_keeps_the_session(engines) -> None:  # type: ignore[no-untyped-def]
    on, talk = engines(kv_tokens=260), start()
    for number in range(6):
        said = answer(on, talk, **writing("look")).text
        earlier = [{**message, "content": message["content"].replace("Current ", "")} for message in talk]
        talk = [*earlier, *turn(said, number)]
        talk[-1]["content"] = f"Current observation: {talk[-1]['content']}"
        usage = answer(on, talk, **writing("look")).usage
        assert len(on.store) == 1
        assert number == 0 or usage.reused_tokens > 40 + 20 * number


def test_a_window_that_slides_keeps_the_session(engines) -> None:  # type: ignore[no-untyped-def]
    on, talk = engines(), start()
    for number in range(8):
        said = answer(on, [talk[0], *talk[1:][-5:]], **writing("look")).text
        talk = [*talk, *turn(said, number)]
        assert len(on.store) == 1


def test_conversations_that_begin_alike_stay_apart(engines) -> None:  # type: ignore[no-untyped-def]
    on = engines()
    talks = [[*start()[:1], {"role": "user", "content": f"Goal: find the mug {number}."}] for number in range(3)]
    known = [0, 0, 0]
    for turns in range(4):
        for number, talk in enumerate(talks):
            usage = answer(on, talk, **writing("look")).usage
            assert usage.reused_tokens >= known[number] > 0 or turns == 0
            known[number] = usage.prompt_tokens
            talk += turn("look.", turns)
    assert len(on.store) == 3


def test_another_way_from_an_earlier_turn_leaves_the_first_one_its_session(engines) -> None:  # type: ignore[no-untyped-def]
    on = engines()
    trunk = [*start(), *turn("look", 1), *turn("look", 2)]
    for message in range(2, len(trunk) + 1, 2):
        answer(on, trunk[:message], **writing("look"))
    answer(on, [*trunk[:2], *turn("look", 8)], **writing("look"))
    assert len(on.store) == 2
    usage = answer(on, [*trunk, *turn("look", 3)]).usage
    assert usage.reused_tokens > 100 and len(on.store) == 2


def sampled(seed: int) -> dict[str, object]:
    return {"temperature": 1.5, "seed": seed, "max_new_tokens": 11}


@pytest.mark.parametrize("history", ["sampled", "stopped inside a token", "written in single bytes"])
def test_cold_and_warm_and_restored_answers_are_the_same(engines, tmp_path: Path, history: str) -> None:  # type: ignore[no-untyped-def]
    tokenizer = byte_level()
    pieces = [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(letter)[0]) for letter in "gotofridge"]
    ways = {
        "sampled": sampled,
        "stopped inside a token": lambda seed: {**writing("go to fridge 1"), "stop": ["dge"]},
        "written in single bytes": lambda seed: {"allowed_tokens": choosing(pieces), "max_new_tokens": 10},
    }
    warm, talk, rewritten = engines(), start(), 0
    saved = ReplanSession(model(), tokenizer, retokenize=True)
    for number in range(4):
        made = answer(warm, talk, **ways[history](number))
        assert saved.generate(talk, **ways[history](number)).text == made.text  # type: ignore[arg-type]
        talk = [*talk, *turn(made.text, number)]
        rewritten += made.usage.rewritten_tokens
    assert rewritten or history == "stopped inside a token"  # tokens of answers that are not those of their texts
    saved.save(tmp_path / "session.safetensors")
    restored = ReplanSession(model(), tokenizer, retokenize=True)
    restored.restore(tmp_path / "session.safetensors")
    texts = {
        "cold": answer(engines(), talk, max_new_tokens=24),
        "warm": answer(warm, talk, max_new_tokens=24),
        "restored": restored.generate(talk, max_new_tokens=24),
    }
    assert texts["warm"].usage.reused_tokens > 100 and texts["cold"].usage.reused_tokens == 0
    assert texts["warm"].text == texts["cold"].text == texts["restored"].text
    assert texts["warm"].usage.prompt_tokens == texts["cold"].usage.prompt_tokens
