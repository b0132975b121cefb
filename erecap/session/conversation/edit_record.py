"""Edits of a chat that were made while it was read, and how far to go back to undo them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Event(NamedTuple):
    """The edits that are made behind one message of the chat, when it was read to its end."""

    message: int  # behind which
    dropped: tuple[int, ...]  # whole messages, with the template's text around them
    thinking: bool  # the thinking of `message` itself
    reposition: bool  # then what is still stored gets consecutive positions


@dataclass(frozen=True)
class Made:
    """An event that was carried out."""

    event: Event
    at: int  # token index of the next token then
    lowest: int  # the lowest token index that it evicted or moved; `at` where it did neither
    tokens: int  # evicted by it, of the layer that lost most
    done: bool = True  # False: it was begun, and perhaps not ended


def reach(made: Sequence[Made], wanted: Sequence[Event], limit: int) -> tuple[int, int]:
    """Numbers of edits made and of tokens read that stay.

    An edit stays where it and all before it are wanted, and where all that was read before it stays. What another one
    evicted or moved has to be read again.

    Args:
        made, wanted: in the order of the chat.
        limit: tokens that may stay otherwise.
    """
    same = 0
    for one, event in zip(made, wanted, strict=False):
        if one.event != event or not one.done:
            break
        same += 1
    while True:
        kept = sum(one.at <= limit for one in made[:same])
        lowest = min((one.lowest for one in made[kept:]), default=limit)
        if lowest >= limit:
            return kept, limit
        limit = lowest
