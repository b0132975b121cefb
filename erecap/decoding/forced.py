"""Answers that are given beforehand, for measuring what it takes to decode them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def forced_ids(text: str, tokenizer: Any, ends: Sequence[int], max_new_tokens: int) -> list[int]:
    """The tokens of an answer `text`, with the one that ends it.

    Args:
        ends: ids that end an answer; the first of them is taken.

    Raises:
        ValueError: more than `max_new_tokens` tokens.
    """
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], ends[0]]
    if len(ids) > max_new_tokens:
        raise ValueError(f"force: got {len(ids)} tokens with the end; allowed: {max_new_tokens}, max_new_tokens")
    return ids
