"""Thinking in a model's answers: the text between `<think>` and `</think>`.

Some chat templates write the first mark themselves, behind the header of an answer. Such an answer has only the second.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from erecap.generation import Message

OPEN, CLOSE = "<think>", "</think>"
_MARK = re.compile("|".join(map(re.escape, (OPEN, CLOSE))))


class Thought(NamedTuple):
    """Characters of one thought in a content; those between its marks are `[begin, stop)`."""

    start: int  # of its first mark, which may be left out
    begin: int
    stop: int
    end: int  # behind its second mark


def thoughts_in(content: str) -> list[Thought]:
    """The thoughts of a content whose marks come in pairs, in order.

    Raises:
        ValueError: a thought that has no end, or one inside another; in words.
    """
    found: list[Thought] = []
    opened: re.Match[str] | None = None
    for mark in _MARK.finditer(content):
        if mark[0] == OPEN:
            if opened is not None:
                raise ValueError(f"a second {OPEN} at character {mark.start()}, before the first one has its {CLOSE}")
            opened = mark
        elif opened is not None:
            found.append(Thought(opened.start(), opened.end(), mark.start(), mark.end()))
            opened = None
        elif found:
            raise ValueError(f"a {CLOSE} at character {mark.start()} without {OPEN}")
        else:
            found.append(Thought(0, 0, mark.start(), mark.end()))
    if opened is not None:
        raise ValueError(f"a {OPEN} at character {opened.start()} without {CLOSE}")
    return found


def thinking_spans(message: Message) -> list[tuple[int, int]]:
    """Characters `(start, end)` of the thoughts of an assistant's message, marks included, or as its `thoughts` say.

    No spans where the marks do not come in pairs: what an unfinished thought is can only be guessed.
    """
    if "thoughts" in message:
        return [(start, end) for start, end in message["thoughts"] if start < end]
    content = message["content"]
    if message["role"] != "assistant" or not content or CLOSE not in content:
        return []
    try:
        return [(thought.start, thought.end) for thought in thoughts_in(content)]
    except ValueError:
        return []
