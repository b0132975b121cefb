"""Answers in the form that was asked for: JSON schemas, forced calls, continuations of texts, responses."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from typing import Any

import openai
import pytest
import torch

from erecap.generation import Generation
from erecap.serving.answers import split
from erecap.serving.grammar import Grammars
from erecap.serving.raw_text import as_lines
from erecap.serving.tools import Tools, read_tools
from tests.context.small_tokenizers import byte_level, llama_like
from tests.serving.asking import answer
from tests.serving.conftest import Server
from tests.session.chats import model, start

GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0.0}
PLAN = {
    "type": "object",
    "properties": {"to": {"enum": ["shelf 1", "fridge 2"]}, "steps": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["to", "steps"],
    "additionalProperties": False,
}
CLOSED = {"additionalProperties": False}
GO = {"type": "function", "function": {"name": "go", "parameters": PLAN, "strict": True}}
LOOK = {"type": "function", "function": {"name": "look"}}


@pytest.fixture(scope="module")
def server():  # type: ignore[no-untyped-def]
    made = Server(window=1200)
    yield made
    made.stop()


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("stream", [False, True])
def test_answers_follow_a_schema(server: Server, temperature: float, stream: bool) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "plan", "schema": PLAN, "strict": True}}
    options: dict[str, Any] = {"response_format": schema, "max_tokens": 60, "model": "tiny", "temperature": temperature}
    made = server.client().chat.completions.create(messages=start(), seed=5, stream=stream, **options)
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in made if chunk.choices)
    else:
        text = made.choices[0].message.content
        assert made.choices[0].finish_reason == "stop"
    plan = json.loads(text)
    assert plan["to"] in ("shelf 1", "fridge 2") and 1 <= plan["steps"] <= 9 and len(plan) == 2


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_answers_match_a_pattern(server: Server, temperature: float) -> None:
    pattern = r"(go to (shelf 1|box \(red\))|wait)(\n(open|close) it){0,2}"
    asked: dict[str, Any] = {"model": "tiny", "temperature": temperature, "seed": 3, "max_tokens": 60}
    made = server.client().chat.completions.create(
        messages=start(), extra_body={"structured_outputs": {"regex": pattern, "json": None}}, **asked
    )
    assert re.fullmatch(pattern, made.choices[0].message.content) and made.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"structured_outputs": {"regex": "a("}}, "structured_outputs: the schema cannot be followed"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs: got"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs: got"),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}, "cannot be had together"),
        ({"structured_outputs": {"regex": "a"}, "tools": [LOOK]}, "cannot be had together"),
        ({"structured_outputs": {"regex": "a"}, "min_tokens": 3}, "min_tokens: cannot be kept together"),
    ],
)
def test_patterns_that_are_refused(server: Server, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.client().chat.completions.create(messages=start(), max_tokens=9, extra_body=fields, **GREEDY)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
        {"anyOf": [{"const": "a"}, {"type": "null"}]},
        {"type": "string", "pattern": "^[a-c]{2}$"},
        {"$ref": "#/$defs/x", "$defs": {"x": {"type": "integer", "minimum": 3, "maximum": 4}}},
    ],
)
def test_schemas_of_other_kinds(server: Server, schema: dict[str, Any]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    made = server.client().chat.completions.create(messages=start(), response_format=wanted, max_tokens=60, **GREEDY)
    read = json.loads(made.choices[0].message.content)
    assert (
        (isinstance(read, list) and 2 <= len(read) <= 3)
        or read in ("a", None, 3, 4)
        or re.fullmatch("[a-c]{2}", str(read))
    )


def test_an_object_of_any_kind(server: Server) -> None:
    made = server.client().chat.completions.create(
        messages=start(), response_format={"type": "json_object"}, max_tokens=500, **GREEDY
    )
    assert made.choices[0].message.content.startswith("{")
    assert made.choices[0].finish_reason == "length" or isinstance(json.loads(made.choices[0].message.content), dict)


@pytest.mark.parametrize(
    ("format", "words"),
    [
        ({"type": "json_schema"}, "response_format: got"),
        ({"type": "json_schema", "json_schema": {"schema": "x"}}, "response_format: got"),
        ({"type": "grammar"}, "response_format: got"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "nope"}}}, "response_format: the schema cannot be"),
        ({"type": "json_schema", "json_schema": {"schema": {"$ref": "#/x"}}}, "response_format: the schema cannot be"),
        ({"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}, "response_format: the schema cannot be"),
        ({"type": "json_schema", "json_schema": {"schema": {"pattern": "("}}}, "response_format: the schema cannot be"),
        ({"type": "json_schema", "json_schema": {"schema": {"not": {}}}}, "response_format: the schema cannot be"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_schemas_that_cannot_be_followed(server: Server, format: dict[str, Any], words: str, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match=re.escape(words)):
        server.client().chat.completions.create(messages=start(), response_format=format, stream=stream, **GREEDY)
    assert server.engine.store.busy == 0


@pytest.mark.parametrize(
    ("tools", "choice", "names"),
    [
        ([GO], "required", {"go"}),
        ([LOOK, GO], {"type": "function", "function": {"name": "go"}}, {"go"}),
        ([GO, {"type": "function", "function": {"name": "walk", "parameters": PLAN}}], "required", {"go", "walk"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_calls_that_are_demanded(server: Server, tools: list, choice: Any, names: set[str], stream: bool) -> None:
    options: dict[str, Any] = {"tools": tools, "tool_choice": choice, "max_tokens": 120, "temperature": 1.0, "seed": 3}
    made = server.client().chat.completions.create(model="tiny", messages=start(), stream=stream, **options)
    if stream:
        chunks = [chunk.choices[0] for chunk in made if chunk.choices]
        [call] = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
        reason = chunks[-1].finish_reason
    else:
        [call] = made.choices[0].message.tool_calls
        reason = made.choices[0].finish_reason
        assert made.choices[0].message.content is None
    assert reason == "tool_calls" and call.function.name in names
    arguments = json.loads(call.function.arguments)
    assert arguments["to"] in ("shelf 1", "fridge 2") and 1 <= arguments["steps"] <= 9


def test_a_schema_beside_tools_lets_the_model_choose(server: Server) -> None:
    grammars, tools = Grammars(model(), byte_level()), read_tools([GO], "auto", None)
    allowed = grammars.allowed({"type": "object", "required": ["a"]}, tools, "response_format")
    assert allowed is not None
    begins = {byte_level().decode([token]) for token in allowed([])}
    assert "<" in begins and "{" in begins and "g" not in begins
    assert grammars.allowed(None, Tools(tools.functions), "tools") is None


PERSON = {
    "type": "object",
    "properties": {
        "name": {"const": "go"},
        "arguments": {"type": "object", "properties": {"to": {"const": 5}}, "required": ["to"], **CLOSED},
    },
    "required": ["name", "arguments"],
    "additionalProperties": False,
}
TOLD = '{"name": "go", "arguments": {"to": 5}}'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["Bob", "look"])
def test_an_answer_in_a_schema_that_looks_like_a_call_is_text(server: Server, name: str, stream: bool) -> None:
    """Without a mark before it the grammar chose the text, whoever is named in it."""
    properties = {**PERSON["properties"], "name": {"const": name}}  # type: ignore[dict-item]
    schema = {"type": "json_schema", "json_schema": {"schema": {**PERSON, "properties": properties}}}
    body = {"messages": start(), "tools": [LOOK], "response_format": schema, "max_tokens": 80, "stream": stream}
    made = server.client().chat.completions.create(**body, **GREEDY)
    if stream:
        choices = [chunk.choices[0] for chunk in made]
        text, reason = "".join(choice.delta.content or "" for choice in choices), choices[-1].finish_reason
    else:
        text, reason = made.choices[0].message.content, made.choices[0].finish_reason
    assert reason == "stop" and json.loads(text)["name"] == name


def test_only_what_the_grammar_marked_is_a_call_beside_a_schema() -> None:
    tools = read_tools([GO], None, None)
    beside, tools = replace(tools, beside_schema=True), replace(tools, strict=())
    assert split(Generation(TOLD), beside) == (TOLD, []) and len(split(Generation(TOLD), tools)[1]) == 1
    marked = f"<tool_call>\n{TOLD}\n</tool_call>"
    for text in (marked, f"\n{TOLD}\n"):  # the second: the marks are special tokens, which are no text
        assert split(Generation(text), beside)[0] is None and len(split(Generation(text), beside)[1]) == 1
    inside = json.dumps({"say": marked})
    assert split(Generation(inside), beside) == (inside, [])


def follows(allowed: Any, text: str, tokenizer: Any = None) -> bool:
    """True if the grammar lets an answer be `text`, and end there."""
    tokenizer, done = tokenizer or byte_level(), []
    for token in [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]:
        if token not in allowed(done):
            return False
        done.append(token)
    return True


RIGHT = '{"name": "go", "arguments": {"to": "shelf 1", "steps": 3}}'
WRONG = '{"name": "go", "arguments": {"to": "moon"}}'
OTHER = '{"name": "look", "arguments": {"at": [1, {"b": null}]}}'


def marked(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("I see <b>nothing</b> to do.\n", True),
        ("", True),
        (marked(RIGHT), True),
        ("Let me think: é, 房, {}.\n" + marked(RIGHT), True),
        (marked(OTHER), True),  # it is not strict
        (marked(RIGHT, OTHER, RIGHT), True),
        (marked(WRONG), False),
        ("So: " + marked(WRONG), False),
        ("<tool_call", True),
        ("a <tool_calls> b", True),
        (marked(RIGHT, WRONG), False),
        (marked(RIGHT) + " done", False),
        ("<tool_call>" + RIGHT, False),
        (marked('{"name": "run", "arguments": {}}'), False),
    ],
)
def test_a_strict_tool_that_the_model_chooses_is_called_by_its_schema(text: str, right: bool) -> None:
    tools = read_tools([GO, LOOK], "auto", None)
    allowed = Grammars(model(), byte_level()).allowed(None, tools, "tools")
    assert allowed is not None and follows(allowed, text) is right
    if right and "tool_call" in text:
        assert len(split(Generation(text), tools)[1]) == text.count("<tool_call>")
    alone = Grammars(model(), byte_level()).allowed(None, replace(tools, parallel=False), "tools")
    assert follows(alone, text) is (right and text.count("<tool_call>") < 2)
    for count, special in ((1, False), (2, False), (2, True)):  # marks that are tokens
        tokenizer = copy.deepcopy(byte_level())
        tokenizer.add_tokens(["<tool_call>", "</tool_call>"][:count], special_tokens=special)
        made = copy.copy(model())
        made.config = copy.deepcopy(model().config)
        made.config.vocab_size = len(tokenizer)
        assert follows(Grammars(made, tokenizer).allowed(None, tools, "tools"), text, tokenizer) is right


@pytest.mark.parametrize("flat", [False, True])
def test_strict_is_told_in_both_apis_and_checked(server: Server, flat: bool) -> None:
    function = {"name": "go", "parameters": PLAN}
    for value, strict in ((True, ("go",)), (False, ()), (None, ())):
        tool = {"type": "function", **function, "strict": value}
        if not flat:
            tool = {"type": "function", "function": {**function, "strict": value}}
        assert read_tools([tool], None, None).strict == strict
        assert read_tools([tool], "none", None).strict == read_tools([tool], "required", None).strict == ()
    assert split(Generation(WRONG), read_tools([GO], None, None)) == (WRONG, [])
    asked = {"messages": start(), "tools": [{"type": "function", "function": {**function, "strict": "yes"}}]}
    with pytest.raises(openai.BadRequestError, match=r"tools\[0\].strict: got 'yes'"):
        server.client().chat.completions.create(**asked, **GREEDY)


def test_a_strict_tool_over_the_socket(server: Server) -> None:
    made = server.client().chat.completions.create(messages=start(), tools=[GO], max_tokens=30, seed=2, **GREEDY)
    plain = server.client().chat.completions.create(messages=start(), tools=[LOOK], max_tokens=30, seed=2, **GREEDY)
    assert made.choices[0].finish_reason in ("stop", "length") and plain.choices[0].finish_reason in ("stop", "length")
    unmet = {
        "type": "function",
        "function": {"name": "go", "parameters": {"type": "object", "not": {}}, "strict": True},
    }
    with pytest.raises(openai.BadRequestError, match="tools: the schema cannot be followed"):
        server.client().chat.completions.create(messages=start(), tools=[unmet], **GREEDY)
    unmet["function"]["parameters"] = {"type": "object", "properties": {"to": {"type": "string", "pattern": "(?=a)b"}}}
    with pytest.raises(openai.BadRequestError, match=r"regex parse error: \(\?=a\)b .* look-around"):
        server.client().chat.completions.create(messages=start(), tools=[unmet], **GREEDY)
    assert server.engine.store.busy == 0


ROOM = {"type": "object", "properties": {"room": {"enum": ["hall", "attic"]}}, "required": ["room"], **CLOSED}
NESTED = {
    "type": "object",
    "properties": {"to": {"$ref": "#/$defs/Room"}, "via": {"type": "array", "items": {"$ref": "#/$defs/Room"}}},
    "required": ["to", "via"],
    "$defs": {"Room": ROOM},
    **CLOSED,
}
# As pydantic writes a model that holds itself.
LINKED = {
    "$ref": "#/$defs/Link",
    "$defs": {
        "Link": {
            "type": "object",
            "properties": {"room": {"const": 5}, "next": {"anyOf": [{"$ref": "#/$defs/Link"}, {"type": "null"}]}},
            "required": ["room", "next"],
            **CLOSED,
        }
    },
}
WHOLE = {
    "$id": "https://example.test/whole#",
    "properties": {"$ref": {"const": "#/x"}, "below": {"$ref": "#"}, "also": {"$ref": "https://example.test/whole#/x"}},
    "required": ["$ref"],
    "x": {"const": 7},
    **CLOSED,
}


def function(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.mark.parametrize("others", [[], [LOOK]])
@pytest.mark.parametrize(
    ("parameters", "arguments"),
    [
        (NESTED, {"to": {"room": "attic"}, "via": [{"room": "hall"}, {"room": "hall"}]}),
        (LINKED, {"room": 5, "next": {"room": 5, "next": {"room": 5, "next": None}}}),
        (WHOLE, {"$ref": "#/x", "below": {"$ref": "#/x", "also": 7}}),
    ],
)
def test_parameters_that_point_at_parts_of_themselves(
    parameters: dict[str, Any], arguments: dict[str, Any], others: list[dict[str, Any]]
) -> None:
    tokenizer = byte_level()
    for choice, schema in (("required", None), ("auto", {"type": "object"})):
        tools = read_tools([*others, function("move", parameters)], choice, None)
        allowed = Grammars(model(), tokenizer).allowed(schema, tools, "tools")
        assert allowed is not None
        told = "<tool_call>\n" + json.dumps({"name": "move", "arguments": arguments}) + "\n</tool_call>"
        for text, right in ((told, True), (told.replace("attic", "lake").replace("5", "6").replace("7", "8"), False)):
            done: list[int] = []
            for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
                if token not in allowed(done):
                    break
                done.append(token)
            assert (tokenizer.decode(done) == text) is right, tokenizer.decode(done)


def test_nested_models_are_called_over_the_wire(server: Server) -> None:
    made = server.client().chat.completions.create(
        messages=start(), tools=[function("move", LINKED)], tool_choice="required", max_tokens=400, **GREEDY
    )
    assert made.choices[0].finish_reason in ("tool_calls", "length")
    beside = {"tools": [function("move", NESTED)], "response_format": {"type": "json_object"}, "max_tokens": 20}
    assert server.client().chat.completions.create(messages=start(), **beside, **GREEDY).choices


def test_marks_that_are_tokens_of_their_own() -> None:
    tokenizer = llama_like()
    tokenizer.add_tokens(["<tool_call>", "</tool_call>"], special_tokens=True)
    made = model()
    made.config.vocab_size, before = max(len(tokenizer), made.config.vocab_size), made.config.vocab_size
    try:
        allowed = Grammars(made, tokenizer).allowed(None, read_tools([GO], "required", None), "tools")
        assert allowed is not None and allowed([]) == [tokenizer.convert_tokens_to_ids("<tool_call>")]
    finally:
        made.config.vocab_size = before


def test_min_tokens_beside_a_grammar_are_refused(server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="min_tokens: cannot be kept together with response_format"):
        server.client().chat.completions.create(
            messages=start(), response_format={"type": "json_object"}, extra_body={"min_tokens": 5}, **GREEDY
        )


def test_only_the_first_of_several_calls_where_they_may_not_be_parallel() -> None:
    text = '<tool_call>{"name": "go"}</tool_call><tool_call>{"name": "look"}</tool_call>'
    for parallel, count in ((None, 2), (True, 2), (False, 1)):
        assert len(split(Generation(text), read_tools([GO, LOOK], None, parallel))[1]) == count


# Continuations ------------------------------------------------------------------------------------------------

TEXT = "You plan for a robot.\nGoal: cool the apple 1.\nYou see a fridge 1 and a shelf 2.\n> go to"


def bare(text: str, tokens: int) -> str:
    """The text that the model itself writes behind another."""
    ids = byte_level()(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model(window=1200).generate(ids, max_new_tokens=tokens, do_sample=False)
    return byte_level().decode(out[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("text", [TEXT, "x", "line\n\n\n", "\n", " go\u2028to\r\nfridge \U0001f916"])
def test_texts_are_continued_as_the_bare_model_does(server: Server, text: str) -> None:
    client = server.client()
    made = client.completions.create(prompt=text, max_tokens=10, **GREEDY)
    assert made.choices[0].text == bare(text, 10) and made.object == "text_completion"
    assert made.usage.prompt_tokens == len(byte_level()(text, add_special_tokens=False)["input_ids"])
    assert client.completions.create(prompt=[text], **GREEDY).usage.completion_tokens <= 16
    chunks = list(client.completions.create(prompt=text, max_tokens=10, stream=True, **GREEDY))
    assert "".join(chunk.choices[0].text for chunk in chunks) == made.choices[0].text
    assert chunks[-1].choices[0].finish_reason == made.choices[0].finish_reason


def test_a_text_that_grows_is_read_once(engines) -> None:  # type: ignore[no-untyped-def]
    on, text, known = engines(window=600), TEXT, 0
    for number in range(5):
        made = answer(on, as_lines(text), raw=True, stop=["\n"])
        assert made.usage.reused_tokens >= known and len(on.store) == 1
        known = made.usage.prompt_tokens - 3
        text += f"{made.text}\nYou see a mug {number}.\n> take"
    assert known > 60
    answer(on, [{"role": "user", "content": TEXT}])
    assert len(on.store) == 2  # a chat shares nothing with a text


def test_a_text_of_one_growing_line_is_read_once(engines) -> None:  # type: ignore[no-untyped-def]
    on, fresh, text, known = engines(window=1200), engines(window=1200), TEXT.replace("\n", " | "), 0
    for number in range(6):
        made = answer(on, as_lines(text), raw=True)
        assert made.text == answer(fresh, as_lines(text), raw=True).text
        fresh.store.clear()
        assert made.usage.reused_tokens >= known and len(on.store) == 1
        known = made.usage.prompt_tokens - 3
        text += f"{made.text} | You see a mug {number} and a drawer. | > take"
    assert known > 100
    assert answer(on, as_lines(text[:70] + "other"), raw=True).usage.reused_tokens > 0  # another way from there
    assert "".join(message["content"] for message in as_lines(f"{text}\n\n{text}\n")) == f"{text}\n\n{text}\n"


@pytest.mark.parametrize("prompt", ["", [], ["a", "b"], [[1, 2]], 5])
def test_prompts_that_are_refused(server: Server, prompt: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="prompt"):
        server.client().completions.create(prompt=prompt, **GREEDY)


# Responses ----------------------------------------------------------------------------------------------------


def test_a_response_is_the_chat_completion(server: Server) -> None:
    client = server.client()
    chat = client.chat.completions.create(messages=start(), max_tokens=12, **GREEDY)
    items = [{"role": "user", "content": [{"type": "input_text", "text": start()[1]["content"]}]}]
    whole = client.responses.create(
        input=items, instructions=start()[0]["content"], max_output_tokens=12, store=False, **GREEDY
    )
    assert whole.output_text == chat.choices[0].message.content
    assert whole.status == ("incomplete" if chat.choices[0].finish_reason == "length" else "completed")
    assert whole.usage.input_tokens == chat.usage.prompt_tokens
    stream = client.responses.create(
        input=[*items], instructions=start()[0]["content"], max_output_tokens=12, stream=True, **GREEDY
    )
    events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text and len(deltas) > 1
    assert events[0].type == "response.created" and events[-1].response.output_text == whole.output_text


def test_responses_with_calls_and_their_results(server: Server) -> None:
    client = server.client()
    tool = {"type": "function", **GO["function"]}  # type: ignore[dict-item]
    first = client.responses.create(input="Go.", tools=[tool], tool_choice="required", **GREEDY)
    [call] = first.output
    assert call.type == "function_call" and json.loads(call.arguments)["to"] in ("shelf 1", "fridge 2")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "you are there"}
    second = client.responses.create(input=[{"role": "user", "content": "Go."}, call, result], **GREEDY)
    assert second.usage.input_tokens > 100 and second.output[0].type == "message"
    events = list(client.responses.create(input="Go.", tools=[tool], tool_choice="required", stream=True, **GREEDY))
    [done] = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert json.loads(done.arguments)["to"] in ("shelf 1", "fridge 2")


def test_a_response_in_a_schema(server: Server) -> None:
    text = {"format": {"type": "json_schema", "name": "plan", "schema": PLAN, "strict": True}}
    assert json.loads(server.client().responses.create(input="Go.", text=text, **GREEDY).output_text)["steps"] >= 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id: got"),
        ({"background": True}, "background: got"),
        ({"store": True}, "store: got"),
        ({"input": []}, "input: got no items"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type: got 'item_reference'"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]: a part of type"),
        (
            {"input": [{"type": "function_call_output", "output": [{"type": "input_file"}]}]},
            "input[0].output[0]: a part",
        ),
        ({"text": {"format": {"type": "grammar"}}}, "text.format: got"),
        ({"text": {"verbosity": "high"}}, "text.verbosity: this server does not do that"),
        ({"reasoning": {"effort": "high"}}, "reasoning: got"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]: got"),
        ({"input": [{"role": "user", "content": "x", "audio": {"id": "a"}}]}, "input[0].audio: this server does not"),
        ({"input": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "input[0].tool_calls: this server"),
        ({"input": [{"type": "message", "content": "x"}]}, "input[0].role: got None"),
        ({"input": [{"type": "function_call", "name": "f", "namespace": "n"}]}, "input[0].namespace: this server"),
        ({"input": [{"type": "function_call_output", "output": "x", "is_error": True}]}, "input[0].is_error: this"),
    ],
)
def test_responses_that_are_refused(server: Server, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=re.escape(words)):
        server.client().responses.create(**{"input": "Go.", **GREEDY, **changes})
