"""Observation masking: the oldest observations of a chat are blanked until it is short enough.

Commands, failures, plans, goals and the system message stay. Source of the idea: Lindenbauer et al., The complexity
trap (2025), arXiv:2508.21433, where old observations of software agents are replaced by a placeholder.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from erecap.context.compaction.spans import Edit, rewrite
from erecap.generation import Message

MARKER = "[removed]"  # stands where an observation was; short, since an episode has hundreds of them

JSON_MARKER = f'"{MARKER}"'  # the same in content that is JSON

CountTokens = Callable[[Sequence[Message]], int]
Place = tuple[int, int]  # number of a message, first character of an observation in it


@dataclass(frozen=True)
class Masked:
    """A chat with observations blanked."""

    messages: list[Message]  # as many as were given
    masked: int  # observations blanked in this chat, those of `already` included
    tokens: int  # of `messages`, as counted
    places: frozenset[Place] = field(default=frozenset())  # which, in the messages as they were given


def mask_messages(
    messages: Sequence[Message], target_tokens: int | None, count: CountTokens, *, already: Collection[Place] = ()
) -> Masked:
    """Blank the oldest observations, as few as needed, until the chat has at most `target_tokens` tokens.

    What counts as an observation: the spans of a message's `observations` key; for messages without one, the whole
    content of every message of the user or of a tool between the first user message and the newest message. Never
    blanked are the newest observation, one that overlaps a `protect` span, and one that is not longer than the marker.

    Args:
        messages: the chat; it is not changed.
        target_tokens: most tokens of the chat. If blanking everything is not enough, everything is blanked. None: as
            much as it takes, so that only `already` is blanked.
        count: tokens of a chat.
        already: observations to blank whether it is needed or not, as `Masked.places` of an earlier call named them.

    Returns:
        The chat with spans moved to where their text now stands. Masking it again with the same target changes
        nothing.
    """
    candidates = observations(messages)
    kept = set(already)
    first = [place for place in candidates if place[:2] in kept]
    rest = [place for place in candidates if place[:2] not in kept]

    def after(number: int) -> list[Message]:
        return rewrite(messages, [Edit(*place, MARKER) for place in [*first, *rest[:number]]])

    number = 0 if target_tokens is None else fewest(len(rest), lambda some: count(after(some)) <= target_tokens)
    result = after(number)
    places = frozenset(place[:2] for place in [*first, *rest[:number]])
    return Masked(result, len(places), count(result), places)


def drop_exchanges(
    messages: Sequence[Message], target_tokens: int, count: CountTokens, *, already: Collection[int] = ()
) -> list[int]:
    """Numbers of the messages that go when masking is not enough: the oldest plans with what came of them.

    An exchange is an assistant message and the messages after it, up to the next one of the assistant; leaving
    out whole exchanges keeps roles alternating. System messages, what comes before the first exchange, the newest
    exchange, and exchanges that hold protected text stay, so the target may be missed.

    Args:
        messages: the chat.
        target_tokens: what is left may take.
        count: tokens of a chat.
        already: messages left out by earlier calls; they stay out.

    Returns:
        Sorted numbers of all messages left out, `already` included.
    """
    gone = set(already)
    groups = [group for group in exchanges(messages)[:-1] if not gone.issuperset(group)]
    groups = [group for group in groups if not any(holds_protected(messages[number]) for number in group)]

    def without(number: int) -> list[Message]:
        out = gone.union(*groups[:number])
        return [message for index, message in enumerate(messages) if index not in out]

    number = fewest(len(groups), lambda some: count(without(some)) <= target_tokens)
    return sorted(gone.union(*groups[:number]))


def marker_for(text: str) -> str:
    """The marker to put in place of `text`: content that is JSON stays JSON. Single values count as prose."""
    if text.lstrip()[:1] not in ("{", "["):
        return MARKER
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return MARKER
    return JSON_MARKER


def fewest(most: int, enough: Callable[[int], bool]) -> int:
    """The number from 0 to `most` that is enough while the one before it is not; `most` if none is."""
    return bisect_left(range(most), True, key=enough)


def observations(messages: Sequence[Message]) -> list[tuple[int, int, int]]:
    """`(message, start, end)` of the observations that may be blanked, oldest first."""
    users = [number for number, message in enumerate(messages) if message["role"] == "user"]
    found = []
    for number, message in enumerate(messages):
        spans = message.get("observations")
        if spans is None:
            inside = bool(users) and users[0] < number < len(messages) - 1 and message["role"] in ("user", "tool")
            spans = [(0, len(message["content"]))] if inside and isinstance(message["content"], str) else []
        found += [(number, start, end) for start, end in sorted(spans) if start < end]
    # In a chat whose observations are marked, the newest of them need not stand in the newest message.
    # A marker of an earlier call is none.
    told = [(number, start, end) for number, start, end in found if "observations" in messages[number]]
    newest = max((place for place in told if _text(messages, place) not in (MARKER, JSON_MARKER)), default=None)
    return [
        (number, start, end)
        for number, start, end in found
        if (number, start, end) != newest
        and end - start > len(MARKER)
        and not any(low < end and start < high for low, high in messages[number].get("protect", ()))
    ]


def _text(messages: Sequence[Message], place: tuple[int, int, int]) -> str:
    return messages[place[0]]["content"][place[1] : place[2]]


def exchanges(messages: Sequence[Message]) -> list[list[int]]:
    """Numbers of the messages of each exchange, oldest first. A tool call and its result are in the same one."""
    groups: list[list[int]] = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant" and (not groups or messages[number - 1]["role"] != "assistant"):
            groups.append([])
        if groups and message["role"] != "system":
            groups[-1].append(number)
    return groups


def holds_protected(message: Message) -> bool:
    """Return True if a `protect` span of `message` has any text."""
    return any(start < end for start, end in message.get("protect", ()))
