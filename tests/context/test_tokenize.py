"""Every message is found again in the tokens, whatever the chat template did to it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.context.protection import protected_spans
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError, ModelError
from erecap.generation import Message
from tests.context.small_tokenizers import INST, MOVING, WRITERS, byte_level, llama_like


def chat(*contents: str, first: str = "system") -> list[Message]:
    roles = ["system", "user", "assistant"] if first == "system" else ["user", "assistant"]
    cycle = roles + ["user", "assistant"] * len(contents)
    return [{"role": role, "content": content} for role, content in zip(cycle, contents, strict=False)]  # type: ignore[typeddict-item]


@pytest.mark.parametrize("make", WRITERS.values(), ids=WRITERS)
def test_message_spans_hold_the_contents(make) -> None:  # type: ignore[no-untyped-def]
    tokenizer = make()
    # Contents that also occur in the template's own text must not be mistaken for it.
    messages = chat("system", "user", "assistant", "user\n\nim_start", "You help.", "go to fridge 1")
    prompt = render_prompt(messages, tokenizer)
    for message, (start, end) in zip(messages, prompt.message_spans, strict=True):
        assert prompt.text[start:end] == message["content"]
    assert prompt.message_spans == sorted(prompt.message_spans)
    assert prompt.input_ids == tokenizer(prompt.text, add_special_tokens=False)["input_ids"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=6), st.data())
def test_token_span_covers_its_characters(contents: list[str], data: st.DataObject) -> None:
    messages = chat(*contents)
    prompt = render_prompt(messages, byte_level())
    index = data.draw(st.integers(0, len(messages) - 1))
    size = len(contents[index])
    start = data.draw(st.integers(0, size))
    end = data.draw(st.integers(start, size))
    low, high = prompt.token_span(index, start, end)
    place = prompt.message_spans[index][0]
    touching = [
        token
        for token, (first, last) in enumerate(prompt.offsets)
        if first < place + end and last > place + start and last > first
    ]
    if start < end:
        assert set(touching) <= set(range(low, high)) and high > low
        covered = byte_level().decode(prompt.input_ids[low:high], skip_special_tokens=False)
        assert prompt.text[place + start : place + end] in covered or "\ufffd" in covered
    else:
        assert low == high


def test_templates_that_strip_and_merge() -> None:
    messages = chat("Be brief.", "  go to fridge 1 \n", " open it\n", "look ")
    prompt = render_prompt(messages, llama_like(INST))
    shown = [prompt.text[start:end] for start, end in prompt.message_spans]
    assert shown == ["Be brief.", "go to fridge 1", "open it", "look"]
    # "fridge" is at 8..14 of the content as the caller knows it, leading spaces included.
    low, high = prompt.token_span(1, 8, 14)
    assert "fridge" in llama_like(INST).decode(prompt.input_ids[low:high])
    assert prompt.token_span(1, 0, 2) == (low_of(prompt, 1), low_of(prompt, 1))


def low_of(prompt, message: int) -> int:  # type: ignore[no-untyped-def]
    return prompt.token_span(message, 0, len(prompt.text))[0]


def test_templates_that_move_and_cut() -> None:
    messages = chat("Be brief.", "look", "<think>hm</think>open cabinet 3", "go on")
    prompt = render_prompt(messages, llama_like(MOVING))
    shown = [prompt.text[start:end] for start, end in prompt.message_spans]
    assert shown == ["Be brief.", "look", "open cabinet 3", "go on"]
    assert prompt.message_spans[0] > prompt.message_spans[2]
    text = messages[2]["content"]
    low, high = prompt.token_span(2, text.index("cabinet"), len(text))
    assert llama_like(MOVING).decode(prompt.input_ids[low:high]).strip() == "cabinet 3"


def test_spans_are_merged_and_empty_ones_left_out() -> None:
    prompt = render_prompt(chat("one two three", "four"), byte_level())
    whole = prompt.token_span(0, 0, 13)
    assert prompt.token_spans([(0, 0, 8), (0, 3, 13), (1, 2, 2)]) == [whole]


def test_clear_errors() -> None:
    class Slow:
        is_fast = False
        name_or_path = "slow-one"

    with pytest.raises(ModelError, match=r"slow-one gives no character offsets"):
        render_prompt(chat("a"), Slow())
    with pytest.raises(ModelError, match="no messages"):
        render_prompt([], byte_level())
    with pytest.raises(ModelError, match=r"refuses roles \[user, user\].*alternate"):
        render_prompt([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], llama_like(INST))
    with pytest.raises(ModelError, match=r"message 1 \(user\) is not valid Unicode"):
        render_prompt(chat("a", "b\ud800"), byte_level())
    bare = llama_like("{{ messages[0]['content'] }}")
    with pytest.raises(ModelError, match=r"does not show the content of message 1 \(user\)"):
        render_prompt(chat("a", "b"), bare)
    upper = llama_like("{% for m in messages %}{{ m['content'] | upper }}|{% endfor %}")
    with pytest.raises(ModelError, match=r"message 0 \(system\)"):
        render_prompt(chat("a", "b"), upper)


def test_default_protection() -> None:
    messages = chat("sys", "goal", "plan", "result", "plan 2", "newest")
    assert protected_spans(messages) == [(0, 0, 3), (1, 0, 4), (5, 0, 6)]
    messages[1]["protect"] = [(0, 2)]
    messages[2]["protect"] = [(1, 3), (2, 2)]
    messages[5]["protect"] = []
    assert protected_spans(messages) == [(0, 0, 3), (1, 0, 2), (2, 1, 3)]
    messages[3]["protect"] = [(2, 99)]
    with pytest.raises(ConfigError, match=r"message 3: protect span \(2, 99\)"):
        protected_spans(messages)
