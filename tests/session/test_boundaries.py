"""Borders between messages: the text is always the template's; the tokens are the whole text's with `retokenize`."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.context.tokenize import encode_from
from erecap.session import ReplanSession
from tests.context.small_tokenizers import CHATML, INST, byte_level, llama_like, metaspace
from tests.session.test_append import large_vocabulary, with_template

# No special token anywhere: what a message ends with may grow together with what follows.
PLAIN = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
TOKENIZERS = {
    "chatml": byte_level,
    "metaspace": metaspace,
    "inst": lambda: llama_like(INST),
    "plain": cache(lambda: with_template(PLAIN)),
    "prefixed": cache(lambda: llama_like_chatml()),
}
NASTY = [
    "",
    " ",
    "  two  spaces \n",
    "\n\n",
    "go to fridge 1\n",
    "caf\u00e9 \u2013 \u4f60\u597d \U0001f916\U0001f3fd",
    "e\u0301",
    "<|im_end|>",
    "</s>[INST]",
    "a<|im_start|>user\n<|im_end|>",
    "\u00a0\t x",
    "fridg",
    "assistant",
]


def llama_like_chatml() -> Any:
    """A space mark before everything that follows a special token, in a template of special tokens."""
    return llama_like(CHATML.replace("<|im_start|>", "<s>").replace("<|im_end|>", "</s>"))


def whole_ids(messages: list[dict], tokenizer: Any) -> list[int]:
    return tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(st.sampled_from([*NASTY, "<|im_end|>\n", "</s>", " it", "go"]), min_size=1, max_size=8),
    data=st.data(),
)
def test_tokens_of_an_end_are_those_of_the_whole(name: str, parts: list[str], data: st.DataObject) -> None:
    tokenizer, text = TOKENIZERS[name](), "".join(parts)
    start = data.draw(st.integers(0, len(text)))
    end = encode_from(tokenizer, text, start)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    before = tokenizer(text[:start], add_special_tokens=False)["input_ids"]
    if end.exact:
        assert before + end.ids == whole
    else:
        assert whole[: len(before)] != before
    assert len(end.offsets) == len(end.ids) and all(0 <= a <= b <= len(text) - start for a, b in end.offsets)


@pytest.mark.parametrize("how", ["whole", "read", "append"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_retokenized_ids_are_those_of_the_template(name: str, how: str) -> None:
    tokenizer = TOKENIZERS[name]()
    session = ReplanSession(large_vocabulary(), tokenizer, retokenize=True)
    messages: list[dict] = [{"role": "user", "content": "Goal: cool the apple 1."}]
    new = list(messages)
    differing = 0
    for number, content in enumerate(NASTY * 2):
        if how == "read":
            session.read(messages)
        if how == "append":
            session.append(new)
        given = None if how == "append" else messages
        generation = session.generate(given, max_new_tokens=4)
        expected = whole_ids(messages, tokenizer)
        assert generation.usage.prompt_tokens == len(expected)
        assert session.token_ids[: len(expected)] == expected, (number, content)
        answer = generation.text if number % 3 else content
        differing += tokenizer(answer, add_special_tokens=False)["input_ids"] != session.token_ids[len(expected) :]
        new = [
            {"role": "assistant", "content": answer},
            {"role": "user", "content": f"{content}{number}" * (number % 4 > 0) + content},
        ]
        messages += new
        if number % 3 and how == "append" and number % 2:
            new = new[1:]  # the session has its own answer already
        assert generation.usage.new_tokens < 130
    assert differing > 3


def test_without_it_answers_stay_as_they_were_generated() -> None:
    tokenizer = byte_level()
    session = ReplanSession(large_vocabulary(), tokenizer)
    strict = ReplanSession(large_vocabulary(), tokenizer, retokenize=True)
    # An answer that spells a word letter by letter, which no tokenizer would do.
    spelled = [tokenizer.convert_tokens_to_ids(letter) for letter in "fridge"]
    assert tokenizer("fridge", add_special_tokens=False)["input_ids"] != spelled
    messages = [{"role": "user", "content": "Go."}]
    for one in (session, strict):
        script = iter(spelled)
        one.generate(messages, max_new_tokens=6, allowed_tokens=lambda ids, script=script: [next(script, spelled[-1])])
    messages += [{"role": "assistant", "content": "fridge"}, {"role": "user", "content": "And now?"}]
    for one in (session, strict):
        one.generate(messages, max_new_tokens=1)
    expected = whole_ids(messages, tokenizer)
    assert strict.token_ids == expected
    place = len(whole_ids(messages[:1], tokenizer))
    assert session.token_ids[place : place + 6] == spelled
    assert session.token_ids[place + 6 :] == expected[-(len(session.token_ids) - place - 6) :]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_text_read_is_the_text_of_the_template(name: str) -> None:
    """With tokens as generated, and where tokens would grow together across a border, the text is still right."""
    tokenizer = TOKENIZERS[name]()
    letters = tokenizer.convert_tokens_to_ids(list("gomu"))
    for how in ("whole", "append"):
        session = ReplanSession(large_vocabulary(), tokenizer)
        messages: list[dict] = [{"role": "user", "content": "Goal: cool the apple 1."}]
        new = list(messages)
        for content in NASTY:
            if how == "append":
                session.append(new)
            generation = session.generate(
                None if how == "append" else messages, max_new_tokens=3, allowed_tokens=lambda ids: letters
            )
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            prompt = session.token_ids[: generation.usage.prompt_tokens]
            decoded = tokenizer.decode(prompt, skip_special_tokens=False)
            # Some tokenizers write a space before what they are given alone; nothing else may be added or lost.
            assert decoded.replace(" ", "") == tokenizer.decode(
                tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=False
            ).replace(" ", "")
            if name == "chatml":
                assert decoded == text
            new = [{"role": "assistant", "content": generation.text}, {"role": "user", "content": content}]
            messages += new


def test_protected_bytes_of_one_character() -> None:
    """A character of several tokens is protected whole."""
    session = ReplanSession(large_vocabulary(), byte_level())
    session.append([{"role": "user", "content": "x\U0001f916y"}])
    mark = session.conversation.transcript.marks[-1]
    low, high = mark.indices(1, 2)
    assert high - low == 4 and byte_level().decode(session.token_ids[low:high]) == "\U0001f916"
    assert mark.indices(0, 1) == (mark.first, mark.first + 1) and mark.indices(1, 1) == (mark.first,) * 2
    assert torch.isfinite(session.cache.layers[0].keys).all()
