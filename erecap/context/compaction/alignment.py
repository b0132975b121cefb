"""Alignment of two versions of one conversation: the messages that both have, in order.

A host may retell its past: its newest message gets another beginning once it is old, its oldest messages go, images in
the middle become text. What both versions share is found by digests of messages, so that neither text is kept.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise

from erecap.generation import Message

# Keys that say something about a message, and are not shown to the model.
UNTOLD = ("protect", "stale", "observations", "thoughts", "erecap_place")
_AHEAD = 8  # messages of the new version that may stand before the next common one
_TRIES = 8  # places of a repeated message that are looked at


def message_key(message: Message) -> bytes:
    """Digest of all that the model is shown of a message."""
    told = sorted((key, value) for key, value in message.items() if key not in UNTOLD)
    return blake2b(repr(told).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def common_beginning(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """Number of leading keys that are equal."""
    number = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        number += 1
    return number


def align(old: Sequence[bytes], new: Sequence[bytes]) -> list[int | None]:
    """For each message of `new` the number of the same message in `old`, or None; the numbers rise."""
    begun = common_beginning(old, new)
    result: list[int | None] = list(range(begun))
    where: dict[bytes, list[int]] = {}
    for number in range(begun, len(old)):
        where.setdefault(old[number], []).append(number)
    place = begun
    while len(result) < len(new):
        found = _next(old, new, where, place, len(result))
        if found is None:
            result.append(None)
            continue
        skipped, place = found
        result += [None] * skipped
        result.append(place)
        place += 1
    return result


def _next(
    old: Sequence[bytes], new: Sequence[bytes], where: dict[bytes, list[int]], place: int, number: int
) -> tuple[int, int] | None:
    """The nearest common message from `old[place]` and `new[number]` on: those of `new` that it skips, its place."""
    best: tuple[int, int, int] | None = None
    for skipped in range(min(_AHEAD, len(new) - number)):
        places = where.get(new[number + skipped], ())
        first = bisect_left(places, place)
        for at in places[first : first + _TRIES]:
            # A command may be given many times; what came of it tells them apart.
            alone = number + skipped + 1 < len(new) and at + 1 < len(old)
            if alone and new[number + skipped + 1] != old[at + 1]:
                continue
            if best is None or skipped + at - place < best[0]:
                best = skipped + at - place, skipped, at
            break
    return None if best is None else best[1:]


def retold(matches: Sequence[int | None], old_roles: Sequence[str], new_roles: Sequence[str]) -> list[tuple[int, int]]:
    """`(old, new)` of the messages that stand at one place between two common ones, in other words.

    Only messages of one role are paired, from the front, until the roles differ.
    """
    anchors = [(-1, -1), *((at, number) for number, at in enumerate(matches) if at is not None)]
    anchors.append((len(old_roles), len(new_roles)))
    pairs = []
    for (old_from, new_from), (old_to, new_to) in pairwise(anchors):
        for at, number in zip(range(old_from + 1, old_to), range(new_from + 1, new_to), strict=False):
            if old_roles[at] != new_roles[number]:
                break
            pairs.append((at, number))
    return pairs
