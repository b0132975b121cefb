"""Tags that tell the turns of a chat in one string, as hosts write them themselves.

From a tokenizer's chat template where one is given, from a table of common formats else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from erecap.errors import MessagesError, ModelError
from erecap.generation import Message

_ROLES = (
    "system|user|assistant|model|tool|ipython|environment|observation|developer|function|bot|human|gpt|context|"
    "analysis|commentary|final|documents|available_tools|tools|tool_response|think"
)
# Marks that a tokenizer reads as one token each, by their shapes. Most formats are made of these and of roles.
_MARK = (
    r"<\|[^<>|\s]{1,40}\|>"  # ChatML, Llama 3 and 4, Phi, Zephyr, Granite, Command-R, OLMo, Kimi, gpt-oss
    r"|<｜[^<>｜]{1,40}｜>"  # DeepSeek, with full-width bars
    r"|<\|[A-Za-z_]{1,20}>|<[A-Za-z_]{1,20}\|>"  # one bar
    r"|\[\|[A-Za-z_]{1,20}\|\]"  # EXAONE
    r"|</?(?:start|end)_of_(?:turn|text|image|role)>"  # Gemma
    r"|</?(?:s|bos|eos|sop|eop|eoh|eoa|eod|seed:bos|seed:eos)>|\[gMASK\]"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>"  # Llama 2, Mistral
)
_FORMATS = (
    rf"(?:{_MARK}):?(?:[ \t]*(?:{_ROLES})(?=[ \t]*(?:\n|$|{_MARK})))?",
    # Formats without such marks: Alpaca, Vicuna, Claude's old one. Their words count at the beginning of a line.
    r"(?m:^#{2,3} ?(?:Instruction|Input|Response|Human|Assistant|User|System|Question|Answer|Task) ?:?[ \t]*$)",
    r"(?m:^#{2,3} ?(?:Human|Assistant|User|System) ?:)",
    r"(?:(?<=\s)|(?<=</s>)|^)(?:USER|ASSISTANT|SYSTEM) ?:",
    r"(?m:^(?:Human|Assistant|User|AI|Bot|System) ?:)",
)
_TABLE = re.compile("|".join(_FORMATS))
# A word that says whose turn it is. A mark such as `<|im_start|>` says so only together with one.
_TELLS = re.compile(
    rf"(?<![^\W_])(?:{_ROLES}|chatbot|ai|inst|instruction|input|response|question|answer|task)(?![^\W_])", re.I
)


def table() -> re.Pattern[str]:
    """The pattern of the common formats."""
    return _TABLE


def template_tags(tokenizer: Any) -> re.Pattern[str] | None:
    """The pattern of what a tokenizer's chat template writes around messages; None where it has no template.

    The template is rendered with marks for contents. What stands between them are its tags, and so are all tokens that
    the tokenizer does not split texts into, and the formats of the table.
    """
    from erecap.context.tokenize import render_text

    if not getattr(tokenizer, "chat_template", None):
        return None
    marks = [f"\ue0f2{number}\ue0f3" for number in range(3)]
    roles = ("user", "assistant", "user")
    chat: list[Message] = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]  # type: ignore[typeddict-item]
    try:
        text = render_text(chat, tokenizer)
    except (MessagesError, ModelError):
        return None
    pieces = re.split("|".join(marks), text)
    special = [token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values()]
    between = {piece.strip() for piece in pieces[1:]}
    opening = {piece for piece in between if any(letter.isalpha() for letter in piece)}
    told = [f"(?P<turn>{'|'.join(_written(opening))})"] if opening else []
    return re.compile("|".join([*told, *_written({*between, *special} - opening - {""}), *_FORMATS]))


def _written(literal: Iterable[str]) -> list[str]:
    """Expressions for tags, the longest first. A host may write other white space between the lines of one."""
    return [
        r"\s*".join(re.escape(line) for line in piece.split("\n") if line)
        for piece in sorted(literal, key=len, reverse=True)
    ]


def tag_spans(text: str, tags: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Spans of runs of tags in `text`; white space between two tags belongs to them."""
    start = end = -1
    for found in tags.finditer(text):
        if found.start() == found.end():
            continue
        if end >= 0 and not text[end : found.start()].strip():
            end = found.end()
            continue
        if end >= 0:
            yield start, end
        start, end = found.span()
    if end >= 0:
        yield start, end


def turn_spans(text: str, tags: re.Pattern[str]) -> list[tuple[int, int]]:
    """Spans of whole turns in `text`: behind tags that say whose turn it is, up to the next tags.

    What has tags on one side only is none: what stands on its other side may tell turns in a way that nobody knows. So
    may what follows tags without a role, such as `<|im_start|>Benutzer` or `<|startoftext|>Human: `.
    """
    runs = list(tag_spans(text, tags))
    return [(one[1], other[0]) for one, other in pairwise(runs) if _tells_a_turn(text[slice(*one)], tags)]


def _tells_a_turn(run: str, tags: re.Pattern[str]) -> bool:
    return _TELLS.search(run) is not None or any(found.lastgroup == "turn" for found in tags.finditer(run))
