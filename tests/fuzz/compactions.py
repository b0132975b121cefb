"""Random chats and growing strings, compacted: nothing is rewritten, and budgets hold wherever they can.

    python -m tests.fuzz.compactions --count 20000 --seed 0

prints one line of figures. A case is a chat that is compacted once, a chat that grows and is told anew in one of many
ways, or a prompt string that grows in one of many chat formats. What is checked uses the code under test only to name
which text is protected.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from erecap.context.compaction import MARKER, Shown, compact_messages
from erecap.context.compaction.mask import exchanges
from erecap.context.compaction.spans import KEYS
from erecap.context.compaction.view import MIN_GAIN
from erecap.context.lines import PATTERNS, LinePatterns
from erecap.context.protection import protected_spans
from erecap.wrapping.conversations import Conversations
from erecap.wrapping.token_counting import TokenCounter
from tests.fuzz import tellings
from tests.wrapping.test_prompt_formats import UNKNOWN

Chat = list[dict[str, Any]]
MARKERS = (MARKER, f'"{MARKER}"')
PATTERN_CHOICES: tuple[LinePatterns | None, ...] = (None, None, *PATTERNS.values())


@dataclass
class Report:
    """The figures of a run."""

    cases: Counter[str] = field(default_factory=Counter)
    compactions: int = 0
    calls: int = 0
    full: int = 0  # of the compactions: those whose protected text alone exceeded the budget


def words(messages: Sequence[Any]) -> int:
    """Words of a chat, and three a message."""
    return sum(3 + len((message["content"] or "").split()) for message in messages)


def made_of(before: Sequence[Any], after: Sequence[Any], dropped: Sequence[int]) -> None:
    """Check that `after` is `before` without the messages numbered `dropped`, and without whole lines or records."""
    kept = [message for number, message in enumerate(before) if number not in dropped]
    assert len(kept) == len(after), f"{len(after)} messages are shown of {len(kept)}"
    for own, shown in zip(kept, after, strict=True):
        assert _besides(shown).items() >= _besides(own).items(), f"{own} became {shown}"
        if shown["content"] == own["content"]:
            continue
        place, lines = 0, own["content"].split("\n")
        for line in _without_spans(own, shown):
            if line.strip() in MARKERS:  # ours, or one that the host told
                continue
            assert line in lines[place:], f"{line!r} is no line of {own['content']!r}"
            place += lines[place:].index(line) + 1
        if own["content"].lstrip()[:1] in ("{", "[") and _json(own["content"]) is not None:  # single values are prose
            told = _json(shown["content"])
            assert told in (_json(own["content"]), MARKER) or own.get("observations") or own.get("stale"), (
                f"{own['content']!r} is no JSON any more: {shown['content']!r}"
            )


def _besides(message: Any) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key not in (*KEYS, "content")}


def _without_spans(own: Any, shown: Any) -> list[str]:
    """The lines of a message; where a host marked parts of lines, pieces of them are told apart instead."""
    if not own.get("observations") and not own.get("stale"):
        return shown["content"].split("\n")
    place = 0
    for piece in shown["content"].split(MARKER):
        for line in piece.strip('"').split("\n"):
            found = _subsequence(line, own["content"], place)
            assert found >= 0, f"{line!r} is not told in {own['content']!r}"
            place = found
    return []


def _subsequence(line: str, content: str, place: int) -> int:
    """Where the characters of `line` end in `content`, in order, from `place` on; -1: they are not there."""
    for letter in line:
        place = content.find(letter, place) + 1
        if not place:
            return -1
    return place


def _json(content: str) -> Any:
    """The value that a text is in JSON; None: it is none."""
    try:
        return json.loads(content)
    except ValueError:
        return None


def protected_stay(before: Sequence[Any], after: Sequence[Any]) -> None:
    """Check that protected text is there byte for byte, in order."""
    said, place = [message["content"] or "" for message in after], 0
    for number, start, end in protected_spans(before):
        piece = before[number]["content"][start:end]
        found = next((at for at in range(place, len(said)) if piece in said[at]), None)
        assert found is not None, f"protected text is gone: {piece!r}"
        place = found


def least(messages: Sequence[Any], count: Callable[[Sequence[Any]], int]) -> int:
    """Tokens of what must stay: all but the exchanges that hold nothing protected, the newest one excepted."""
    holding = {number for number, _, _ in protected_spans(messages)}
    out = {number for group in exchanges(messages)[:-1] if holding.isdisjoint(group) for number in group}
    return count([message for number, message in enumerate(messages) if number not in out])


def tools_together(before: Sequence[Any], after: Sequence[Any]) -> None:
    """Check that of a tool's call and its result both stay, or none does."""
    both = [called & results for called, results in (_tools(before), _tools(after))]
    called, results = _tools(after)
    assert both[1] == (called | results) & both[0], f"called {called}, answered {results}"


def _tools(messages: Sequence[Any]) -> tuple[set[str], set[str]]:
    """Ids of the tools that are called, and of those that answer."""
    called = {call["id"] for message in messages for call in message.get("tool_calls") or ()}
    return called, {message["tool_call_id"] for message in messages if message["role"] == "tool"}


