"""Fields of requests: served, accepted because no answer depends on them, or refused by name. None is ignored."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from erecap.serving.fields import HARMLESS, NEUTRAL
from erecap.serving.schema import ChatRequest, ResponseRequest, TextRequest
from tests.context.small_tokenizers import byte_level
from tests.serving.asking import answer, choosing
from tests.serving.conftest import Server
from tests.session.chats import start

REFUSED: dict[str, Any] = {
    "top_k": 5,
    "min_p": 0.1,
    "typical_p": 0.9,
    "repetition_penalty": 1.1,
    "frequency_penalty": -1,
    "presence_penalty": 0.5,
    "logit_bias": {"1": 5},
    "n": 2,
    "best_of": 3,
    "logprobs": True,
    "top_logprobs": 1,
    "prompt_logprobs": 0,
    "echo": True,
    "guided_json": {},
    "guided_regex": "a*",
    "guided_choice": ["a"],
    "functions": [{"name": "f"}],
    "function_call": "auto",
    "stop_token_ids": [1],
    "ignore_eos": True,
    "bad_words": ["x"],
    "continue_final_message": True,
    "add_generation_prompt": False,
    "skip_special_tokens": False,
    "include_stop_str_in_output": True,
    "store": True,
    "chat_template": "{{ x }}",
    "chat_template_kwargs": {"enable_thinking": False},
    "documents": [{}],
    "reasoning_effort": "low",
    "modalities": ["text", "audio"],
    "audio": {"voice": "x"},
    "web_search_options": {},
    "length_penalty": 2,
    "use_beam_search": True,
    "keep_alive": "5m",
    "mirostat": 2,
    "xtc_probability": 0.5,
    "dry_multiplier": 1,
    "no_such_field": 0,
    "suffix": "end",
    "truncate_prompt_tokens": 5,
    "verbosity": "low",
    "background": True,
    "lora": "x",
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_would_change_an_answer_is_refused_by_name(name: str) -> None:
    for kind, rest in ((ChatRequest, {"messages": start()}), (ResponseRequest, {"input": "x"})):
        with pytest.raises(ValidationError, match=f"{name}: got .*; this server does not do that, leave it out"):
            kind(model="m", **rest, **{name: REFUSED[name]})
        kind(model="m", **rest, **{name: None})


def test_what_asks_for_what_is_done_anyway_is_accepted() -> None:
    assert not set(NEUTRAL) & HARMLESS
    for name, values in NEUTRAL.items():
        for value in values:
            ChatRequest(model="m", messages=start(), **{name: value})
            TextRequest(model="m", prompt="x", **{name: value})
    for name in HARMLESS:
        ChatRequest(model="m", messages=start(), **{name: "x"})
    for name, value in (("n", True), ("top_k", False), ("echo", 0), ("n", 1.5), ("min_p", math.nan)):
        with pytest.raises(ValidationError, match=name):
            ChatRequest(model="m", messages=start(), **{name: value})


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels):
        found = {"a": [found]}
    return found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperature": 1e-40}, "temperature: got 1e-40; allowed: 0, or 0.0001 to 2"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": math.nan}, "top_p"),
        ({"seed": 1 << 63}, "seed"),
        ({"seed": -(1 << 63) - 1}, "seed"),
        ({"stop": ["x"] * 17}, "stop: got 17 texts"),
        ({"stop": "x" * 1001}, "stop: got a text of 1001 characters"),
        ({"stop": [None]}, "stop"),
        ({"stop": ""}, "stop: got an empty text, which ends nothing"),
        ({"stop": ["\n", ""]}, "stop: got an empty text"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens: got 9, and max_tokens 8"),
        ({"stream_options": {"every": 5}}, "every: got 5"),
        ({"messages": []}, "messages"),
        ({"tools": [nested(101)]}, "nested more than 100 levels deep"),
        ({"metadata": nested(5000)}, "nested more than 100 levels deep"),
    ],
)
def test_values_out_of_range(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ChatRequest(model="m", **{"messages": start(), **changes})


@pytest.fixture(scope="module")
def server():  # type: ignore[no-untyped-def]
    made = Server(window=600)
    yield made
    made.stop()


def post(server: Server, path: str = "chat/completions", **body: Any) -> httpx.Response:
    content = json.dumps({"model": "tiny", **body}).encode()
    return httpx.post(f"{server.url}/v1/{path}", content=content, headers={"content-type": "application/json"})


HALF = "a \ud800"
UNREADABLE: list[tuple[str, dict[str, Any], str]] = [
    ("chat/completions", {"prediction": {"type": "content", "content": HALF}}, "prediction.content"),
    ("chat/completions", {"prediction": {"content": [{"text": HALF}]}}, "prediction.content[0].text"),
    ("chat/completions", {"messages": [*start(), {"role": "user", "content": HALF}]}, "messages[2].content"),
    ("chat/completions", {"stop": ["x", HALF]}, "stop[1]"),
    ("chat/completions", {"tools": [{"name": "f", "description": HALF}]}, "tools[0].description"),
    ("chat/completions", {"tools": [{"name": HALF}], "tool_choice": "required"}, "tools[0].name"),
    ("chat/completions", {"tools": [{"name": "f", "parameters": {"a": math.inf}}]}, "tools[0].parameters.a"),
    ("chat/completions", {"tools": [{"name": "f", "parameters": {HALF: 1}}]}, "tools[0].parameters"),
    ("chat/completions", {"tool_choice": HALF}, "tool_choice"),
    ("chat/completions", {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [HALF]}}}},
     "response_format.json_schema.schema.enum[0]"),
    ("completions", {"prompt": HALF}, "prompt"),
    ("completions", {"prompt": [HALF]}, "prompt[0]"),
    ("completions", {"prompt": "x", "stop": HALF}, "stop"),
    ("responses", {"input": HALF}, "input"),
    ("responses", {"input": "x", "instructions": HALF}, "instructions"),
    ("responses", {"input": [{"type": "function_call_output", "output": {"a": math.nan}}]}, "input[0].output.a"),
    ("responses", {"input": "x", "text": {"format": {"type": HALF}}}, "text.format.type"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "changes", "place"), UNREADABLE, ids=[f"{path} {at}" for path, _, at in UNREADABLE])
@pytest.mark.parametrize("stream", [False, True])
def test_what_no_tokenizer_reads_is_refused_with_its_place(
    server: Server, path: str, changes: dict[str, Any], place: str, stream: bool
) -> None:
    rest = {"messages": start()} if path == "chat/completions" else {}
    sent = post(server, path, **{**rest, **changes, "stream": stream})
    error = sent.json()["error"]
    assert sent.status_code == 400 and error["param"] == place and error["message"].startswith(f"{place}: got ")


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses"])
def test_true_is_no_number(server: Server, path: str) -> None:
    body, longest = {
        "chat/completions": ({"messages": start()}, "max_completion_tokens"),
        "completions": ({"prompt": "x"}, "max_tokens"),
        "responses": ({"input": "x"}, "max_output_tokens"),
    }[path]
    for name in ("temperature", "top_p", "seed", "min_tokens", longest):
        sent = post(server, path, **body, **{name: True})
        assert sent.status_code == 400 and sent.json()["error"]["message"] == f"{name}: got true; wanted a number"
        assert sent.json()["error"]["param"] == name


@pytest.mark.parametrize("name", ["top_k", "functions", "drop_message", "a" * 500])
def test_a_refusal_names_the_field_on_the_wire(server: Server, name: str) -> None:
    for path, rest in (
        ("chat/completions", {"messages": start()}),
        ("completions", {"prompt": "x"}),
        ("responses", {"input": "x"}),
    ):
        sent = post(server, path, **rest, **{name: [{"name": "f"}]})
        error = sent.json()["error"]
        assert sent.status_code == 400 and error["message"].startswith(f"{name[:60]}: got ")
        assert error["type"] == "invalid_request_error" and error["param"] == name[:60]


@pytest.mark.parametrize(
    "odd", [{"top_p": 1e-300}, {"top_p": 5e-324}, {"temperature": 1e-4}, {"top_p": 1e-9, "temperature": 2}]
)
def test_a_nucleus_of_next_to_nothing_is_the_likeliest_token(server: Server, odd: dict[str, float]) -> None:
    greedy = post(server, messages=start(), temperature=0, max_tokens=8).json()["choices"][0]["message"]["content"]
    sent = post(server, messages=start(), max_tokens=8, **{"temperature": 1.0, **odd})
    assert sent.json()["choices"][0]["message"]["content"] == greedy


@pytest.mark.parametrize("seed", [-(1 << 63), (1 << 63) - 1, 0])
def test_seeds_of_64_bits(server: Server, seed: int) -> None:
    texts = {
        post(server, messages=start(), seed=seed, max_tokens=6).json()["choices"][0]["message"]["content"]
        for _ in range(2)
    }
    assert len(texts) == 1


def test_min_tokens_and_prediction_are_served(server: Server) -> None:
    plain = post(server, messages=start(), temperature=0, max_tokens=30).json()
    text = plain["choices"][0]["message"]["content"]
    predicted = post(
        server, messages=start(), temperature=0, max_tokens=30, prediction={"type": "content", "content": text}
    )
    assert predicted.json()["choices"][0]["message"]["content"] == text
    assert post(server, messages=start(), min_tokens=30, max_tokens=30).json()["usage"]["completion_tokens"] == 30
    assert post(server, messages=start(), prediction={"content": 5}).json()["error"]["param"] == "prediction.content"


@pytest.mark.parametrize("name", ["<|im_start|>", "<|endoftext|>"])
def test_a_special_token_as_a_stop_text_ends_the_answer(name: str, engines) -> None:  # type: ignore[no-untyped-def]
    tokenizer = byte_level()
    said = [
        *tokenizer("look")["input_ids"],
        tokenizer.convert_tokens_to_ids(name),
        *tokenizer("user\nmade up")["input_ids"],
    ]
    made = answer(engines(), start(), stop=[name], allowed_tokens=choosing(said), max_new_tokens=len(said))
    assert made.text == "look" and made.finish_reason == "stop"
