"""Calls of tools in the text of an answer.

A call is JSON between marks; the closing mark may be missing, and one pair of marks may hold several calls. Models
whose marks are special tokens, which are no text, and models that leave them out, answer with calls and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from erecap.serving.tool_calls import ARGUMENTS, CLOSE, OPEN, Call, decoder, read_call

_THINK, _THOUGHT = "<think>", "</think>"
_MARK = re.compile("|".join(map(re.escape, (OPEN, _THINK, _THOUGHT))))
_BLANK = re.compile(r"\s*")


def calls_in(text: str, names: Collection[str]) -> tuple[str | None, list[dict[str, Any]]]:
    """The answer's text without its calls, None if nothing is left of it, and the calls as the API has them.

    Text stays: what is no JSON with a name and arguments, calls of tools that were not offered, and what the model
    only thinks of, between `<think>` and `</think>`. The first of these may stand in the prompt.

    Args:
        names: of the tools that were offered.
    """
    calls: list[Call] = []
    rest: list[str] = []  # the text outside of calls, up to `place`
    place = at = 0
    while (mark := _MARK.search(text, at)) is not None:
        at = mark.end()
        if mark[0] == _THOUGHT:  # all before it was thought
            calls, rest, place = [], [], 0
        elif mark[0] == _THINK:
            end = text.find(_THOUGHT, at)
            at = len(text) if end < 0 else end + len(_THOUGHT)
        elif (found := _marked(text, at, names)) is not None:
            rest.append(text[place : mark.start()])
            calls += found[0]
            place = at = found[1]
    rest.append(text[place:])
    if not calls and text.lstrip().startswith("{"):
        calls, end = _calls_at(text, 0, names, marked=False)
        if calls and end == len(text):
            return None, [call.as_api() for call in calls]
        return text, []
    left = "".join(rest)
    return (left if not calls else left.strip() or None), [call.as_api() for call in calls]


def _marked(text: str, place: int, names: Collection[str]) -> tuple[list[Call], int] | None:
    """The calls behind an opening mark, and where they end with their closing one; None where something else is."""
    calls, end = _calls_at(text, place, names, marked=True)
    if not calls:
        return None
    if text.startswith(CLOSE, end):
        return calls, end + len(CLOSE)
    # Without a closing mark of its own the rest is text; with one, the marks hold more than calls.
    closed, opened = text.find(CLOSE, end), text.find(OPEN, end)
    return None if closed >= 0 and not 0 <= opened < closed else (calls, end)


def _calls_at(text: str, place: int, names: Collection[str], marked: bool) -> tuple[list[Call], int]:
    """The calls that stand one behind the other from `place`, and where what follows them begins.

    Without a mark an object with nothing but a name may be an answer, and is no call.
    """
    calls: list[Call] = []
    end = place
    while True:
        begin = _after_blanks(text, end)
        if not text.startswith("{", begin):
            return calls, begin if text.startswith(CLOSE, begin) or begin == len(text) else end
        try:
            content, stop = decoder.raw_decode(text, begin)
            if not (marked or any(key in content for key in ARGUMENTS)):
                return calls, end
            call = read_call(content)
        except (ValueError, RecursionError):  # no JSON, or no call
            return calls, end
        if call.name not in names:
            return calls, end
        calls.append(call)
        end = stop


def _after_blanks(text: str, place: int) -> int:
    found = _BLANK.match(text, place)
    return place if found is None else found.end()
