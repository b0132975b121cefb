"""Budgets count what is sent: tools and their calls, reasoning, images, schemas, and every script."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydantic
import pytest

import erecap
from erecap.errors import ConfigError
from erecap.wrapping.request_parts import MEDIA_TOKENS, beside_content, beside_messages
from erecap.wrapping.token_counting import TokenCounter
from tests.context.small_tokenizers import byte_level

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 60_000}}


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "replans.jsonl").read_text().splitlines()]


def sent(messages: list, **options: Any) -> list:
    shown: list = []
    erecap.wrap(lambda given: shown.append(given) or "ok", **options)(messages)
    return shown[0]


def exchanges(number: int, answer: Any, result: Any) -> list[dict]:
    chat: list[dict] = [{"role": "system", "content": "s"}, {"role": "user", "content": "goal"}]
    for n in range(number):
        chat += [answer(n), result(n)]
    return chat


def tool_call(arguments: str) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": "write_file", "arguments": arguments}}


BESIDE = {
    "tool calls": {"content": None, "tool_calls": [tool_call(json.dumps({"text": "w" * 4000}))]},
    "a function call": {"content": "I write.", "function_call": {"name": "write", "arguments": "w" * 4000}},
    "reasoning": {"content": "go", "reasoning_content": "I think so. " * 350},
    "a thinking field": {"content": "go", "thinking": "First the mug. " * 300},
    "unknown fields": {"content": "go", "provider_specific": {"signature": "w " * 2000}},
}


@pytest.mark.parametrize("kind", BESIDE)
def test_what_stands_beside_the_text_counts(kind: str, tmp_path: Path) -> None:
    chat = exchanges(
        30,
        lambda n: {"role": "assistant", **BESIDE[kind]},
        lambda n: {"role": "tool", "tool_call_id": "c", "content": f"ok {n}"},
    )
    shown = sent(chat, keep_tokens=2000, log=tmp_path)
    assert len(json.dumps(shown)) // 4 <= 2000
    [row] = rows(tmp_path)
    assert row["kept_tokens"] <= 2000 and row["prompt_tokens"] > 25_000
    assert shown[:2] == chat[:2] and shown[-2:] == chat[-2:] and all(message in chat for message in shown)


@pytest.mark.parametrize(
    "text",
    [
        "机器人走到冰箱前,打开冰箱门,取出苹果。",
        "يصل الروبوت إلى الثلاجة ويفتحها.",
        "🤖🍎🧊🚪",
        "ロボットは扉を開けて、リンゴを取り出す。",
    ],
    ids=["Chinese", "Arabic", "emoji", "Japanese"],
)
def test_a_budget_holds_in_scripts_of_one_character_a_token(text: str) -> None:
    chat = exchanges(
        40, lambda n: {"role": "assistant", "content": "go"}, lambda n: {"role": "user", "content": text * 3}
    )
    shown = sent(chat, keep_tokens=600)
    assert sum(len(message["content"]) for message in shown) <= 600
    # Of four characters a token, nothing would have been left out before this.
    assert len(shown) < len(chat)


class Plan(pydantic.BaseModel):
    """A plan."""

    commands: list[str] = pydantic.Field(description="what to do, " * 110)


REQUESTS: dict[str, dict[str, Any]] = {
    "tools": {"tools": [{"type": "function", "function": {"name": "look", "description": "Look around. " * 150}}]},
    "a schema": {"response_format": {"type": "json_schema", "json_schema": {"schema": Plan.model_json_schema()}}},
    "a class": {"response_format": Plan},
    "system text beside the chat": {"system": "You plan for a robot. " * 90},
    "tools as objects": {
        "tools_to_call_from": [SimpleNamespace(name="look", description="Look around. " * 150, inputs={})]
    },
    "in extra_body": {"extra_body": {"guided_json": Plan.model_json_schema()}},
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_what_is_sent_beside_the_chat_counts(kind: str, tmp_path: Path) -> None:
    chat = exchanges(
        40, lambda n: {"role": "assistant", "content": "go"}, lambda n: {"role": "user", "content": f"mug {n}"}
    )
    shown: list = []
    wrapped = erecap.wrap(lambda given, **request: shown.append(given) or "ok", keep_tokens=900, log=tmp_path)
    wrapped(chat)
    wrapped(chat, **REQUESTS[kind])
    bare, with_it = rows(tmp_path)
    beside = with_it["prompt_tokens"] - bare["prompt_tokens"]
    assert beside > 350 and with_it["kept_tokens"] <= 900 and len(shown[0]) > len(shown[1])


def test_an_image_counts_the_same_however_long_its_data_is() -> None:
    small = {**PICTURE, "image_url": {"url": "http://x/a.png"}}
    parts: dict[str, Any] = {
        "OpenAI": PICTURE,
        "by address": small,
        "Responses": {"type": "input_image", "image_url": "data:"},
        "Anthropic": {"type": "image", "source": {"data": "A" * 9000}},
        "sound": {"type": "input_audio", "input_audio": {"data": "A" * 9000}},
        "a file": {"type": "file", "file": {"file_data": "A" * 9000}},
        "Gemini": {"inline_data": {"mime_type": "image/png", "data": "A" * 9000}},
    }
    for part in parts.values():
        found = beside_content({"role": "user", "content": [{"type": "text", "text": "see"}, part]}, "see")
        assert found == ("", 1)
    two = TokenCounter().beside(
        [{"role": "user", "content": "see"}] * 2,
        [
            {"role": "user", "content": [PICTURE, PICTURE]},
            SimpleNamespace(role="user", content="see", attachment=b"png"),
        ],
    )
    assert [
        TokenCounter().chat([message]) - TokenCounter().chat([{"role": "user", "content": "see"}]) for message in two
    ] == [
        2 * MEDIA_TOKENS,
        MEDIA_TOKENS,
    ]


def test_thinking_and_tool_parts_count_as_text() -> None:
    thinking = {"type": "thinking", "thinking": "First the mug. " * 20, "signature": "abc"}
    use = {"type": "tool_use", "id": "t", "name": "look", "input": {"at": "shelf " * 50}}
    found = beside_content({"role": "assistant", "content": [thinking, {"type": "text", "text": "go"}, use]}, "go")
    assert (
        found.media == 0 and "First the mug." in found.text and "shelf shelf" in found.text and "go" not in found.text
    )
    assert beside_messages({"model": "m", "temperature": 0, "tools": None}) == ""


def test_a_tools_result_is_counted_once_and_its_images_as_images() -> None:
    image = {"type": "image", "source": {"data": "A" * 9000}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "a mug"}, image]}
    told = beside_content({"role": "user", "content": [result]}, "a mug")
    untold = beside_content({"role": "user", "content": [result]}, "")
    assert told.media == untold.media == 1 and "a mug" not in told.text and "a mug" in untold.text
    output = {"type": "function_call_output", "call_id": "c", "output": "a mug"}
    assert "mug" not in beside_content(output, "a mug").text and "mug" in beside_content(output, "").text


class Encodes:
    """A tokenizer of a package that nobody here knows."""

    def encode(self, text: str) -> list[int]:
        return [0] * len(text)


class Ordinary(Encodes):
    """As tiktoken, whose `encode` refuses the names of special tokens."""

    def encode(self, text: str) -> list[int]:
        raise ValueError("special token")

    def encode_ordinary(self, text: str) -> list[int]:
        return [0] * len(text)


class TakesMarks:
    """As mistral-common's."""

    def encode(self, text: str, bos: bool, eos: bool) -> list[int]:
        return [0] * (len(text) + bos + eos)


