"""Cutting a long prefill into chunks, with a word from the policy between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from erecap.engines.protocol import BetweenChunks


def in_chunks(ids: Sequence[int], size: int, between: BetweenChunks | None) -> Iterator[list[int]]:
    """Yield `ids` in chunks of `size`; `between` is called before each chunk and after the last."""
    for start in range(0, len(ids), size):
        chunk = list(ids[start : start + size])
        if between is not None:
            between(start, len(chunk))
        yield chunk
    if between is not None:
        between(len(ids), 0)
