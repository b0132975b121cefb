"""A digest of a text that grows: adding to it costs what is added, and its state is small enough to save."""

from __future__ import annotations

import hashlib
from typing import Any

BLOCK = 1024  # bytes folded into the state at once


class RunningDigest:
    """Digest of a growing text; equal for equal texts, however they were cut into pieces.

    Full blocks are folded into a chained state, the rest is kept as it is. The hash objects of `hashlib` would do the
    same, but cannot be written to a file.

    Args:
        state, rest, characters: as `to_json` gave them; nothing for an empty text.
    """

    def __init__(self, state: bytes = b"", rest: bytes = b"", characters: int = 0) -> None:
        self.characters = characters
        self._state = state
        self._rest = rest

    def update(self, text: str) -> RunningDigest:
        """Add `text`; returns this digest."""
        data = self._rest + text.encode("utf-8", "surrogatepass")  # a lone surrogate must not end a session
        place = 0
        while len(data) - place > BLOCK:
            self._state = hashlib.blake2b(self._state + data[place : place + BLOCK], digest_size=16).digest()
            place += BLOCK
        self._rest = data[place:]
        self.characters += len(text)
        return self

    def digest(self) -> bytes:
        """16 bytes that stand for the text so far."""
        # Another personalisation than the blocks have, so that no text's end looks like another one's block.
        return hashlib.blake2b(self._state + self._rest, digest_size=16, person=b"end").digest()

    def copy(self) -> RunningDigest:
        """An independent copy."""
        return RunningDigest(self._state, self._rest, self.characters)

    def to_json(self) -> list[Any]:
        """Plain values for a file."""
        return [self._state.hex(), self._rest.hex(), self.characters]

    @classmethod
    def from_json(cls, values: list[Any]) -> RunningDigest:
        """The digest that `to_json` described."""
        return cls(bytes.fromhex(values[0]), bytes.fromhex(values[1]), int(values[2]))
