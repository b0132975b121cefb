"""Answers that must follow a JSON schema: grammars of `llguidance` on the token masks of the decode loop."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from erecap.decoding.answer import answer_ends
from erecap.serving.failures import ApiFailure
from erecap.serving.messages import refused
from erecap.serving.tool_calls import CLOSE, OPEN
from erecap.serving.tools import Tools

_TEXT = r"TEXT: /(?s:.*)/ & ~/(?s:.*)<tool_call>(?s:.*)/"  # any without the mark of a call in it
# As `json.dumps` writes it. Free white space would let an answer go on with nothing else.
_LOOKS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammars:
    """Grammars over one model's vocabulary; the vocabulary is looked at when the first is asked for.

    Args:
        model, tokenizer: as for `ReplanSession`.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._lock = threading.Lock()
        self._vocabulary: Any = None

    def allowed(self, schema: dict[str, Any] | None, tools: Tools, place: str) -> Allowed | None:
        """The tokens that an answer may have; None where any may.

        Args:
            schema: JSON schema of the answer's text; None: any text.
            tools: one of the forced ones must be called. With a schema the answer may be a call or such a text. Without
                one, strict ones may be called behind any text, with arguments that follow their schema.
            place: the field of the request that has the schema, for failures.

        Raises:
            ApiFailure: a schema that cannot be followed, or no `llguidance` installed.
        """
        if schema is None and not tools.forced:
            return self._strict(tools) if tools.strict else None
        called = tools if tools.forced else Tools(tools.functions, tools.names)
        text = json.dumps({**(schema or {}), "x-guidance": _LOOKS})
        call = json.dumps({**called.schema(), "x-guidance": _LOOKS})
        rules = []
        if called.functions:
            rules.append(f'call: {self._mark(OPEN)} "\\n" called "\\n" {self._mark(CLOSE)}\ncalled: %json {call}')
        if schema is not None and not tools.forced:
            rules.append(f"text: %json {text}")
        names = " | ".join(rule.split(":", 1)[0] for rule in rules)
        return self._made("\n".join([f"start: {names}", *rules]), place)

    def matching(self, pattern: str, place: str) -> Allowed:
        """The tokens of an answer that matches a regular expression as a whole.

        Raises:
            ApiFailure: an expression that cannot be followed, or no `llguidance` installed.
        """
        return self._made(pattern, place, "regex")

    def _strict(self, tools: Tools) -> Allowed:
        call = json.dumps({**tools.any_call().schema(), "x-guidance": _LOOKS})
        opened = self._mark(OPEN)
        more = f' ("\\n" {opened} call)*' if tools.parallel else ""
        # A mark in characters ends the text in the middle of what is read, which only a lazy rule does.
        begins = "before call" if opened.startswith('"') else f"TEXT {opened} call"
        rules = [
            f"start: TEXT | {begins}{more}",
            f'call: "\\n" called "\\n" {self._mark(CLOSE)}',
            f"called: %json {call}",
            "before[lazy]: /(?s:.*)<tool_call>/",
            _TEXT,
        ]
        return self._made("\n".join(rules), "tools")

    def _made(self, grammar: str, place: str, kind: str = "lark") -> Allowed:
        try:
            from llguidance import LLMatcher
        except ImportError as error:
            raise refused(place, "needs llguidance on the server; pip install 'erecap[serve]'") from error
        read = LLMatcher.grammar_from_regex if kind == "regex" else LLMatcher.grammar_from_lark
        matcher = LLMatcher(self._read_vocabulary(), read(grammar))
        if matcher.is_error():
            raise unfollowed(place, matcher)
        allowed = Allowed(matcher, place)
        allowed(())  # some schemas are found out to have no answer only here
        return allowed

    def _mark(self, text: str) -> str:
        """A mark in the grammar: the token that the vocabulary has for it, or its characters."""
        number = self._tokenizer.get_added_vocab().get(text)
        return json.dumps(text) if number is None else f"<[{number}]>"

    def _read_vocabulary(self) -> Any:
        with self._lock:
            if self._vocabulary is None:
                ends = answer_ends(self._model, self._tokenizer)
                self._vocabulary = self._look(ends)
            return self._vocabulary

    def _look(self, ends: list[int]) -> Any:
        gguf = hasattr(self._model, "vocab")  # a model of llama.cpp, with its own tokenizer or one of transformers
        if gguf and not hasattr(self._tokenizer, "backend_tokenizer"):
            from llguidance.llamacpp import lltokenizer_from_vocab

            return lltokenizer_from_vocab(self._model.vocab, self._model.vocabulary, ends)
        from llguidance.hf import from_tokenizer

        size = self._model.vocabulary if gguf else self._model.config.get_text_config(decoder=True).vocab_size
        return from_tokenizer(self._tokenizer, n_vocab=size, eos_token=ends)


class Allowed:
    """Ids generated so far -> ids allowed next, as the decode loop asks for them (`AllowedTokens`).

    Args:
        matcher: an `LLMatcher` at the beginning of an answer.
        place: the field of the request that has the schema, for failures.
    """

    def __init__(self, matcher: Any, place: str) -> None:
        self._matcher, self._place = matcher, place
        self._read: list[int] = []
        self._next: list[int] | None = None

    def __call__(self, generated: Sequence[int]) -> list[int]:
        """The ids that may come next, in rising order.

        Raises:
            ApiFailure: nothing can come next, or `llguidance` would have to do too much work to find it.
        """
        done = len(self._read)
        if list(generated[:done]) != self._read:
            self._matcher.reset()
            self._read, self._next, done = [], None, 0
        if done < len(generated) or self._next is None:
            new = list(generated[done:])
            if new:
                self._matcher.consume_tokens(new)
                self._read += new
            bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
            if self._matcher.is_error():
                raise unfollowed(self._place, self._matcher)
            self._next = bits.nonzero()[0].tolist()
        return self._next


def wanted_schema(format: Any, place: str) -> dict[str, Any] | None:
    """The JSON schema that a `response_format` asks for; None: any text.

    Raises:
        ApiFailure: another format.
    """
    kind = format.get("type") if isinstance(format, dict) else None
    if format is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    inner = format.get("json_schema", format) if kind == "json_schema" else None
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(schema, dict):
        raise refused(place, f"got {format!r:.80}; allowed: text, json_object, or json_schema with a schema")
    return schema


def unfollowed(place: str, matcher: Any) -> ApiFailure:
    """A grammar that its matcher has given up."""
    return refused(place, f"the schema cannot be followed: {' '.join(matcher.get_error().split()):.300}")


def wanted_pattern(outputs: Any, place: str) -> str | None:
    """The regular expression that `structured_outputs` asks for; None: any text.

    Raises:
        ApiFailure: another kind of structure, which vLLM has beside this one.
    """
    stated = {key: value for key, value in (outputs or {}).items() if value is not None}
    if not stated:
        return None
    pattern = stated.get("regex")
    if not isinstance(pattern, str) or not pattern or len(stated) > 1:
        raise refused(place, f"got {outputs!r:.80}; allowed: a text of its own under regex")
    return pattern


def no_minimum(place: str) -> ApiFailure:
    """An answer that has to follow a grammar cannot be made longer."""
    return refused("min_tokens", f"cannot be kept together with {place}, leave it out")
