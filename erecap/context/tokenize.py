"""Chat messages to token ids, with the token span of every message's content.

Chat templates are programs: some strip white space, some merge the system message into the first user turn,
some move it, some add a message of their own. So nothing is inferred from the looks of the text. The template
is rendered a second time with a unique mark in place of each content; what stands around the marks is the
template's own text, and the real content must lie between those pieces.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from erecap.errors import MessagesError, ModelError
from erecap.generation import Message
from erecap.time_limit import time_limit

TEMPLATE_S = 20.0  # that rendering a chat may take; 25,000 messages take a tenth of it
# Private-use characters: no template tests for them, no tokenizer normalises them away.
_MARK = "\ue0f0{index}\ue0f1"
_MARKS = re.compile("\ue0f0([0-9]+)\ue0f1")


@dataclass(frozen=True)
class ChatText:
    """A rendered chat, not tokenised."""

    text: str  # what the chat template made of the messages
    spans: list[tuple[int, int]]  # per message: characters of `text` that hold its content
    skipped: list[int]  # per message: leading characters of its content that the template left out


@dataclass(frozen=True)
class Prompt:
    """A rendered and tokenised chat prompt. All spans are half open, `[start, end)`."""

    text: str  # what the chat template made of the messages
    input_ids: list[int]  # tokens of `text`, no special tokens added beyond those that the template wrote
    message_spans: list[tuple[int, int]]  # per message: characters of `text` that hold its content
    offsets: list[tuple[int, int]]  # per token: the characters of `text` it stands for
    skipped: list[int]  # per message: leading characters of its content that the template left out
    _starts: list[int] = field(repr=False, compare=False, default_factory=list)
    _ends: list[int] = field(repr=False, compare=False, default_factory=list)

    def __post_init__(self) -> None:
        # Running maxima make the two lists sorted, whatever a tokenizer reports for tokens of zero width.
        self._starts.extend(_running_max(start for start, _ in self.offsets))
        self._ends.extend(_running_max(end for _, end in self.offsets))

    def token_span(self, message: int, start_char: int, end_char: int) -> tuple[int, int]:
        """Tokens `[start, end)` that touch characters `[start_char, end_char)` of a message's content.

        A token that straddles the border is included, so that what must be kept is kept whole. Characters
        that the template left out have no tokens; a span of nothing gives an empty token span at the place.
        """
        low, high = self.message_spans[message]
        shift = low - self.skipped[message]
        start = min(max(start_char + shift, low), high)
        end = min(max(end_char + shift, low), high)
        first = bisect_right(self._ends, start)
        if end <= start:
            return first, first
        return first, max(first, bisect_left(self._starts, end))

    def token_spans(self, spans: Iterable[tuple[int, int, int]]) -> list[tuple[int, int]]:
        """Token spans of `(message, start_char, end_char)` spans: sorted, merged, empty ones left out."""
        merged: list[tuple[int, int]] = []
        for start, end in sorted(self.token_span(*span) for span in spans):
            if start == end:
                continue
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged


@dataclass(frozen=True)
class Continuation:
    """Tokens of the end of a text."""

    ids: list[int]
    offsets: list[tuple[int, int]]  # per token: its characters, counted from where the end begins
    exact: bool  # these are the tokens that the whole text has there; else the end was tokenised by itself


# Characters before the end that are looked at first; more where no special token is among them.
_CONTEXT = 256
_added: WeakKeyDictionary[Any, dict[int, str]] = WeakKeyDictionary()


def encode_from(tokenizer: Any, text: str, start: int) -> Continuation:
    """Tokens of `text[start:]` as they are among the tokens of the whole text, at the cost of that end.

    Tokenizers split a text at its special tokens before they do anything else, so what follows one of them has the same
    tokens whatever stands before. Where a token reaches across `start`, the end is tokenised by itself.
    """
    size = _CONTEXT
    while start:
        low = max(0, start - size)
        encoded = _encode(tokenizer, text[low:start])
        at = _last_added(tokenizer, text, low, *encoded)
        if at is None and low:
            size *= 4
            continue
        begin = low if at is None else low + encoded[1][at][0]
        before = encoded[0] if at is None else encoded[0][at:]
        ids, offsets = _encode(tokenizer, text[begin:])
        if ids[: len(before)] != before:
            break
        shift = start - begin
        return Continuation(
            ids[len(before) :], [(max(0, a - shift), max(0, b - shift)) for a, b in offsets[len(before) :]], True
        )
    return Continuation(*_encode(tokenizer, text[start:]), not start)


def _encode(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(encoded["input_ids"]), [(int(low), int(high)) for low, high in encoded["offset_mapping"]]


def _last_added(tokenizer: Any, text: str, low: int, ids: list[int], offsets: list[tuple[int, int]]) -> int | None:
    """The last of the tokens `ids` of `text[low:]` that the text was split at, if any."""
    known = _added.get(tokenizer)
    if known is None:
        # Those that are normalised are searched for after their surroundings were normalised as a whole.
        added = tokenizer.added_tokens_decoder.items()
        known = _added[tokenizer] = {number: token.content for number, token in added if not token.normalized}
    for n in range(len(ids) - 1, -1, -1):
        # The unknown token is one of them, but stands for other texts as well.
        if ids[n] in known and text[low + offsets[n][0] : low + offsets[n][1]].strip() == known[ids[n]].strip():
            return n
    return None


def render_prompt(messages: Sequence[Message], tokenizer: Any, add_generation_prompt: bool = True) -> Prompt:
    """Render `messages` with the tokenizer's chat template and tokenise the text with offsets.

    Args:
        messages: at least one; keys other than `role` and `content` are not shown to the template.
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        add_generation_prompt: end with the header of the assistant's turn.

    Raises:
        ModelError: no fast tokenizer, or no chat template.
        MessagesError: a template that refuses the messages, or that does not show a message's content in one piece.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"tokenizer {_name(tokenizer)} gives no character offsets; "
            "a fast tokenizer (one with a tokenizer.json) is needed"
        )
    chat = render_chat(messages, tokenizer, add_generation_prompt)
    encoded = tokenizer(chat.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = [(int(start), int(end)) for start, end in encoded["offset_mapping"]]
    return Prompt(chat.text, list(encoded["input_ids"]), chat.spans, offsets, chat.skipped)


def render_chat(messages: Sequence[Message], tokenizer: Any, add_generation_prompt: bool = True) -> ChatText:
    """The chat template's text, and the span of each message's content in it. Raises likewise."""
    text = render_text(messages, tokenizer, add_generation_prompt)
    spans, skipped = _locate(messages, tokenizer, add_generation_prompt, text)
    return ChatText(text, spans, skipped)


def render_text(messages: Sequence[Message], tokenizer: Any, add_generation_prompt: bool = True) -> str:
    """The chat template's text for `messages`. Raises as `render_prompt` does."""
    from jinja2 import TemplateError

    if not messages:
        raise MessagesError("no messages to render; at least one is needed")
    for index, message in enumerate(messages):
        try:
            message["content"].encode("utf-8")
        except UnicodeEncodeError as error:
            raise MessagesError(
                f"message {index} ({message['role']}) is not valid Unicode at character {error.start}; "
                "no tokenizer reads half of a surrogate pair"
            ) from error
    if getattr(tokenizer, "chat_template", None) is None:
        raise ModelError(f"tokenizer {_name(tokenizer)} has no chat template; use an instruct model")
    plain = [{"role": message["role"], "content": message["content"]} for message in messages]
    try:
        with time_limit(TEMPLATE_S):
            return tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=add_generation_prompt)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise MessagesError(f"the chat template of {_name(tokenizer)} refuses roles [{roles}]: {error}") from error
    except TimeoutError as error:
        raise ModelError(f"the chat template of {_name(tokenizer)} takes {error}; it may have no end") from error
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        # A template is a program of the model's authors, and these are its mistakes.
        words = f"{type(error).__name__}: {error}"
        raise MessagesError(f"the chat template of {_name(tokenizer)} fails: {' '.join(words.split())}") from error


