"""Lines of a growing string that may tell its turns, in formats and languages that nobody has listed.

Between observations a host may write tags of its own: `«A»`, `【用户】`, `- role: user`, `Пользователь: `. No list has
all of them. They have in common that they recur, exchange after exchange; a line that recurs is never cut.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_SHORT = 40  # characters of a line that may be a tag
_SENTENCE = ".!?。！？…।؟"  # ends of lines that are prose, however often they recur
_NUMBER = re.compile(r"\d+")
# What a line begins with: a name with a colon or arrow behind it, signs, or both.
_LABEL = re.compile(r"\s*(?:[^\w\s]*\s*[^\W\d_][\w \-]{0,24}?(?:\s?[:：︰﹕|>»›→]|\s?[=-]+>|\t)|[^\w\s]+)")


@dataclass(frozen=True)
class Structure:
    """Lines and beginnings of lines that recur in what a host wrote, their numbers made equal."""

    lines: frozenset[str]
    labels: frozenset[str]

    @classmethod
    def of(cls, head: str, texts: Sequence[str]) -> Structure:
        """The structure of a string.

        Args:
            head: its first prompt.
            texts: what the host wrote below each answer.
        """
        everywhere = Counter(line for text in texts for line in set(_lines(text)))
        tags, labels = Counter[str](), Counter[str]()
        for text in (head, *texts):
            lines = _lines(text)
            tags.update({_equal(line) for line in lines if _may_be_tag(line)})
            labels.update({label for line in lines if (label := _label(line))})
        return cls(
            frozenset(line for line, number in everywhere.items() if 1 < number == len(texts))
            | frozenset(line for line, number in tags.items() if number > 1),
            frozenset(label for label, number in labels.items() if number > 1),
        )

    def holds(self, text: str, *, named: bool) -> bool:
        """Return True if a line of `text` may tell turns.

        Args:
            text: whole lines.
            named: the beginning of its first line was named by the user, and is no label of a turn.
        """
        lines = _lines(text)
        if not named and lines and _label(lines[0]) in self.labels:
            return True
        return any(
            line in self.lines or (_may_be_tag(line) and _equal(line) in self.lines) or _has_controls(line)
            for line in lines
        )


def _lines(text: str) -> list[str]:
    return [bare for line in text.split("\n") if (bare := line.strip())]


def _may_be_tag(line: str) -> bool:
    return len(line) <= _SHORT and line[-1] not in _SENTENCE


def _equal(line: str) -> str:
    """`line`; its numbers are made equal where signs stand around it, as in `[turn 3]`."""
    return line if line[0].isalnum() or line[-1].isalnum() else _NUMBER.sub("0", line)


def _label(line: str) -> str:
    found = _LABEL.match(line)
    return "" if found is None else _NUMBER.sub("0", found.group().strip())


def _has_controls(line: str) -> bool:
    return any(unicodedata.category(letter) in ("Cc", "Co") for letter in line if letter != "\t")
