"""Special tokens of a tokenizer: those that an answer's text leaves out, and those that it keeps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

# Special tokens that are part of what a model says: the marks of its tool calls.
SPOKEN = re.compile(r"tool|function|python_tag", re.IGNORECASE)


class SpecialTokens:
    """The special tokens of a tokenizer at this moment.

    Attributes:
        texts: their texts.
        silent: ids of those that an answer's text leaves out.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = tokenizer.added_tokens_decoder
        special = {token.content: number for number, token in added.items() if getattr(token, "special", True)}
        self.texts = frozenset(special)
        self._spoken = frozenset(number for text, number in special.items() if SPOKEN.search(text))
        self.silent = frozenset(special.values()) - self._spoken
        self._tokenizer = tokenizer

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated ids, without special tokens other than the marks of tool calls."""
        if self._spoken.isdisjoint(ids):
            return str(self._tokenizer.decode(ids, skip_special_tokens=True))
        return str(self._tokenizer.decode([token for token in ids if token not in self.silent]))

    def text_before(self, ids: Sequence[int], stop: str) -> str | None:
        """The text before `stop`, in which special tokens are written out; None where it is not there."""
        raw = self._raw(ids)
        place = raw.find(stop)
        if place < 0:
            return None
        count = next(n for n in range(len(ids), -1, -1) if len(self._raw(ids[:n])) <= place)
        return self.text(ids[:count]) + raw[len(self._raw(ids[:count])) : place]

    def _raw(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))
