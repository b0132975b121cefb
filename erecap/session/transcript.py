"""What a session has read: token ids, and where in them each message of the chat ends.

A call brings the whole chat again. What was read is found by the text that the chat template makes of it, not by the
messages: a template that rewrites the past (strips reasoning, adds a date) is then seen at once. Texts are not
kept, only hashes of everything up to the end of each message.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Mark:
    """The end of a message's content within what was read."""

    message: int  # number of the message in the chat
    characters: int  # of the rendered chat up to here
    digest: bytes  # of those characters
    tokens: int  # read up to here, corrections included
    # False where a token reaches across the end, so that reading cannot go on from here.
    aligned: bool = True
    # Where this message's tokens stand and the character of its content at which each begins. Needed to turn
    # `protect` spans, which change from call to call, into tokens.
    first: int = 0
    starts: tuple[int, ...] = ()


class Transcript:
    """Grows at the end, is cut at the end when the chat was rewritten, and forgets its beginning.

    Args:
        rewind_tokens: ids and marks of at least this many newest tokens are kept; older ones may be let go, and a
            chat that was rewritten further back is read anew. None keeps all.
    """

    def __init__(self, rewind_tokens: int | None = None) -> None:
        self.rewind_tokens = rewind_tokens
        self.ids: list[int] = []
        self.forgotten = 0  # ids let go at the beginning
        self.marks: list[Mark] = []
        self.overlays: list[tuple[int, list[int]]] = []  # (place, ids) of what no message stands for

    @property
    def tokens(self) -> int:
        """Tokens read, those let go included."""
        return self.forgotten + len(self.ids)

    def matched(self, text: str) -> int:
        """How many of `marks` lie in a chat rendered as `text`, with the same characters up to there.

        The last of them is aligned: reading can go on from it.
        """
        digest = hashlib.blake2b(digest_size=16)
        place = found = 0
        for number, mark in enumerate(self.marks):
            if mark.characters > len(text):
                break
            digest.update(_bytes(text[place : mark.characters]))
            place = mark.characters
            if digest.digest() != mark.digest:
                break
            if mark.aligned:
                found = number + 1
        return found

    def ends_with_mark(self, stored: int) -> bool:
        """Whether nothing was read after the last mark, `stored` tokens being in the cache."""
        last = self.marks[-1].tokens if self.marks else 0
        return last == self.tokens == stored

    def cut(self, marks: int) -> list[int]:
        """Go back to the end of the first `marks` marks; returns the ids of overlays that are lost with the rest."""
        del self.marks[marks:]
        left = self.marks[-1].tokens if self.marks else 0
        lost = [token for place, ids in self.overlays if place >= left for token in ids]
        self.overlays = [(place, ids) for place, ids in self.overlays if place < left]
        if not self.marks:
            self.ids, self.forgotten = [], 0
        else:
            del self.ids[left - self.forgotten :]
        return lost

    def since(self, token: int) -> list[int]:
        """Ids from place `token` on. Raises ValueError where they were let go."""
        if token < self.forgotten:
            raise ValueError(f"tokens before {self.forgotten} were let go (rewind_tokens={self.rewind_tokens})")
        return self.ids[token - self.forgotten :]

    def extend(self, ids: Sequence[int], marks: Sequence[Mark] = ()) -> None:
        """Add `ids` read at the end, in which the `marks` lie."""
        self.ids.extend(ids)
        self.marks.extend(marks)
        if self.rewind_tokens is not None and len(self.ids) > 2 * self.rewind_tokens:
            gone = len(self.ids) - self.rewind_tokens
            del self.ids[:gone]
            self.forgotten += gone
            # The newest mark stays whatever its age: it says where the chat ends.
            self.marks = [mark for mark in self.marks[:-1] if mark.tokens >= self.forgotten] + self.marks[-1:]

    def settle(self, tokens: int) -> None:
        """Move the last mark to `tokens`: the rest of its message has been read."""
        if self.marks:
            self.marks[-1] = replace(self.marks[-1], tokens=tokens)

    def overlay(self, ids: Sequence[int]) -> None:
        """Add `ids` that no message stands for: they belong to the last mark, and matching skips them."""
        self.overlays.append((self.tokens, list(ids)))
        self.ids.extend(ids)
        if self.marks:
            last = self.marks[-1]
            self.marks[-1] = replace(last, tokens=self.tokens)

    def copy(self) -> Transcript:
        """An independent copy."""
        twin = copy.copy(self)
        twin.ids, twin.marks, twin.overlays = list(self.ids), list(self.marks), list(self.overlays)
        return twin


def digest_of(text: str) -> bytes:
    """The digest that a mark at the end of `text` has."""
    return hashlib.blake2b(_bytes(text), digest_size=16).digest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # a lone surrogate must not end a session
