"""Observation masking: the oldest observations of a chat are blanked until it is short enough.

Commands, failures, plans, goals and the system message stay. Source of the idea: Lindenbauer et al., The complexity
trap (2025), arXiv:2508.21433, where old observations of software agents are replaced by a placeholder.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from erecap.protocols import Message

MARKER = "[removed]"  # stands where an observation was; short, since an episode has hundreds of them

CountTokens = Callable[[Sequence[Message]], int]
Place = tuple[int, int]  # number of a message, first character of an observation in it
_Spans = list[tuple[int, int]]


@dataclass(frozen=True)
class Masked:
    """A chat with observations blanked."""

    messages: list[Message]  # as many as were given
    masked: int  # observations blanked in this chat, those of `already` included
    tokens: int  # of `messages`, as counted
    places: frozenset[Place] = field(default=frozenset())  # which, in the messages as they were given


def mask_messages(
    messages: Sequence[Message], target_tokens: int, count: CountTokens, *, already: Collection[Place] = ()
) -> Masked:
    """Blank the oldest observations, as few as needed, until the chat has at most `target_tokens` tokens.

    What counts as an observation: the spans of a message's `observations` key; for messages without one, the whole
    content of every user message between the first and the newest message. Never blanked are the newest observation,
    one that overlaps a `protect` span, and one that is not longer than the marker.

    Args:
        messages: the chat; it is not changed.
        target_tokens: what the chat may take. If blanking everything is not enough, everything is blanked.
        count: tokens of a chat.
        already: observations to blank whether it is needed or not, as `Masked.places` of an earlier call named them.

    Returns:
        The chat with spans moved to where their text now stands. Masking it again with the same target changes
        nothing.
    """
    candidates = _candidates(messages)
    kept = set(already)
    first = [place for place in candidates if place[:2] in kept]
    rest = [place for place in candidates if place[:2] not in kept]

    def after(number: int) -> list[Message]:
        return _blank(messages, [*first, *rest[:number]])

    number = _fewest(len(rest), lambda some: count(after(some)) <= target_tokens)
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
    groups = [group for group in _exchanges(messages)[:-1] if not gone.issuperset(group)]
    groups = [group for group in groups if not any(_holds_protected(messages[number]) for number in group)]

    def without(number: int) -> list[Message]:
        out = gone.union(*groups[:number])
        return [message for index, message in enumerate(messages) if index not in out]

    number = _fewest(len(groups), lambda some: count(without(some)) <= target_tokens)
    return sorted(gone.union(*groups[:number]))


def _fewest(most: int, enough: Callable[[int], bool]) -> int:
    """The number from 0 to `most` that is enough while the one before it is not; `most` if none is."""
    return bisect_left(range(most), True, key=enough)


def _candidates(messages: Sequence[Message]) -> list[tuple[int, int, int]]:
    """`(message, start, end)` of the observations that may be blanked, oldest first."""
    users = [number for number, message in enumerate(messages) if message["role"] == "user"]
    found = []
    for number, message in enumerate(messages):
        spans = message.get("observations")
        if spans is None:
            inside = bool(users) and users[0] < number < len(messages) - 1 and message["role"] == "user"
            spans = [(0, len(message["content"]))] if inside else []
        found += [(number, start, end) for start, end in sorted(spans) if start < end]
    # In a chat whose observations are marked, the newest of them need not stand in the newest message.
    newest = max((place for place in found if "observations" in messages[place[0]]), default=None)
    return [
        (number, start, end)
        for number, start, end in found
        if (number, start, end) != newest
        and end - start > len(MARKER)
        and not any(low < end and start < high for low, high in messages[number].get("protect", ()))
    ]


def _exchanges(messages: Sequence[Message]) -> list[list[int]]:
    groups: list[list[int]] = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant" and (not groups or messages[number - 1]["role"] != "assistant"):
            groups.append([])
        if groups and message["role"] != "system":
            groups[-1].append(number)
    return groups


def _holds_protected(message: Message) -> bool:
    return any(start < end for start, end in message.get("protect", ()))


def _blank(messages: Sequence[Message], places: Sequence[tuple[int, int, int]]) -> list[Message]:
    by_message: dict[int, _Spans] = {}
    for number, start, end in places:
        by_message.setdefault(number, []).append((start, end))
    return [
        _blanked(message, sorted(by_message[number])) if number in by_message else message
        for number, message in enumerate(messages)
    ]


def _blanked(message: Message, spans: _Spans) -> Message:
    """`message` with the marker in place of each span; a copy, with its other spans moved along."""
    content, parts, done = message["content"], [], 0
    for start, end in spans:
        parts += [content[done:start], MARKER]
        done = end
    # A copy: other keys that a host put on the message stay.
    result: Message = {**message, "content": "".join([*parts, content[done:]])}
    for key in ("protect", "stale", "observations"):
        if key in message:
            own = [span for span in message[key] if not any(low < span[1] and span[0] < high for low, high in spans)]
            result[key] = [_moved(span, spans) for span in own]
    if "observations" not in message:
        result["observations"] = []  # all of it was one observation, and that is gone
    return result


def _moved(span: tuple[int, int], spans: _Spans) -> tuple[int, int]:
    shift = sum(len(MARKER) - (end - start) for start, end in spans if end <= span[0])
    return span[0] + shift, span[1] + shift
