"""Steps that an interrupt must not leave half done."""

from __future__ import annotations

from collections.abc import Callable


def to_the_end(step: Callable[[], None]) -> None:
    """Run `step`; where an exception breaks it off, finish it first and then raise that.

    Layers then never differ in what an edit has done to them. For steps that may be run again from any point of
    themselves. A second exception is raised as it is.
    """
    try:
        step()
    except BaseException:
        step()
        raise
