"""Find the records in text that another program has written, by how lines begin.

Hosts keep their history as one growing string or as chat messages, and only they know what is a command and what was
seen. Most of them mark it at the beginning of a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from erecap.errors import ConfigError
from erecap.generation import Message

PieceKind = Literal["goal", "action", "observation", "failure", "thought", "other"]
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_KINDS = ("goal", "action", "observation", "failure", "thought", "other")


@dataclass(frozen=True)
class LinePatterns:
    """Patterns that tell a line's kind from its beginning.

    Args:
        starts: kind -> regular expression that matches at the beginning of such a line.
        rest: the kind of a line that no expression matches; "same" continues the line before.

    Raises:
        ConfigError: an unknown kind, or an expression that is none.
    """

    starts: Mapping[str, str]
    rest: str = "same"
    _compiled: tuple[tuple[str, re.Pattern[str]], ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        unknown = [kind for kind in (*self.starts, self.rest) if kind not in (*_KINDS, "same")]
        if unknown or "same" in self.starts:
            raise ConfigError(f"line kind {(unknown or ['same'])[0]!r} is unknown; allowed: {', '.join(_KINDS)}")
        try:
            compiled = tuple((kind, re.compile(pattern)) for kind, pattern in self.starts.items())
        except re.error as error:
            raise ConfigError(f"a line pattern is no regular expression: {error}") from error
        object.__setattr__(self, "_compiled", compiled)

    def kind(self, line: str) -> str:
        """The kind of `line`, by the first expression that matches; else `rest`."""
        return next((kind for kind, pattern in self._compiled if pattern.match(line)), self.rest)

    def names(self, line: str) -> bool:
        """Return True if an expression matches the beginning of `line`."""
        return any(pattern.match(line) for _, pattern in self._compiled)


PATTERNS: dict[str, LinePatterns] = {
    # This package's own planner.
    "erecap": LinePatterns({"goal": r"Goal: ", "action": r"> ", "failure": r"Failed: "}, rest="observation"),
    # Yao et al. 2022, arXiv:2210.03629, as on HotpotQA and in most frameworks since.
    "react": LinePatterns(
        {
            "action": r"(Act|Action)( \d+)?:",
            "observation": r"(Obs|Observation)( \d+)?:",
            "thought": r"Thought( \d+)?:",
            "goal": r"(Question|Task|Goal):",
        }
    ),
    # The same authors on ALFWorld: typed lines begin with ">", and thoughts are typed, too.
    "alfworld": LinePatterns(
        {"thought": r"> ?think:", "action": r">", "goal": r"Your task is to:"}, rest="observation"
    ),
}


@dataclass(frozen=True)
class Piece:
    """Lines of one kind: characters `[start, end)` of a text, without the last line break."""

    kind: str
    start: int
    end: int


def pieces(text: str, patterns: LinePatterns) -> list[Piece]:
    """`text` in pieces, in order. Lines end with a line feed; other breaks, such as U+2028, stand inside of records.

    A line of kind "same" belongs to the piece before; the first of all is "other".
    """
    found: list[Piece] = []
    start = 0
    for line in _LINE.findall(text):
        end = start + len(line.rstrip("\r\n"))
        kind = patterns.kind(line)
        if kind == "same" or (found and kind == found[-1].kind == patterns.rest):
            before = found.pop() if found else Piece("other", 0, 0)
            found.append(Piece(before.kind, before.start, end))
        else:
            found.append(Piece(kind, start, end))
        start += len(line)
    return found


def annotate(messages: Sequence[Message], patterns: LinePatterns) -> list[Message]:
    """`messages` with spans of observations, and of those that have been seen again since.

    Messages of the user or of a tool after the first user message get the `observations` that the patterns find, where
    they have none. One is stale when the same command, if it names something, led to another observation later.
    """
    result: list[Message] = []
    command = ""
    newest: dict[str, tuple[int, tuple[int, int]]] = {}  # command -> message and span of what came of it
    stale: dict[int, list[tuple[int, int]]] = {}
    first = next((number for number, message in enumerate(messages) if message["role"] == "user"), len(messages))
    for number, message in enumerate(messages):
        seen = number > first and message["role"] in ("user", "tool")
        if not seen or "observations" in message or not message["content"]:
            result.append(message)
            continue
        spans = []
        for piece in pieces(message["content"], patterns):
            said = " ".join(message["content"][piece.start : piece.end].split())
            if piece.kind == "action":
                command = said
            elif piece.kind == "observation" and said:
                span = (piece.start, piece.end)
                spans.append(span)
                if len(command.strip("> ").split()) > 1:
                    if command in newest:
                        older, place = newest[command]
                        stale.setdefault(older, []).append(place)
                    newest[command] = number, span
                command = ""
        result.append({**message, "observations": spans})
    return [
        {**message, "stale": sorted([*message.get("stale", ()), *stale[number]])} if number in stale else message
        for number, message in enumerate(result)
    ]
