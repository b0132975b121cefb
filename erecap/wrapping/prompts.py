"""A prompt that is one growing string, as messages, and back.

Each call's prompt begins with the prompt of the call before. So the string itself says where its parts are: the first
prompt is instructions, examples and task; after it come the planner's answer and what the host wrote below it, call
after call. Joining the contents of the messages gives the string, character by character: what is not touched stays as
the host wrote it.

Nothing is cut inside a chat tag or inside the words that ask for the next answer. An exchange goes whole: what is left
asks as before. Inside one, only what surely is an observation goes: a turn between two known tags, or lines that the
user's patterns name and of which none recurs as tags do. Otherwise exchanges go, or nothing.

Of the parts only lengths and digests are kept; their text is in every prompt.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import pairwise
from typing import Literal

from erecap.context.lines import LinePatterns, pieces
from erecap.context.structure import Structure
from erecap.context.turn_tags import table, tag_spans, turn_spans
from erecap.generation import Message

Role = Literal["assistant", "tool"]
_NUMBER = re.compile(r"\d+")
_FAR = 400  # characters before the end of a prompt that may ask for an answer
_NEAR = 40  # characters before an answer that a host may have put there: a blank, a tag
_BYTES = 300  # of memory, that a part takes
_OFTEN = 4  # a cue that comes back once in so many calls begins exchanges
_DOUBT = "observations cannot be told from tags in this string, so that only whole exchanges go; patterns tell them"


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
        patterns: what in the host's text was seen; None: each turn between two chat tags.
        tags: how chat tags look.
    """

    head: str
    patterns: LinePatterns | None = None
    tags: re.Pattern[str] = field(default_factory=table)
    answer: str = ""  # what came back for the newest prompt
    parts: list[Part] = field(default_factory=list)
    may_divide: bool = False  # nobody has seen yet whether the head holds turns already
    doubt: str = ""  # why nothing but whole exchanges can go; "" where observations can

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
        place, texts = len(self.head), self._texts(prompt)
        structure = None if self.patterns is None else Structure.of(self.head, texts)
        cues = self._cues(prompt)
        first = _first_of_exchanges(cues)
        for number, (part, seen) in enumerate(zip(self.parts, texts, strict=True)):
            said = prompt[place : place + part.answer]
            place += part.size
            # A host may ask twice in an exchange, for a thought and for an action: both stay or go.
            role: Role = "assistant" if first is None or cues[number] == first else "tool"
            messages.append({"role": role, "content": said, "protect": [], "observations": []})
            spans = self._seen(seen, structure)
            messages.append({"role": "user", "content": seen, "protect": [], "observations": spans})
        if self.parts:
            messages[-1]["protect"] = [(0, len(messages[-1]["content"]))]
            self.doubt = "" if any(message.get("observations") for message in messages) else _DOUBT
        return messages

    def _texts(self, prompt: str) -> list[str]:
        """What the host wrote below each answer."""
        place, texts = len(self.head), []
        for part in self.parts:
            texts.append(prompt[place + part.answer : place + part.size])
            place += part.size
        return texts

    def _cues(self, prompt: str) -> list[str]:
        """What the head and each part ask with, their numbers made equal."""
        place, cues = len(self.head), [self._cue_text(self.head)]
        for part in self.parts:
            place += part.size
            cues.append(self._cue_text(prompt[max(0, place - _FAR) : place]))
        return cues

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

    def _seen(self, text: str, structure: Structure | None) -> list[tuple[int, int]]:
        """Spans of what was seen. The last line is not whole: it asks for the next answer."""
        if self.patterns is None or structure is None:
            turns = (_stripped(text, *span) for span in turn_spans(text, self.tags))
            return [(start, end) for start, end in turns if start < end]
        spans = []
        for first, last in self._lines_seen(text):
            for piece in pieces(text[first:last], self.patterns):
                start, end = _stripped(text, first + piece.start, first + piece.end)
                lines = text[start:end]
                if piece.kind != "observation" or not lines:
                    continue
                if not structure.holds(lines, named=self.patterns.names(lines)):
                    spans.append((start, end))
        return spans

    def _lines_seen(self, text: str) -> list[tuple[int, int]]:
        """Spans of the whole lines that patterns are looked for in: those of turns, or all where there are no tags.

        They are none where the host went on in the answer's own line: what it wrote there belongs to the next lines.
        """
        if next(tag_spans(text, self.tags), None) is not None:
            return turn_spans(text, self.tags)
        first, last = text.find("\n") + 1, text.rfind("\n") + 1
        return [] if any(letter.isalpha() for letter in text[:first]) else [(first, last)]


def _first_of_exchanges(cues: Sequence[str]) -> str | None:
    """The cue that begins an exchange, where several do; None where each does.

    Where an exchange goes, the next answer stands behind the cue that asked for the one that went. So both have to be
    the same, as far as cues recur at all.
    """
    times = Counter(cues)
    if times[cues[0]] > 1:
        return cues[0]
    return next((cue for cue in cues if times[cue] > 1 and _OFTEN * times[cue] >= len(cues)), None)


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at both ends."""
    inner = text[start:end]
    return start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip())


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
