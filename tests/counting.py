"""Counters of work, for tests that do not depend on the machine's load."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import erecap

_TOP = Path(erecap.__file__).parent.parent
ROOTS = tuple(f"{_TOP / room}/" for room in ("erecap", "planners", "envs"))  # as a checkout has them


def lines_run(do: Callable[[], object]) -> int:
    """Lines of the project's own code that run in `do()`, in this thread; every pass of a loop counts."""
    count = 0

    def within(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return within

    def called(frame: FrameType, event: str, argument: Any) -> Any:
        return within if frame.f_code.co_filename.startswith(ROOTS) else None

    before = sys.gettrace()
    sys.settrace(called)
    try:
        do()
    finally:
        sys.settrace(before)
    return count


class CountedTokenizer:
    """A tokenizer that counts what it is asked.

    Attributes:
        texts: texts tokenised so far.
        characters: of them.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.texts = self.characters = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        given = [text] if isinstance(text, str) else list(text)
        self.texts += len(given)
        self.characters += sum(map(len, given))
        return self._tokenizer(text, *args, **kwargs)
