"""Requests turned into what the model is asked, one function for each kind of request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from erecap.serving.answers import Answer, ChatAnswer
from erecap.serving.edit_fields import read_edits
from erecap.serving.engine import Ask
from erecap.serving.grammar import Grammars, no_minimum, wanted_pattern, wanted_schema
from erecap.serving.messages import refused, text_of
from erecap.serving.raw_text import as_lines
from erecap.serving.response_answers import ResponseAnswer
from erecap.serving.response_input import chat_of
from erecap.serving.schema import ChatRequest, ResponseRequest, Sampling, TextRequest
from erecap.serving.text_answers import TextAnswer
from erecap.serving.tools import Tools, as_text, read_tools


@dataclass
class Job:
    """A request on its way."""

    ask: Ask
    answer: Answer
    streamed: bool


def chat_job(asked: ChatRequest, grammars: Grammars) -> Job:
    """The next message of a chat.

    Raises:
        ApiFailure: what this server does not do, with its place.
    """
    tools = read_tools(asked.tools, asked.tool_choice, asked.parallel_tool_calls)
    schema = wanted_schema(asked.response_format, "response_format")
    tools = replace(tools, beside_schema=schema is not None and not tools.forced)
    options = _options(asked, schema, tools, grammars, "response_format")
    pattern = wanted_pattern(asked.structured_outputs, "structured_outputs")
    if pattern is not None:
        if "allowed_tokens" in options or tools.functions:
            raise refused("structured_outputs", "cannot be had together with response_format or tools, leave them out")
        if asked.min_tokens:
            raise no_minimum("structured_outputs")
        options["allowed_tokens"] = grammars.matching(pattern, "structured_outputs")
    if asked.prediction is not None:
        options["draft"] = text_of(asked.prediction.get("content"), "prediction.content")
    with_usage = asked.stream_options is not None and asked.stream_options.include_usage
    ask = _ask(asked.messages, tools, options)
    shift = len(ask.messages) - len(asked.messages)  # a system message for the tools
    edits = read_edits(asked.drop_message, asked.reposition, asked.drop_rule, asked.messages, shift)
    if edits is not None:
        ask.options["edits"] = edits
    return Job(ask, ChatAnswer(asked.model, tools, with_usage, edits is not None), bool(asked.stream))


def text_job(asked: TextRequest) -> Job:
    """The continuation of a text."""
    with_usage = asked.stream_options is not None and asked.stream_options.include_usage
    ask = Ask(as_lines(asked.text), asked.options(), raw=True)
    return Job(ask, TextAnswer(asked.model, with_usage), bool(asked.stream))


def response_job(asked: ResponseRequest, grammars: Grammars) -> Job:
    """A response to the items of an input.

    Raises:
        ApiFailure: what this server does not do, with its place.
    """
    tools = read_tools(asked.tools, asked.tool_choice, asked.parallel_tool_calls)
    known = {"format", "verbosity"}
    for key, value in (asked.text or {}).items():
        if value is not None and (key not in known or (key == "verbosity" and value != "medium")):
            raise refused(f"text.{key:.40}", "this server does not do that, leave it out")
    schema = wanted_schema((asked.text or {}).get("format"), "text.format")
    tools = replace(tools, beside_schema=schema is not None and not tools.forced)
    options = _options(asked, schema, tools, grammars, "text.format")
    ask = _ask(chat_of(asked.input, asked.instructions), tools, options)
    return Job(ask, ResponseAnswer(asked, tools), bool(asked.stream))


def _options(
    asked: Sampling, schema: dict[str, Any] | None, tools: Tools, grammars: Grammars, place: str
) -> dict[str, Any]:
    options = asked.options()
    where = "tools" if tools.forced or (schema is None and tools.strict) else place
    allowed = grammars.allowed(schema, tools, where)
    if allowed is not None:
        options["allowed_tokens"] = allowed
        if asked.min_tokens:
            raise no_minimum(where)
    return options


def _ask(messages: list[dict[str, Any]], tools: Tools, options: dict[str, Any]) -> Ask:
    return Ask(as_text(messages, tools.functions), options)