def once(draw: random.Random, report: Report) -> None:
    """A chat that is compacted once, and then again."""
    messages = tellings.chat(draw, draw.randrange(14), marked=draw.random() < 0.5)
    count: Callable[[Sequence[Any]], int] = draw.choice((words, TokenCounter().chat))
    rank = draw.choice((None, len, lambda told: -len(told), lambda told: float(sum(map(ord, told)) % 7)))
    target = draw.randint(1, max(2, count(messages)))
    result = compact_messages(messages, target, count, rank=rank)
    assert result.tokens == count(result.messages) <= result.before == count(messages)
    made_of(messages, result.messages, result.dropped)
    protected_stay(messages, result.messages)
    tools_together(messages, result.messages)
    for message in result.messages:
        for key in KEYS:
            assert all(0 <= a <= b <= len(message["content"]) for a, b in message.get(key, ())), f"{key}: {message}"
    again = compact_messages(result.messages, target, count, rank=rank)
    assert again.messages == result.messages, f"compacted again: {again.messages}"
    must = least(messages, count)
    assert result.tokens <= max(target, must), f"{result.tokens} tokens; {must} have to stay, {target} are allowed"
    report.compactions += result.tokens < result.before
    report.full += result.tokens > target


def growing_chat(draw: random.Random, report: Report) -> None:
    """A chat that grows, and that its host may tell anew at every call."""
    counter = TokenCounter()
    room, host = draw.randint(100, 1600), draw.choice(tellings.HOSTS)
    patterns = draw.choice(PATTERN_CHOICES)
    talks = Conversations(counter.chat, counter.text, max_tokens=room, patterns=patterns)
    story, marked = tellings.chat(draw, 1), draw.random() < 0.2
    before: Shown | None = None
    for call in range(draw.randint(4, 20)):
        told = host([*story], call)
        shown = talks.show_chat(told, room)  # type: ignore[arg-type]
        made_of(told, shown.messages, shown.dropped)
        tools_together(told, shown.messages)
        assert shown.messages[-1]["content"] == told[-1]["content"] or marked, "the newest message was changed"
        assert shown.tokens == counter.chat(shown.messages) and shown.before == counter.chat(told)  # type: ignore[arg-type]
        _within(shown, room, least(told, counter.chat), report)
        if before is not None and host is tellings.as_it_is and not shown.compacted:
            front = [said["content"] for said in before.messages[:-1]]
            assert [said["content"] for said in shown.messages[: len(front)]] == front, "the front was changed"
        before = shown
        story += tellings.exchange(draw, call + 1, marked=marked)
        report.calls += 1


def growing_string(draw: random.Random, report: Report) -> None:
    """A prompt string that grows, in one of many formats."""
    counter, room = TokenCounter(), draw.randint(80, 900)
    name, before, after = tellings.turn_marks(draw)
    patterns = draw.choice(PATTERN_CHOICES) if not name else None
    talks = Conversations(counter.chat, counter.text, max_tokens=room, patterns=patterns)
    head = f"Rules.{before}{tellings.told_in_a_string(draw, 0)}{after}"
    prompt, told = head, {}
    last = ""

    def texts(messages: Sequence[Any]) -> int:
        return sum(counter.text(said["content"]) for said in messages)

    for step in range(1, draw.randint(5, 24)):
        shown, view, talk = talks.show_prompt(prompt, room)
        assert shown.startswith(head) and shown.endswith(prompt[-30:]), "head or end of the string are gone"
        assert shown.endswith(last), "the newest exchange was changed"
        if name:
            for turn in shown[len(head) :].split(after)[:-1]:
                answer, _, seen = turn.partition(before)
                assert seen == told[answer] or seen.strip() == MARKER, f"a turn was cut: {turn!r}"
        else:
            _lines_of(shown, prompt)
        assert MARKER not in shown or name not in UNKNOWN, "cut between tags that nobody knows"
        _within(view, room, least(talk.read(prompt), texts), report)
        answer = f"go {step}"
        talk.answer = answer if draw.random() < 0.9 else ""
        told[answer] = tellings.told_in_a_string(draw, step)
        last = f"{answer}{before}{told[answer]}{after}"
        prompt += last
        report.calls += 1


def _lines_of(shown: str, prompt: str) -> None:
    """Check that the shown string is made of the prompt's lines, in order, and of markers."""
    place, lines = 0, prompt.split("\n")
    for line in shown.split("\n"):
        if MARKER not in line:
            assert line in lines[place:], f"{line!r} is no line of the prompt"
            place += lines[place:].index(line) + 1


def _within(shown: Shown, room: int, must: int, report: Report) -> None:
    """Check that the budget holds where it can."""
    most = room if must <= room else must / (1 - MIN_GAIN)  # beyond the budget, small gains do not change the front
    assert shown.tokens <= most, f"{shown.tokens} tokens; {must} have to stay, {room} are allowed"
    report.compactions += shown.compacted
    report.full += shown.compacted and shown.tokens > room


CASES: dict[str, Callable[[random.Random, Report], None]] = {
    "chats": once, "growing chats": growing_chat, "growing strings": growing_string,
}  # fmt: skip


def run(count: int, seed: int) -> str:
    """Play cases until `count` compactions were made; one line of figures. Raises AssertionError with the case."""
    started, report, number = time.perf_counter(), Report(), 0
    while report.compactions < count:
        draw = random.Random(f"{seed} {number}")
        kind = draw.choice(list(CASES))
        try:
            CASES[kind](draw, report)
        except Exception as error:
            error.add_note(f"seed {seed}, case {number} of `run`, one of the {kind}")
            raise
        report.cases[kind] += 1
        number += 1
    kinds = ", ".join(f"{report.cases[kind]} {kind}" for kind in CASES)
    return (
        f"{report.compactions} compactions in {kinds} with {report.calls} calls; {report.full} of them could not reach "
        f"the budget, {time.perf_counter() - started:.0f} s"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Play cases, and print one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=1000, help="compactions")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    print(run(given.count, given.seed))


if __name__ == "__main__":
    main()