@pytest.mark.parametrize(
    "tokenizer",
    [Encodes(), Ordinary(), TakesMarks(), len, lambda text: list(text), lambda text: {"input_ids": [0] * len(text)}],
    ids=["encode", "ordinary", "marks", "number", "tokens", "mapping"],
)
def test_whatever_counts_can_be_named(tokenizer: Any, tmp_path: Path) -> None:
    counter = TokenCounter(tokenizer)
    assert counter.text("a mug <|endoftext|>") == 19 and not counter.estimated
    chat = exchanges(
        9, lambda n: {"role": "assistant", "content": "go"}, lambda n: {"role": "user", "content": "a " * 30}
    )
    shown = sent(chat, keep_tokens=300, tokenizer=tokenizer, log=tmp_path)
    assert sum(len(message["content"]) + 6 for message in shown) == rows(tmp_path)[0]["kept_tokens"] <= 300
    assert rows(tmp_path)[0]["tokens_estimated"] is False


def test_a_tokenizer_by_folder_file_and_object(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.save_pretrained(tmp_path)
    text = "go to fridge 1 <|im_end|>"
    wanted = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    for named in (tokenizer, tokenizer.backend_tokenizer, tmp_path, str(tmp_path), str(tmp_path / "tokenizer.json")):
        assert TokenCounter(named).text(text) == wanted


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        (5, "tokenizer: got 5; allowed: a tokenizer with encode"),
        ("", "tokenizer: got ''; allowed"),
        ("no-such-folder/tokenizer", "tokenizer: no-such-folder/tokenizer cannot be read"),
        (lambda text: "words", "it returned 'words' for a text; allowed: a number, or tokens"),
        (lambda text: -1, "it returned -1"),
        (lambda text: 1 / 0, r"function does not count a text \(ZeroDivisionError: division by zero\)"),
        (lambda: 3, "function does not count a text"),
    ],
)
def test_what_is_no_tokenizer_is_refused_at_once(tokenizer: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        erecap.wrap(lambda given: "ok", keep_tokens=9, tokenizer=tokenizer)


def test_one_thing_counts() -> None:
    with pytest.raises(ConfigError, match="count_tokens and tokenizer both count tokens; give one of them"):
        erecap.wrap(lambda given: "ok", keep_tokens=9, tokenizer=len, count_tokens=len)
    with pytest.raises(ConfigError, match="tokenizer is for callables; a model is given token ids"):
        from tests.tokens.models import tiny

        erecap.wrap(tiny("llama"), tokenizer=len)


def test_a_text_is_counted_once() -> None:
    asked: list[str] = []
    counter = TokenCounter.by(lambda text: asked.append(text) or len(text))
    for _ in range(3):
        assert counter.chat([{"role": "user", "content": "abc"}, {"role": "user", "content": "\ud800"}]) == 16
    assert asked == ["abc", "\ud800"]
