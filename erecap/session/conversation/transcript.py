"""The transcript of a session: token ids, and the token index at which each message of the chat ends.

A call brings the whole chat again. The tokens read are matched by the text that the chat template renders, not by the
messages: a template that rewrites the past (strips reasoning, adds a date) is then seen at once. Texts are not
kept, only hashes of everything up to the end of each message.
"""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from erecap.session.conversation.digest import RunningDigest
from erecap.session.conversation.edit_record import Made


@dataclass(frozen=True)
class Mark:
    """The end of a message's content within the tokens read."""

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
    generated: bool = False  # an answer, in the tokens that it was generated in

    def indices(self, start: int, end: int) -> tuple[int, int]:
        """Token indices `[low, high)` of those that hold characters `[start, end)` of the content; empty where none do.

        A token holds what lies between its start and that of the next that starts elsewhere: the bytes of one character
        may be several tokens with one start.
        """
        if not self.starts or start >= end:
            return self.first, self.first
        low = bisect_right(self.starts, start)
        low = bisect_left(self.starts, self.starts[low - 1]) if low else 0
        return self.first + low, self.first + max(low, bisect_left(self.starts, end))


class Transcript:
    """Token ids and marks: they grow at the end, are cut there when the chat is rewritten, and forget the beginning.

    Args:
        rewind_tokens: ids, marks and corrections of at least this many newest tokens are kept; older ones may be
            forgotten, and a chat that was rewritten further back is re-read, without its corrections. None keeps all.
    """

    def __init__(self, rewind_tokens: int | None = None) -> None:
        self.rewind_tokens = rewind_tokens
        self.ids: list[int] = []
        self.forgotten = 0  # ids dropped at the beginning
        self.marks: list[Mark] = []
        # Marks that reading can no longer go back to, of messages of which something may still be stored: they say
        # which stored tokens are the system text, the goal, and what else is protected or stale.
        self.older: list[Mark] = []
        self._tidy_at = 32
        self.corrections: list[tuple[int, list[int]]] = []  # (token index, ids) that no message stands for
        self.due: list[int] = []  # ids of corrections that were rolled back and have to be read again
        # Edits of the chat whose effect is among what is stored, oldest first: those in force, and those of which only
        # what they evicted is left, because an end of the chat was rolled back.
        self.edits: list[Made] = []

    @property
    def tokens(self) -> int:
        """Number of tokens read, forgotten ones included."""
        return self.forgotten + len(self.ids)

    @property
    def known_marks(self) -> list[Mark]:
        """The newest mark of each message, oldest first; a session can roll back to `marks` only, the newest of all."""
        newest = {mark.message: mark for mark in (*self.older, *self.marks)}
        return list(newest.values())

    def matched(self, text: str, before: RunningDigest | None = None) -> int:
        """Number of `marks` that lie in a chat, with the same characters up to there.

        The last of them is aligned: reading can go on from it.

        Args:
            text: the rendered chat from where `before` ends.
            before: digest of what comes before `text`, whose marks are known to lie in the chat; None: nothing.
        """
        running = RunningDigest() if before is None else before.copy()
        begin = place = running.characters
        low = len(self.marks)
        while low and self.marks[low - 1].characters > begin:
            low -= 1
        found = next((n for n in range(low, 0, -1) if self.marks[n - 1].aligned), 0)
        for number in range(low, len(self.marks)):
            mark = self.marks[number]
            if mark.characters - begin > len(text) or mark.characters < place:
                break
            running.update(text[place - begin : mark.characters - begin])
            place = mark.characters
            if running.digest() != mark.digest:
                break
            if mark.aligned:
                found = number + 1
        return found

    def ends_with_mark(self, stored: int) -> bool:
        """Return True if nothing was read after the last mark, `stored` tokens being in the cache."""
        last = self.marks[-1].tokens if self.marks else 0
        return last == self.tokens == stored

    def parted(self, marks: int) -> tuple[list[Mark], list[tuple[int, list[int]]], list[int]]:
        """The first `marks` marks, the corrections before the end of the last, and the ids of those behind it.

        These, and those that were due before, have to be read again once the rest is gone.
        """
        kept = self.marks[:marks]
        left = kept[-1].tokens if kept else 0
        due = [*(token for at, ids in self.corrections if at >= left for token in ids), *self.due]
        return kept, [(at, ids) for at, ids in self.corrections if at < left], due

    def trim(self, tokens: int | None = None) -> None:
        """Forget the ids behind the last mark; `tokens`: keep those before this token index."""
        left = max(self.marks[-1].tokens if self.marks else 0, tokens or 0)
        if not left:
            self.older = []
        self.edits = [made for made in self.edits if made.lowest < left]
        # Where ids up to the mark were dropped, the rest cannot be compared.
        del self.ids[max(0, left - self.forgotten) :]
        self.forgotten = min(self.forgotten, left)

    def since(self, token: int) -> list[int]:
        """Ids from token index `token` on. Raises ValueError where they were forgotten."""
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
            # The two newest marks stay whatever their age: they say where the chat ends, before its answer and after.
            rewindable = self.marks[:-2]
            self.older += [mark for mark in rewindable if mark.tokens < self.forgotten]
            self.marks = [mark for mark in rewindable if mark.tokens >= self.forgotten] + self.marks[-2:]
            self.corrections = [(at, ids) for at, ids in self.corrections if at >= self.forgotten]

    @property
    def wants_tidying(self) -> bool:
        """Return True if enough marks were dropped since the last `tidy` to run it again."""
        return len(self.older) > self._tidy_at

    def tidy(self, stored: Sequence[int]) -> None:
        """Forget older marks of messages of which no token is stored; `stored`: sorted indices of stored tokens."""

        def alive(mark: Mark) -> bool:
            at = bisect_left(stored, mark.first)
            return at < len(stored) and stored[at] < mark.tokens

        self.older = [mark for mark in self.older if mark.starts and alive(mark)]
        self._tidy_at = 32 + 2 * len(self.older)

    def settled(self, tokens: int) -> list[Mark]:
        """The marks with the last one at `tokens`: the rest of its message has been read."""
        return [*self.marks[:-1], replace(self.marks[-1], tokens=tokens)] if self.marks else []

    def inject(self, ids: Sequence[int]) -> None:
        """Add a correction that no message stands for: they belong to the last mark, and matching skips them."""
        corrections, marks = [*self.corrections, (self.tokens, list(ids))], self.settled(self.tokens + len(ids))
        self.ids.extend(ids)
        self.corrections, self.marks, self.due = corrections, marks, []

    def copy(self) -> Transcript:
        """An independent copy."""
        twin = copy.copy(self)
        twin.ids, twin.marks, twin.older = list(self.ids), list(self.marks), list(self.older)
        twin.corrections, twin.due, twin.edits = list(self.corrections), list(self.due), list(self.edits)
        return twin
