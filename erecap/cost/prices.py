"""When shortening the chat of a remote model pays, where cached prompt tokens are cheaper than new ones."""

from __future__ import annotations


def edit_pays(removed: int, after: int, cached_price: float, uncached_price: float, remaining_calls: int) -> bool:
    """Whether taking text out of the chat costs less than leaving it in.

    Every later call saves the cached price of what was removed; the next one must pay the full price for what comes
    after the edit, since a prefix cache ends where the text first differs:

        removed * cached * remaining_calls > after * (uncached - cached)

    So edits pay near the end of the chat, in batches, or when nothing is cached anyway.

    Args:
        removed: tokens taken out.
        after: tokens behind the edit, which are read anew once.
        cached_price, uncached_price: of one prompt token found in the cache or not, in one currency.
        remaining_calls: calls that will still be made with this chat.

    Raises:
        ValueError: a negative number, or a cached price above the uncached one.
    """
    if min(removed, after, cached_price, uncached_price, remaining_calls) < 0:
        raise ValueError("tokens, prices and calls cannot be negative")
    if cached_price > uncached_price:
        raise ValueError(f"the cached price {cached_price} is above the uncached one {uncached_price}")
    return removed * cached_price * remaining_calls > after * (uncached_price - cached_price)
