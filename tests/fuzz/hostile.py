"""Requests that a server may meet: conversations as clients lead them, and bodies that nobody should send."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
WORDS = (
    "mug",
    "shelf 3",
    "go to fridge 1",
    "look",
    "\n",
    " ",
    "你好",
    "é\u0301",
    "🤖",
    "\u2028",
    "<tool_call>",
    "{",
    '"',
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    7,
    1 << 31,
    -(1 << 63),
    1 << 63,
    10**400,
    0.5,
    1e-300,
    1e-40,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
    "auto",
    "none",
    "required",
    "\ud83d",
    "\x00",
    "a" * 3000,
    [],
    {},
    [[]],
    [None],
    [1],
    ["x"],
    {"a": 1},
    {"type": "function"},
    {"type": "text"},
    {"\udc00": "\udc00"},
    [{"type": "text", "text": "x"}],
)
FIELDS = (
    "model",
    "messages",
    "prompt",
    "input",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "stop",
    "seed",
    "stream",
    "stream_options",
    "n",
    "best_of",
    "logprobs",
    "logit_bias",
    "tools",
    "tool_choice",
    "functions",
    "response_format",
    "guided_json",
    "repetition_penalty",
    "stop_token_ids",
    "continue_final_message",
    "min_tokens",
    "prediction",
    "user",
    "metadata",
    "store",
    "text",
    "instructions",
    "echo",
    "suffix",
    "parallel_tool_calls",
    "drop_message",
    "previous_response_id",
    "\ud800",
    "",
)
SCHEMAS: tuple[Any, ...] = (
    {"type": "object"},
    {"type": "string", "maxLength": 3},
    {"enum": ["a", 2]},
    {"type": "nope"},
    {"$ref": "#"},
    {"$ref": "#/x"},
    {"pattern": "("},
    {"not": {}},
    {"type": "string", "pattern": "(a{1,999}){1,999}"},
    True,
    [],
    "x",
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False},
    {"allOf": [{"type": "string"}, {"type": "integer"}]},
    {"type": "array", "minItems": 10**9},
    {"x-guidance": 3},
)
TOOL = {"type": "function", "function": {"name": "go", "parameters": {"type": "object"}}}


@dataclass
class Shot:
    """One request as it goes over the wire."""

    path: str
    body: bytes = b""
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    hang_up: int | None = None  # the client is gone after so many messages of the response
    talk: list[dict[str, Any]] | None = None  # the conversation that the answer belongs to


class Clients:
    """Draws requests; a share of them goes on with conversations that were answered before.

    Args:
        seed: of all draws.
        model: the name that the server offers.
    """

    def __init__(self, seed: int, model: str) -> None:
        self._draw, self._model = random.Random(seed), model
        self._talks: list[list[dict[str, Any]]] = []

    def shot(self) -> Shot:
        """The next request."""
        kinds: tuple[tuple[int, Callable[[], Shot]], ...] = (
            (5, self._chat),
            (2, self._text),
            (2, self._response),
            (5, self._broken),
            (2, self._bytes),
            (1, self._other),
        )
        [make] = self._draw.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])
        shot = make()
        if self._draw.random() < 0.05:
            shot.hang_up = self._draw.randrange(4)
        return shot

    def answered(self, talk: list[dict[str, Any]], answer: str) -> None:
        """Remember a conversation with its answer."""
        self._talks.append([*talk, {"role": "assistant", "content": answer}])
        del self._talks[:-12]

    def _words(self, most: int = 12) -> str:
        return " ".join(self._draw.choice(WORDS) for _ in range(self._draw.randint(1, most)))

    def _common(self) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._model}
        body |= {"temperature": self._draw.choice((0, 0, 0.7, 2)), "stream": self._draw.random() < 0.3}
        body |= {"stop": self._draw.choice((None, "\n", ["mug", ""])), "seed": self._draw.choice((None, 3))}
        return body

    def _messages(self) -> list[dict[str, Any]]:
        if not self._talks or self._draw.random() < 0.3:
            system = {"role": "system", "content": f"You plan. {self._draw.randrange(3)}"}
            return [system, {"role": "user", "content": self._words()}]
        talk = list(self._draw.choice(self._talks))
        change = self._draw.randrange(7)
        said = talk[-1]["content"]
        if change < 4:  # handed back in other words
            talk[-1] = {"role": "assistant", "content": (said.strip(), f"{said}.", said[1:], "Other.")[change]}
        elif change == 4 and len(talk) > 3:  # a window that slides
            talk = [talk[0], *talk[3:]]
        elif change == 5:  # the newest message told anew
            talk[-2] = {**talk[-2], "content": f"{talk[-2]['content']}!"}
        return [*talk, {"role": "user", "content": self._words()}]

    def _chat(self) -> Shot:
        talk, body = self._messages(), self._common()
        body |= {"messages": talk, "max_tokens": self._draw.randint(1, 6)}
        if self._draw.random() < 0.15:
            body |= {"tools": [TOOL], "tool_choice": self._draw.choice(("auto", "none", "required", TOOL))}
        elif self._draw.random() < 0.15:
            schema = {"name": "s", "schema": self._draw.choice(SCHEMAS)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return Shot(CHAT, _json(body), talk=talk)

    def _text(self) -> Shot:
        return Shot(TEXT, _json({**self._common(), "prompt": self._words(30), "max_tokens": self._draw.randint(1, 6)}))

    def _response(self) -> Shot:
        items = self._draw.choice((self._words(), self._messages()))
        return Shot(RESPONSES, _json({**self._common(), "input": items, "max_output_tokens": self._draw.randint(1, 6)}))

    def _broken(self) -> Shot:
        """A good request with something in it that should not be there."""
        shot = self._draw.choice((self._chat, self._chat, self._text, self._response))()
        body = json.loads(shot.body)
        for _ in range(self._draw.randint(1, 2)):
            where = self._draw.randrange(6)
            if where < 2:
                body[self._draw.choice(FIELDS)] = self._value()
            elif where == 2:
                body["response_format"] = {"type": "json_schema", "json_schema": {"schema": self._draw.choice(SCHEMAS)}}
            elif where == 3:
                body["tools"] = [
                    self._draw.choice((TOOL, self._value(), {"type": "function", "function": self._value()}))
                ]
            else:
                key = next(
                    (key for key in ("messages", "input") if isinstance(body.get(key), list) and body[key]), None
                )
                if key is not None:
                    self._spoil(body[key])
        return Shot(shot.path, _json(body))

    def _spoil(self, messages: list[Any]) -> None:
        at = self._draw.randrange(len(messages))
        message = messages[at] if isinstance(messages[at], dict) else {}
        keys = ("role", "content", "tool_calls", "function_call", "name", "refusal", "prefix", "type", "arguments")
        messages[at] = {**message, self._draw.choice(keys): self._value()}
        if self._draw.random() < 0.4:
            inner = {"name": self._value(), self._draw.choice(("arguments", "parameters")): self._value()}
            messages[at] = {"role": "assistant", "content": None, "tool_calls": [{"function": inner}, self._value()]}

    def _value(self) -> Any:
        if self._draw.random() < 0.1:
            deep: Any = {}
            for _ in range(self._draw.choice((50, 400))):
                deep = {"a": deep} if self._draw.random() < 0.5 else [deep]
            return deep
        return copy.deepcopy(self._draw.choice(VALUES))  # a copy, since what is drawn may be spoiled later

    def _bytes(self) -> Shot:
        """A body that is no request at all."""
        body = self._draw.choice(
            (
                b"",
                b"{",
                b"[]",
                b"null",
                b"\xff\xfe",
                b'"x"',
                b"[" * 100_000,
                b'{"a":' * 5000,
                b"1" * 6000,
                self._chat().body[:-9],
                b'{"model": "\xed\xa0\x80"}',
                self._draw.randbytes(60),
                b" " * 70_000,
            )
        )
        kind = self._draw.choice(("application/json", "text/plain", "", "multipart/form-data; boundary=x"))
        return Shot(self._draw.choice((CHAT, TEXT, RESPONSES)), body, headers={"content-type": kind})

    def _other(self) -> Shot:
        paths = ("/", "/health", "/metrics", "/v1/models", CHAT, "/v1/%2e%2e/x", "//", "/v1/chat/completions/")
        method = self._draw.choice(("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE"))
        return Shot(self._draw.choice(paths), self._draw.choice((b"", b"{}")), method)


def _json(body: Any) -> bytes:
    return json.dumps(body).encode("ascii")
