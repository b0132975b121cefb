"""The view of one conversation for a server that edits what it has read: the text is only appended to.

A call gets all messages, and the list of those to drop: `drop_message` says behind which message they go, and
`reposition` behind which the server repositions. It then keeps what it has read of the rest; a changed text would make
it read again from the change. Whole messages go, in the order in which a `CompactView` blanks
observations and leaves out exchanges; parts of a message stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from erecap.context.compaction.alignment import common_beginning, message_key
from erecap.context.compaction.compact import compaction_steps
from erecap.context.compaction.mask import fewest
from erecap.context.compaction.spans import Edit
from erecap.context.compaction.view import MIN_GAIN, CompactView, Shown
from erecap.generation import Message


class EditView(CompactView):
    """As `CompactView`, with edits for the server instead of another text. `tokens` are those that it lets be seen."""

    def restart(self) -> None:
        """Begin another conversation."""
        super().restart()
        self._drop: dict[int, tuple[int, ...]] = {}  # message -> messages dropped behind it

    def show(self, messages: Sequence[Message]) -> Shown:
        """All messages, and the edits under which at most `max_tokens` tokens of them are seen.

        Edits behind messages that are as before stay; where the past was rewritten, later ones are made anew.
        """
        keys = [message_key(message) for message in messages]
        same = common_beginning(self.keys, keys)
        rewritten = same < len(self.keys)
        # One behind the newest message of a chat that goes on is behind a message that may have grown.
        self._drop = {behind: gone for behind, gone in self._drop.items() if behind < same}
        reason = "the past was rewritten" if rewritten else "appended"
        whole, compacted = self._count(messages), False
        tokens = whole - self._of(messages, self._gone())
        if self.target_tokens is not None and self._full(tokens):
            more, fewer = self._more(messages, tokens, self.target_tokens)
            if more and (not self._full(fewer) or tokens - fewer >= MIN_GAIN * tokens):
                # A new dictionary: forks share the old one.
                self._drop = {**self._drop, len(messages) - 1: more}
                tokens, compacted = fewer, True
                reason = f"{len(more)} messages dropped; the budget was full"
                self._note_compaction()
        if self._full(tokens):
            reason = f"{reason}; what is protected exceeds the budget"
        self._calls += 1
        self.keys, self._roles = keys, [message["role"] for message in messages]
        self._newest = messages[-1] if messages else None
        gone = self._gone()
        held = self._count(messages[:same]) - self._of(messages, {number for number in gone if number < same})
        edits = None
        if self._drop:
            dropped = {str(behind): list(numbers) for behind, numbers in sorted(self._drop.items())}
            edits = {"drop_message": dropped, "reposition": sorted(self._drop)}
        return Shown(
            list(messages), tokens, whole, min(max(0, held), tokens), compacted, reason, 0, tuple(sorted(gone)),
            self._compactions, self._thrashed, edits,
        )  # fmt: skip

    def goes_on(self, messages: Sequence[Message], keys: Sequence[bytes]) -> bool:
        """Return True if `messages` are the conversation with something appended."""
        return common_beginning(self.keys, keys) == len(self.keys)

    @property
    def memory(self) -> int:
        """Bytes that the view takes, about."""
        return super().memory + 32 * sum(map(len, self._drop.values()))

    def _gone(self) -> set[int]:
        return {number for numbers in self._drop.values() for number in numbers}

    def _of(self, messages: Sequence[Message], numbers: set[int]) -> int:
        """Tokens of some of the messages."""
        return sum(self._count([messages[number]]) for number in numbers)

    def _more(self, messages: Sequence[Message], tokens: int, target: int) -> tuple[tuple[int, ...], int]:
        """The fewest further messages to drop until at most `target` tokens are seen, and the tokens seen then."""
        gone = self._gone()
        order: list[int] = []
        for step in compaction_steps(messages, self._rank, self._count):
            if isinstance(step, Edit):
                whole = (step.start, step.end) == (0, len(messages[step.message]["content"]))
                numbers: Sequence[int] = (step.message,) if whole else ()
            else:
                numbers = step
            order += [number for number in numbers if number not in gone and number not in order]
        sizes = [0, *accumulate(self._count([messages[number]]) for number in order)]
        count = fewest(len(order), lambda some: tokens - sizes[some] <= target)
        return tuple(sorted(order[:count])), tokens - sizes[count]
