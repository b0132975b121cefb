"""Record-level compaction: make a chat fit a target, record by record, the least valuable first.

In rounds, each from the oldest record to the newest, and no further than the target asks for:

0. with `thinking_first`, the thinking in answers goes;
1. text that something newer has overwritten (`stale` spans, such as an older sight of a room) goes;
2. exchange by exchange (a plan with what came of it): its observations go, a marker stays in place of each, and then
   all of it goes, before a newer observation does.

Nothing is rewritten: a record stays as it was told, or goes whole. Protected text, the system message, the first user
message, the newest observation and the newest exchange stay byte for byte. Failures and commands stay as long as their
exchange. Messages keep their roles, tool calls stay together with their results, and content that is JSON stays JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from erecap.context.compaction.mask import (
    JSON_MARKER,
    MARKER,
    CountTokens,
    exchanges,
    fewest,
    marker_for,
    observations,
)
from erecap.context.compaction.spans import Edit, rewrite
from erecap.context.protection import protected_spans
from erecap.context.thinking import thinking_spans
from erecap.generation import Message

Rank = Callable[[str], float]
_Step = Edit | tuple[int, ...]  # an edit, or the numbers of messages that go


@dataclass(frozen=True)
class Compacted:
    """A chat that was made shorter, and the edits that it took."""

    messages: list[Message]
    tokens: int  # of `messages`, as counted
    before: int  # tokens of the chat that was given
    edited: int = 0  # records that went; a marker stands for an observation
    dropped: tuple[int, ...] = ()  # numbers of the given messages that were left out
    reason: str = "it fits"


def compact_messages(
    messages: Sequence[Message],
    target_tokens: int,
    count: CountTokens,
    *,
    rank: Rank | None = None,
    thinking_first: bool = False,
) -> Compacted:
    """Make a chat fit `target_tokens` with the fewest records touched: one less would not have been enough.

    A chat that fits is returned as it is; so is the result when it is compacted again with the same target.

    Args:
        messages: a chat in the shape of the OpenAI API. Spans in `protect`, `stale` and `observations` mark its
            parts; without them the rules of `erecap.context.protection` and `mask_messages` hold. It is not changed.
        target_tokens: most tokens of the result. If the rest is protected, the result has more, and `reason` says so.
        count: tokens of a chat.
        rank: importance score of an observation's text; the lowest goes first, and of ties the oldest. An example
            is the score of a small local model. An exchange has the score of its best observation. None: all scores
            are equal.
        thinking_first: the thinking in answers (`Message.thoughts`) goes before anything else, but that of the newest
            exchange. Without it answers stay as they were told.

    Raises:
        ValueError: a target below 1.
    """
    if target_tokens < 1:
        raise ValueError(f"target_tokens: got {target_tokens}; allowed: 1 or more")
    before = count(messages)
    if before <= target_tokens:
        return Compacted(list(messages), before, before)
    steps = compaction_steps(messages, rank, count, thinking_first)
    number = fewest(len(steps), lambda some: count(chat_after(messages, steps[:some])) <= target_tokens)
    done = steps[:number]
    result = chat_after(messages, done)
    tokens = count(result)
    edited = len({step[:3] for step in done if isinstance(step, Edit)})
    dropped = tuple(sorted(number for step in done if not isinstance(step, Edit) for number in step))
    met = tokens <= target_tokens
    reason = f"{edited} records removed, {len(dropped)} messages left out"
    return Compacted(result, tokens, before, edited, dropped, reason if met else f"{reason}; the rest is protected")


def compaction_steps(
    messages: Sequence[Message], rank: Rank | None, count: CountTokens, thinking_first: bool = False
) -> list[_Step]:
    """All possible edits, in the order in which they are made."""

    def tokens(text: str) -> int:
        return count([{"role": "user", "content": text}])

    kept = protected_spans(messages)
    # A marker that takes as many tokens as what it stands for would say less and save nothing.
    marker = tokens(JSON_MARKER)
    stale = []
    for edit in _stale(messages, kept):
        empties = chat_after(messages, [edit])[edit.message]["content"] in (MARKER, JSON_MARKER)
        if not empties or tokens(messages[edit.message]["content"]) > marker:
            stale.append(edit)
    gone = [*kept, *(edit[:3] for edit in stale)]
    seen = [place for place in observations(messages) if not _overlaps(place, gone)]

    def text(place: tuple[int, int, int]) -> str:
        return messages[place[0]]["content"][place[1] : place[2]]

    worth = {place: rank(text(place)) if rank else 0.0 for place in seen}
    seen.sort(key=lambda place: (worth[place], place))
    marked = [Edit(*place, marker_for(text(place))) for place in seen]
    holding = {number for number, _, _ in kept}
    whole = [tuple(group) for group in exchanges(messages)[:-1] if holding.isdisjoint(group)]
    shorter = [edit for edit in marked if tokens(text(edit[:3])) > marker]
    thoughts = _thoughts(messages, kept) if thinking_first else []
    return [*thoughts, *stale, *_by_exchange(shorter, whole, worth)]


def _by_exchange(
    marked: Sequence[Edit], whole: Sequence[tuple[int, ...]], worth: Mapping[tuple[int, int, int], float]
) -> list[_Step]:
    """Exchange by exchange: what was seen in it, then all of it. What was seen outside of them is one by itself."""
    least = min(worth.values(), default=0.0)
    owner = {number: group for group in whole for number in group}
    # Where no observation is left, no score is higher.
    best: dict[tuple[int, ...], float] = dict.fromkeys(whole, least)
    for (number, _, _), value in worth.items():
        group = owner.get(number, (number,))
        best[group] = max(best.get(group, least), value)
    parts: dict[tuple[int, ...], list[_Step]] = {group: [] for group in best}
    for edit in marked:
        parts[owner.get(edit.message, (edit.message,))].append(edit)
    for group in whole:
        parts[group].append(group)
    return [step for group in sorted(best, key=lambda group: (best[group], group)) for step in parts[group]]


def chat_after(messages: Sequence[Message], steps: Sequence[_Step]) -> list[Message]:
    out = {number for step in steps if not isinstance(step, Edit) for number in step}
    # Of two edits of one place the later one holds.
    edits = {step[:3]: step for step in steps if isinstance(step, Edit) and step.message not in out}
    joined = [edit for edit in edits.values() if edit.text] + _whole_lines(
        messages, [edit for edit in edits.values() if not edit.text]
    )
    changed, touched = rewrite(messages, joined, still_observed=True), {edit.message for edit in joined}
    return [
        _never_empty(message, messages[number]) if number in touched else message
        for number, message in enumerate(changed)
        if number not in out
    ]


def _thoughts(messages: Sequence[Message], kept: Sequence[tuple[int, int, int]]) -> list[Edit]:
    """Thinking that may go, oldest first, each with the blanks behind it."""
    groups = exchanges(messages)
    newest = set(groups[-1]) if groups else set()
    found = []
    for number, message in enumerate(messages):
        for start, end in thinking_spans(message) if number not in newest else ():
            content = message["content"]
            end += len(content[end:]) - len(content[end:].lstrip())
            if not _overlaps((number, start, end), kept):
                found.append(Edit(number, start, end, ""))
    return found


def _stale(messages: Sequence[Message], kept: Sequence[tuple[int, int, int]]) -> list[Edit]:
    """Stale spans that may go. Answers stay as they are: a model that reads blanked answers of its own writes such.

    Where they leave nothing of a message, they go in one step, since a marker comes in their place.
    """
    found: list[Edit] = []
    for number, message in enumerate(messages):
        if message["role"] not in ("user", "tool"):
            continue
        spans = [(start, end) for start, end in sorted(message.get("stale", ())) if start < end]
        own = [Edit(number, start, end, "") for start, end in spans if not _overlaps((number, start, end), kept)]
        whole = [Edit(number, 0, len(message["content"]), "")]
        leaves = chat_after([message], [Edit(0, edit.start, edit.end, "") for edit in own])[0]["content"] if own else ""
        found += whole if len(own) > 1 and leaves == marker_for(message["content"]) else own
    return found


def _whole_lines(messages: Sequence[Message], edits: Sequence[Edit]) -> list[Edit]:
    """Where all of a line goes, its line break goes, too, unless it is protected."""
    result: list[Edit] = []
    for edit in sorted(edits):
        message, start, end = messages[edit.message], edit.start, edit.end
        content = message["content"]
        begins = start == 0 or content[start - 1] == "\n"
        if begins and content[end : end + 1] == "\n":
            end += not _is_protected(message, end)
        elif begins and end == len(content) and start > 0:
            start -= not _is_protected(message, start - 1)
        if result and result[-1].message == edit.message and start < result[-1].end:
            start = result[-1].end  # the break between two of them is removed already
            if end == len(content):
                _take_break_before(result, message)
        result.append(Edit(edit.message, start, end, ""))
    return result


def _take_break_before(edits: list[Edit], message: Message) -> None:
    """Where a message ends with lines that go, the break before the first of them goes, too."""
    first = len(edits) - 1
    while first and edits[first - 1].message == edits[first].message and edits[first - 1].end == edits[first].start:
        first -= 1
    number, start, end, _ = edits[first]
    if start and message["content"][start - 1] == "\n" and not _is_protected(message, start - 1):
        edits[first] = Edit(number, start - 1, end, "")


def _is_protected(message: Message, place: int) -> bool:
    """Return True if a `protect` span of `message` has the character at `place`."""
    return any(start <= place < end for start, end in message.get("protect", ()))


def _never_empty(message: Message, before: Message) -> Message:
    """`message`, of which `before` was made. Most servers refuse one without text, unless it calls tools."""
    if message["content"] == "" and not message.get("tool_calls"):
        return {**message, "content": marker_for(before["content"])}
    return message


def _overlaps(place: tuple[int, int, int], others: Sequence[tuple[int, int, int]]) -> bool:
    return any(place[0] == number and start < place[2] and place[1] < end for number, start, end in others)