def _locate(
    messages: Sequence[Message], tokenizer: Any, add_generation_prompt: bool, text: str
) -> tuple[list[tuple[int, int]], list[int]]:
    """Per message, the span of its content in `text` and how many of its leading characters were left out."""
    marks = [_MARK.format(index=index) for index in range(len(messages))]
    marked: list[Message] = [
        {"role": message["role"], "content": mark} for message, mark in zip(messages, marks, strict=True)
    ]
    skeleton = render_text(marked, tokenizer, add_generation_prompt)
    # Searched for once, not once for each of them: there may be tens of thousands of messages.
    found: dict[int, int] = {}
    for mark in _MARKS.finditer(skeleton):
        found.setdefault(int(mark[1]), mark.start())
    places = [found.get(index, -1) for index in range(len(messages))]
    if -1 in places:
        raise _lost(messages, places.index(-1), tokenizer)
    spans: list[tuple[int, int]] = [(0, 0)] * len(messages)
    skipped = [0] * len(messages)
    # Templates may move a message (some put the system text before the last user turn), so go by place.
    order = sorted(range(len(messages)), key=places.__getitem__)
    cursor = places[order[0]]
    if text[:cursor] != skeleton[:cursor]:
        raise _lost(messages, order[0], tokenizer)
    for rank, index in enumerate(order):
        after = places[index] + len(marks[index])
        last = rank + 1 == len(order)
        following = skeleton[after:] if last else skeleton[after : places[order[rank + 1]]]
        content = messages[index]["content"]
        shown = _shown(content, text, cursor, following, last)
        if shown is None:
            raise _lost(messages, index, tokenizer)
        spans[index] = (cursor, cursor + len(shown))
        skipped[index] = content.find(shown)
        cursor += len(shown) + len(following)
    return spans, skipped


def _shown(content: str, text: str, cursor: int, following: str, last: bool) -> str | None:
    """The part of `content` that stands at `cursor`, right before the template's own text `following`."""
    for candidate in (content, content.strip(), content.rstrip(), content.lstrip()):
        end = cursor + len(candidate)
        if not text.startswith(candidate, cursor) or not text.startswith(following, end):
            continue
        if not last or end + len(following) == len(text):
            return candidate
    # A template may also cut a part away, such as reasoning of an earlier turn: accept any one piece.
    end = len(text) - len(following) if last else text.find(following, cursor) if following else -1
    if end < cursor or not text.startswith(following, end) or text[cursor:end] not in content:
        return None
    return text[cursor:end]


def _lost(messages: Sequence[Message], index: int, tokenizer: Any) -> MessagesError:
    role = messages[index]["role"]
    return MessagesError(
        f"the chat template of {_name(tokenizer)} does not show the content of message {index} ({role}) "
        "in one piece, so its tokens cannot be told; another template is needed"
    )


def _name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__


def _running_max(values: Iterable[int]) -> Iterable[int]:
    highest = 0
    for value in values:
        highest = max(highest, value)
        yield highest
