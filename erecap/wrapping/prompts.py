"""A prompt that is one growing string, as messages, and back.

Each call's prompt begins with the prompt of the call before. So the string itself says where its parts are: the first
prompt is instructions, examples and task; after it come the planner's answer and what the host wrote below it, call
after call. Joining the contents of the messages gives the string, character by character: nothing is cut inside a chat
tag or inside the words that ask for the next answer, and what is not touched stays as the host wrote it.

Of the parts only lengths and digests are kept; their text is in every prompt.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import pairwise
from typing import Literal

from erecap.context.lines import LinePatterns, pieces
from erecap.context.turn_tags import table, tag_spans, unknown_tags
from erecap.generation import Message

Role = Literal["assistant", "tool"]
_NUMBER = re.compile(r"\d+")
_FAR = 400  # characters before the end of a prompt that may ask for an answer
_NEAR = 40  # characters before an answer that a host may have put there: a blank, a tag
_BYTES = 300  # of memory, that a part takes


@dataclass(frozen=True)
class Part:
    """An answer and what the host wrote below it."""

    answer: int  # characters of the answer
    size: int  # of both
    digest: bytes  # of both


@dataclass
class PromptTalk:
    """One conversation that is kept as a string.

    Args:
        head: the first prompt. All of it stays.
        patterns: what in the host's text was seen; None: all between two chat tags, or all whole lines of it.
        tags: how chat tags look.
    """

    head: str
    patterns: LinePatterns | None = None
    tags: re.Pattern[str] = field(default_factory=table)
    answer: str = ""  # what came back for the newest prompt
    parts: list[Part] = field(default_factory=list)
    may_divide: bool = False  # nobody has seen yet whether the head holds turns already

    @property
    def given(self) -> int:
        """Characters of the newest prompt."""
        return len(self.head) + sum(part.size for part in self.parts)

    @property
    def memory(self) -> int:
        """Bytes that the conversation takes, about."""
        return 2 * len(self.head) + _BYTES * (1 + len(self.parts)) + 2 * len(self.answer)

    def shared(self, prompt: str) -> int:
        """Number of leading parts that `prompt` has as well; -1 where not even the head is in it."""
        if not prompt.startswith(self.head):
            return -1
        place = len(self.head)
        for number, part in enumerate(self.parts):
            if digest(prompt[place : place + part.size]) != part.digest:
                return number
            place += part.size
        return len(self.parts)

    def continues(self, prompt: str) -> bool:
        """Return True if `prompt` is the newest one with something appended."""
        return self.shared(prompt) == len(self.parts)

    def fork(self, parts: int) -> PromptTalk:
        """An independent conversation with the first `parts` exchanges of this one."""
        return replace(self, parts=self.parts[:parts], answer=self.answer)

    def read(self, prompt: str) -> list[Message]:
        """The messages of `prompt`, which begins with the head; their contents, joined, are it."""
        shared = self.shared(prompt)
        assert shared >= 0, "a conversation is chosen by its head"
        rewritten, self.parts = shared < len(self.parts), self.parts[:shared]
        added = prompt[self.given :]
        if added:
            self.parts += self._divided(added, rewritten)
            self.answer = ""
        return self._messages(prompt)

    def divide_head(self) -> bool:
        """Divide a head that holds turns already, as that of a conversation which is gone on with; False: it has none.

        The turns are told by chat tags, or, where the user has named patterns, by the task's line. Lines alone do not
        tell the turns of an episode from those of an example.
        """
        if not self.may_divide:
            return False
        self.may_divide = False
        cue = self._cue(self.head)
        if cue is None:
            return False
        start = 0
        if not self._asking_tag(self.head):
            goals = [] if self.patterns is None else pieces(self.head, self.patterns)
            start = max((piece.end for piece in goals if piece.kind == "goal"), default=-1)
        first = cue.search(self.head, start) if start >= 0 else None
        if first is None or first.end() == len(self.head):
            return False
        rest, self.head = self.head[first.end() :], self.head[: first.end()]
        self.parts = [*self.by_cue(rest, cue), *self.parts]
        return True

    def _divided(self, added: str, rewritten: bool) -> list[Part]:
        """What was appended, as exchanges: one, unless the past was told anew or some answers were not seen."""
        end = _answer_end(added, self.answer.strip())
        if rewritten or end < 0:
            return self.by_cue(added, self._cue(self.head))
        return [_part(added, end)]

    def by_cue(self, text: str, cue: re.Pattern[str] | None) -> list[Part]:
        """`text` divided behind each cue."""
        ends = [] if cue is None else [found.end() for found in cue.finditer(text)]
        borders = [0, *ends, *([len(text)] if not ends or ends[-1] < len(text) else [])]
        found = [text[start:end] for start, end in pairwise(borders)]
        return [_part(piece, _turn_end(piece, self.tags)) for piece in found]

    def _messages(self, prompt: str) -> list[Message]:
        messages: list[Message] = [{"role": "system", "content": self.head}]
        place, common = len(self.head), self._common(prompt)
        cues = self._cues(prompt)
        comes_again = cues[0] in cues[1:]
        for number, part in enumerate(self.parts):
            said, seen = prompt[place : place + part.answer], prompt[place + part.answer : place + part.size]
            place += part.size
            # A host may ask twice in an exchange, for a thought and for an action: both stay or go.
            role: Role = "assistant" if not comes_again or cues[number] == cues[0] else "tool"
            messages.append({"role": role, "content": said, "protect": [], "observations": []})
            messages.append({"role": "user", "content": seen, "protect": [], "observations": self._seen(seen, common)})
        if self.parts:
            messages[-1]["protect"] = [(0, len(messages[-1]["content"]))]
        return messages

    def _cues(self, prompt: str) -> list[str]:
        """What the head and each part ask with, their numbers made equal."""
        place, cues = len(self.head), [self._cue_text(self.head)]
        for part in self.parts:
            place += part.size
            cues.append(self._cue_text(prompt[max(0, place - _FAR) : place]))
        return cues

    def _common(self, prompt: str) -> set[str]:
        """What looks like tags of an unknown format: it is in all that the host wrote."""
        if self.patterns is not None:
            return set()
        place, common = len(self.head), None
        for part in self.parts:
            told = prompt[place + part.answer : place + part.size]
            place += part.size
            if not told.strip():  # all of it passes for the answer, where nobody told which part of it that was
                continue
            found = unknown_tags(told)
            common = found if common is None else common & found
            if not common:
                return set()
        return common or set()

    def _asking_tag(self, text: str) -> str:
        """The tags that `text` ends with, and the white space behind them; "" where it ends otherwise."""
        end = text[-_FAR:]
        spans = list(tag_spans(end, self.tags))
        return end[spans[-1][0] :] if spans and not end[spans[-1][1] :].strip() else ""

    def _asks(self, text: str) -> str:
        """The end of a prompt that asks for the next answer: its last tags, or its last line."""
        end = text[-_FAR:]
        bare = end.rstrip("\n")
        return self._asking_tag(end) or bare.rpartition("\n")[2] + end[len(bare) :]

    def _cue_text(self, text: str) -> str:
        """What `text` asks with, its numbers made equal."""
        return _NUMBER.sub("0", self._asks(text))

    def _cue(self, text: str) -> re.Pattern[str] | None:
        """The pattern of what `text` asks with; None where that is nothing."""
        asks = self._asks(text)
        if not asks.strip():
            return None
        pattern = _NUMBER.sub(lambda _: r"\d+", re.escape(asks))
        return re.compile(pattern if self._asking_tag(text) else f"^{pattern}", re.M)

    def retold_head(self, prompt: str) -> str | None:
        """The head of `prompt`, where that is this conversation's head in other words; None: it is another.

        Both have a beginning in common, up to a line, that is at least half of the shorter one; behind it comes what
        was answered.
        """
        same = _common_beginning(self.head, prompt)
        line = self.head.rfind("\n", 0, same) + 1
        cue, answer = self._cue(self.head), self.answer.strip()
        if cue is None or not answer or 2 * line < min(len(self.head), len(prompt)) or answer not in prompt[line:]:
            return None
        first = cue.search(prompt, line)
        return prompt[: first.end()] if first is not None else None

    def _seen(self, text: str, common: set[str]) -> list[tuple[int, int]]:
        """Spans of what was seen. The last line is not whole: it asks for the next answer."""
        if self.patterns is not None:
            whole = text.rfind("\n") + 1
            return [
                (piece.start, piece.end)
                for piece in pieces(text[:whole], self.patterns)
                if piece.kind == "observation" and text[piece.start : piece.end].strip()
            ]
        tagged = list(tag_spans(text, self.tags))
        if not tagged and common:
            return []  # the turns cannot be told
        asks = bool(tagged) and not text[tagged[-1][1] :].strip()
        whole = tagged[-1][1] if asks else text.rfind("\n") + 1
        borders = [0, *(place for span in tagged if span[1] <= whole for place in span), whole]
        spans = []
        for start, end in zip(borders[::2], borders[1::2], strict=True):
            inner = text[start:end]
            start += len(inner) - len(inner.lstrip())
            end -= len(inner) - len(inner.rstrip())
            # Where tags frame the turns, what stands before the first of them is the answer's end.
            if start < end and not (tagged and start < tagged[0][0]):
                spans.append((start, end))
        return spans


def join_prompt(messages: Sequence[Message]) -> str:
    """The string whose messages these are."""
    return "".join(message["content"] for message in messages)


def digest(text: str) -> bytes:
    """Digest of a text, half surrogates included."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _common_beginning(one: str, other: str) -> int:
    most = min(len(one), len(other))
    return bisect_left(range(most), True, key=lambda size: one[: size + 1] != other[: size + 1])


def _part(text: str, answer: int) -> Part:
    return Part(answer, len(text), digest(text))


def _answer_end(added: str, answer: str) -> int:
    """Where the planner's answer ends in what was appended; -1 without a trace of it."""
    place = added.find(answer, 0, _NEAR + len(answer)) if answer else -1
    return place + len(answer) if place >= 0 else -1


def _line_end(text: str) -> int:
    line = text.find("\n")
    return len(text) if line < 0 else line


def _turn_end(text: str, tags: re.Pattern[str]) -> int:
    """Where an answer ends that nobody has told: at the first tag, or with its line."""
    tag = next(tag_spans(text, tags), None)
    return tag[0] if tag is not None else _line_end(text)
