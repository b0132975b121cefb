"""Cut a long prefill into chunks; the policy acts between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from erecap.engines.protocol import BetweenChunks


def in_chunks(ids: Sequence[int], size: int, between: BetweenChunks | None) -> Iterator[list[int]]:
    """Yield `ids` in chunks of `size`; `between` is called before each chunk and after the last, and may shorten it."""
    start = 0
    while start < len(ids):
        proposed = min(size, len(ids) - start)
        wanted = between(start, proposed) if between is not None else None
        chunk = list(ids[start : start + (proposed if wanted is None else max(1, min(wanted, proposed)))])
        start += len(chunk)
        yield chunk
    if between is not None:
        between(len(ids), 0)
