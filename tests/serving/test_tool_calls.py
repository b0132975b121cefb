"""Calls of tools as models and hosts write them: read, or refused with the place; never a failure of the server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from erecap.serving.answer_calls import calls_in
from erecap.serving.failures import ApiFailure
from erecap.serving.tools import as_text, read_tools

CITY = {"city": "Paris"}
TOLD = '<tool_call>\n{"name": "w", "arguments": {"city": "Paris"}}\n</tool_call>'


def chat(**answer: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "?"}, {"role": "assistant", **answer}]


@pytest.mark.parametrize(
    "call",
    [
        {"function": {"name": "w", "arguments": CITY}},
        {"function": {"name": "w", "arguments": json.dumps(CITY)}},
        {"function": {"name": "w", "arguments": json.dumps(json.dumps(CITY))}},
        {"function": {"name": "w", "parameters": CITY}},
        {"id": "c", "type": "function", "function": {"name": "w", "arguments": None, "parameters": json.dumps(CITY)}},
        {"name": "w", "arguments": CITY},
        {"name": "w", "args": CITY, "id": "c", "type": "tool_call"},
    ],
)
def test_calls_of_a_history_are_shown_in_one_form(call: dict[str, Any]) -> None:
    assert as_text(chat(content=None, tool_calls=[call]), [])[1]["content"] == TOLD
    both = as_text(chat(content="Let me look.", tool_calls=[call, call]), [])[1]["content"]
    assert both == f"Let me look.\n{TOLD}\n{TOLD}"


def test_old_calls_custom_tools_and_results() -> None:
    old = as_text([*chat(content=None, function_call={"name": "w", "arguments": json.dumps(CITY)}),
                   {"role": "function", "name": "w", "content": "sunny"}], [])  # fmt: skip
    assert old[1]["content"] == TOLD and old[2] == {
        "role": "user",
        "content": "<tool_response>\nsunny\n</tool_response>",
    }
    custom = {"id": "c", "type": "custom", "custom": {"name": "w", "input": "x = 1"}}
    assert '"arguments": {"input": "x = 1"}' in as_text(chat(content="", tool_calls=[custom]), [])[1]["content"]
    parts = [{"type": "text", "text": "a mug"}, {"type": "input_text", "text": "a plate"}]
    assert "a mug\na plate" in as_text([{"role": "tool", "tool_call_id": "lost", "content": parts}], [])[0]["content"]
    nothing = chat(content=None, refusal=None, audio=None, function_call=None, tool_calls=None)
    assert as_text(nothing, [])[1]["content"] == ""
    assert as_text(chat(content=None, refusal="I cannot."), [])[1]["content"] == "I cannot."


@pytest.mark.parametrize(
    ("message", "place"),
    [
        (5, "messages[1]"),
        ({"content": "x"}, "messages[1].role"),
        ({"role": ["user"], "content": "x"}, "messages[1].role"),
        ({"role": "user"}, "messages[1].content"),
        ({"role": "user", "content": {"text": "x"}}, "messages[1].content"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "messages[1].content[0].text"),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_audio"}]},
            "messages[1].content[1]",
        ),
        ({"role": "user", "content": [{"type": ["text"]}]}, "messages[1].content[0]"),
        ({"role": "assistant", "content": "x", "prefix": True}, "messages[1].prefix"),
        ({"role": "assistant", "audio": {"id": "a"}}, "messages[1].audio"),
        ({"role": "user", "content": "x", "tool_calls": [{"name": "w"}]}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": {"name": "w"}}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": ["w"]}, "messages[1].tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{"name": "w"}, {"function": {"name": ""}}]}, "messages[1].tool_calls[1]"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": 5}}]}, "messages[1].tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{"name": "w", "arguments": "{bad"}]}, "messages[1].tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{"name": "w", "arguments": [1]}]}, "messages[1].tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{"name": "w", "arguments": "NaN"}]}, "messages[1].tool_calls[0]"),
        (
            {"role": "assistant", "tool_calls": [{"name": "w", "arguments": '{"x": 1e999}'}]},
            "messages[1].tool_calls[0]",
        ),
        ({"role": "assistant", "tool_calls": [{"name": "w", "arguments": "[" * 5000}]}, "messages[1].tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{"name": "w", "arguments": "1" * 5000}]}, "messages[1].tool_calls[0]"),
        ({"role": "assistant", "function_call": {"arguments": "{}"}}, "messages[1].function_call"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_its_place(message: Any, place: str) -> None:
    with pytest.raises(ApiFailure) as caught:
        as_text([{"role": "user", "content": "?"}, message], [])
    assert caught.value.status == 400 and caught.value.param == place
    assert str(caught.value).startswith(f"{place}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (TOLD, None),
        (TOLD.replace("\n", ""), None),
        ('<tool_call>{"name": "w", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>', None),
        ('<tool_call>{"name": "w", "arguments": "\\"{\\\\\\"city\\\\\\": \\\\\\"Paris\\\\\\"}\\""}</tool_call>', None),
        ('<tool_call>{"name": "w", "parameters": {"city": "Paris"}}</tool_call>', None),
        ('<tool_call>\n{"type": "function", "function": {"name": "w", "arguments": {"city": "Paris"}}}', None),
        ('I look. <tool_call> {"arguments": {"city": "Paris"}, "name": "w"} and then', "I look.  and then"),
        ('\n{"name": "w", "arguments": {"city": "Paris"}}\n', None),  # the marks are special tokens
        ('{"name": "w", "parameters": {"city": "Paris"}}', None),
    ],
)
def test_calls_in_an_answer(text: str, left: str | None) -> None:
    content, [call] = calls_in(text, ["w"])
    assert content == left
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("w", CITY)


def test_several_calls_and_what_is_none() -> None:
    opened = '<tool_call>{"name": "w", "arguments": {"text": "a\nb </tool_call> {"}}'
    content, calls = calls_in(f"{opened}\n{TOLD}{opened}", ["w"])
    assert content is None and [json.loads(call["function"]["arguments"]) for call in calls] == [
        {"text": "a\nb </tool_call> {"},
        CITY,
        {"text": "a\nb </tool_call> {"},
    ]
    for text in (
        "<tool_call>look</tool_call>", '<tool_call>{"name": 5}</tool_call>', '{"name": "w"}', '{"city": "Paris"}',
        '<tool_call>{"name": "w", "arguments": "look"}</tool_call>', '<tool_call>{"name": "w", "arguments": {"city": ',
        '{"name": "w", "arguments": {}} is what I would write', "<tool_call>" * 50 + "{" * 5000, "<tool_call>",
        '<tool_call>{"name": "w", "arguments": {"x": 1e999}}</tool_call>',
        '{"name": "w", "arguments": "{\\"x\\": -1e999}"}',
        f"<think>maybe {TOLD}</think> no", f"maybe {TOLD}</think> no", f"<think>maybe {TOLD}",
        '<tool_call>{"name": "w", "arguments": {}} {"city": "Paris"}</tool_call>',
    ):  # fmt: skip
        assert calls_in(text, ["w"]) == (text, [])


def arguments(calls: list[dict[str, Any]]) -> list[Any]:
    return [json.loads(call["function"]["arguments"]) for call in calls]


@pytest.mark.parametrize("marks", [("<tool_call>", "</tool_call>"), ("<tool_call>\n", "\n</tool_call>\n"), ("", "\n")])
def test_several_calls_between_one_pair_of_marks(marks: tuple[str, str]) -> None:
    told = '{"name": "w", "arguments": {"n": 1}}\n{"name": "v", "arguments": {"n": 2}}'
    text = f"{marks[0]}{told}{marks[1]}"
    content, calls = calls_in(text, ["v", "w"])
    assert content is None and arguments(calls) == [{"n": 1}, {"n": 2}]
    assert calls_in(text, ["w"]) == (text, [])  # one of a tool that was not offered: all of it is text


@pytest.mark.parametrize("told", [TOLD, TOLD.removesuffix("</tool_call>"), json.dumps({"name": "w", "args": CITY})])
def test_calls_of_tools_that_were_not_offered_stay_text(told: str) -> None:
    assert calls_in(told, ["v"]) == (told, [])
    assert len(calls_in(told, ["v", "w"])[1]) == 1


def test_calls_after_a_thought() -> None:
    for thought in (f"<think>maybe {TOLD}</think>", f"maybe {TOLD}</think>", "<think>\n</think>"):
        assert calls_in(f"{thought}\n{TOLD}", ["w"])[0] == thought
        assert arguments(calls_in(f"{thought}\n{TOLD}", ["w"])[1]) == [CITY]
    told = TOLD.replace("Paris", "</think> <think>")
    assert arguments(calls_in(told, ["w"])[1]) == [{"city": "</think> <think>"}]


def test_half_a_surrogate_pair_among_arguments_stays_escaped() -> None:
    _, [call] = calls_in('{"name": "w", "arguments": {"city": "\\ud800"}}', ["w"])
    assert call["function"]["arguments"] == '{"city": "\\ud800"}'
    assert "\\ud800" in as_text(chat(content=None, tool_calls=[call]), [])[1]["content"]


FUNCTION = {"type": "function", "function": {"name": "w", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ([{"type": "web_search"}], None, "tools[0]"),
        ([FUNCTION, {"type": "custom", "custom": {"name": "x"}}], None, "tools[1]"),
        ([{"type": "function", "function": "w"}], None, "tools[0]"),
        ([{"type": "function", "function": {"name": "w", "parameters": 5}}], None, "tools[0].parameters"),
        *(
            ([{"name": "w", "parameters": {"type": kind}}], choice, "tools[0].parameters.type")
            for kind in ("array", "objet", None, ["string", "null"], {})
            for choice in (None, "required")
        ),
        ([FUNCTION], "any", "tool_choice"),
        ([FUNCTION], {"type": "function", "function": {"name": "x"}}, "tool_choice"),
        ([FUNCTION], {"type": "allowed_tools"}, "tool_choice"),
        ([], "required", "tool_choice"),
    ],
)
def test_tools_and_choices_that_are_refused(tools: list[Any], choice: Any, param: str) -> None:
    with pytest.raises(ApiFailure) as caught:
        read_tools(tools, choice, None)
    assert caught.value.status == 400 and caught.value.param == param
