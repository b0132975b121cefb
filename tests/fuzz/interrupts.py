"""Exceptions planted at any line of a session's calls; what follows is compared with an oracle.

    python -m tests.fuzz.interrupts --count 2000 --seed 0

An operation runs under a trace that counts the lines of the package which it passes. Then it runs again, from the same
state, with an exception at one of these lines. Afterwards the session must answer as one that the operation was never
asked of, or as one that has done it: nothing between the two.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from linecache import getline
from pathlib import Path
from types import FrameType
from typing import Any

import erecap
from erecap.budget import Budget
from erecap.session import ReplanSession
from erecap.tokens import PruneConfig, hooks
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn

PACKAGE = str(Path(erecap.__file__).parent)
NEW = 5
PLAIN: dict[str, Any] = {}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "budget": {"budget": Budget(kv_tokens=130)},
    "pruned": {"prune": PruneConfig("recency", 0.8, (2, 5)), "budget": Budget(kv_tokens=150)},
    "retokenize": {"retokenize": True},
}


class Planted(KeyboardInterrupt):
    """The exception that is planted."""


class Trace:
    """Counts the lines of the package that are passed, and raises at one of them.

    Args:
        at: number of the line at which to raise; None: nowhere.
        error: what is raised.
    """

    def __init__(self, at: int | None = None, error: type[BaseException] = Planted) -> None:
        self.lines = 0
        self.where = ""
        self._at, self._error = at, error

    def __enter__(self) -> Trace:
        sys.settrace(self._call)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        # Leaving a `with` block is traced as its line once more, before its lock is released. No signal comes there.
        if event == "line" and not getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with "):
            self.lines += 1
            if self.lines == self._at:
                self.where = f"{Path(frame.f_code.co_filename).relative_to(PACKAGE)}:{frame.f_lineno}"
                sys.settrace(None)
                raise self._error("planted")
        return self._line


@dataclass
class Play:
    """A session, the chat that it has read, and a folder for its files."""

    session: ReplanSession
    messages: list[dict]
    folder: Path

    def fork(self) -> Play:
        """A play that goes on alone."""
        return Play(self.session.fork(), list(self.messages), self.folder)


def prepared(kind: str, folder: Path) -> Play:
    """A session of that kind in the middle of an episode: with a correction, and an answer that is not read whole."""
    session, messages = ReplanSession(model(), byte_level(), **OPTIONS[kind]), start()
    session.append(messages)
    for number in range(2):
        session.generate(max_new_tokens=NEW)
        session.append(turn("look", number))
        messages += turn("look", number)
    session.correct("The mug is gone.")
    session.generate(max_new_tokens=NEW)
    return Play(session, messages, folder)


OPERATIONS: dict[str, Callable[[Play], object]] = {
    "generate": lambda play: play.session.generate([*play.messages, *turn("look", 7)], max_new_tokens=NEW),
    "generate again": lambda play: play.session.generate(max_new_tokens=NEW),
    "append": lambda play: play.session.append(turn("look", 7)),
    "read": lambda play: play.session.read([*play.messages, *turn("look", 7)]),
    "rewritten": lambda play: play.session.read([*play.messages[:3], *turn("look", 7)]),
    "correct": lambda play: play.session.correct("The shelf 2 is empty."),
    "forget": lambda play: play.session.forget((25, 40)),
    "splice": lambda play: play.session.splice((25, 40)),
    "evict": lambda play: play.session.evict((25, 40)),
    "still valid": lambda play: play.session.still_valid("go to shelf 2"),
    "fork": lambda play: play.session.fork(play.messages[:3]),
    "save": lambda play: play.session.save(play.folder / "a.safetensors"),
    "close": lambda play: play.session.close(),
}


def later(play: Play) -> list[Any]:
    """Answers and tokens of a session in the calls after the one that was broken off."""
    messages, seen = [*play.messages, *turn("wait", 8)], list[Any]()
    seen.append(play.session.generate(messages, max_new_tokens=NEW).text)
    play.session.correct("The apple is red.")
    messages += turn("look", 9)
    seen.append(play.session.generate(messages, max_new_tokens=NEW).text)
    play.session.read([*messages, *turn("open", 3)])  # no answer of its own is left
    return [*seen, play.session.token_ids]


def consistent(session: ReplanSession) -> str | None:
    """Return what contradicts itself in a session between two calls; None: nothing does."""
    cache, transcript = session.cache, session.conversation.transcript
    if cache.reading is not None:
        return "a read is in progress"
    if cache.get_seq_length() != transcript.tokens:
        return f"the cache has read {cache.get_seq_length()} tokens, the transcript {transcript.tokens}"
    places: dict[int, int] = {}
    for number, layer in enumerate(cache.layers):
        layout = cache.layout(number)
        if layout.width != layer.length:
            return f"layer {number} stores {layer.length} tokens, its layout says {layout.width}"
        for place, position in zip(layout.index[0].tolist(), layout.positions[0].tolist(), strict=True):
            if places.setdefault(place, position) != position:
                return f"token {place} has two positions"
    if places and max(places.values()) >= session.engine.next_position:
        return "the next position is taken"
    return None


def leftovers() -> int:
    """Hooks of the package that are on the model."""
    found = [
        hook
        for module in model().modules()
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    ]
    return sum(getattr(hook, "__module__", "") == hooks.__name__ for hook in found)


def broken_off(kind: str, name: str, count: int, seed: int, errors: Sequence[type[BaseException]] = (Planted,)) -> int:
    """Break one operation off at `count` of its lines, chosen at random; all of them where it has no more.

    Returns:
        Lines that were tried.

    Raises:
        AssertionError: what followed was neither of the two answers; names the line.
    """
    chosen = random.Random(f"{seed} {kind} {name}")
    with tempfile.TemporaryDirectory() as folder:
        base = prepared(kind, Path(folder))
        without = later(base.fork())
        done = base.fork()
        with Trace() as trace:
            OPERATIONS[name](done)
        wanted = [without, later(done)]
        lines = range(1, trace.lines + 1)
        for line in lines if len(lines) <= count else sorted(chosen.sample(lines, count)):
            play = base.fork()
            with Trace(line, chosen.choice(errors)) as planted:
                try:
                    OPERATIONS[name](play)
                except errors:
                    pass
            where = f"{kind}, {name}, line {line} ({planted.where})"
            play.session.evict((0, 0))  # any call finishes what was left undone
            problem = consistent(play.session)
            assert problem is None, f"{where}: {problem}"
            found = later(play)
            right = found in wanted
            if kind == "retokenize" or name == "forget":
                # What was read again may stand before a correction instead of behind it; nothing is lost or doubled.
                right = right or any(sorted(found[-1]) == sorted(one[-1]) for one in wanted)
            assert right or _half(kind, name), f"{where}: {found} is neither of {wanted}"
            assert consistent(play.session) is None, f"{where}: afterwards {consistent(play.session)}"
            assert leftovers() == 0, f"{where}: {leftovers()} hooks are left on the model"
    return min(count, len(lines))


def _half(kind: str, name: str) -> bool:
    """True where the policy may differ after half of an operation: under a budget it evicts at other moments."""
    return kind in ("budget", "pruned") or name == "close"


def main(arguments: Sequence[str] | None = None) -> None:
    """Break all operations off, and print one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="lines of each operation and kind of session")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    tried = sum(broken_off(kind, name, given.count, given.seed) for kind in OPTIONS for name in OPERATIONS)
    print(f"{tried} interrupts in {len(OPTIONS) * len(OPERATIONS)} operations: 0 wrong answers, 0 hooks left")


if __name__ == "__main__":
    main()
