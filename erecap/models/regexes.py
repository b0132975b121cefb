"""Regular expressions of somebody else's that are matched against names of modules, with bounded work.

Python's matcher tries every way to share a name among the repeats of an expression, and no time limit can stop it. So
what makes their number explode is refused: a repeat inside another one, alternatives inside a repeat, back references,
and more than a few repeats in a row.
"""

from __future__ import annotations

import re
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

LONGEST = 5_000  # characters
ROW = 5  # repeats that one name may have to be shared among
FEW = 10  # below this many times a repeat has few ways to match, such as `x?`
SHARE = 0.25  # of a repeat, that such a one counts
_REPEATS = frozenset({codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT})
_REFERENCES = frozenset({codes.GROUPREF, codes.GROUPREF_EXISTS})


def regex_problem(text: str) -> str | None:
    """Reason why `text` is not matched against names; None where it is."""
    if len(text) > LONGEST:
        return f"it has {len(text):,} characters; allowed: {LONGEST:,}"
    try:
        re.compile(text)
        repeats = _repeats(parser.parse(text), inside=False)
    except (re.error, OverflowError, RecursionError) as error:
        return f"it is no regular expression: {error}"
    except _Unbounded as found:
        return f"it has {found}, which may match for years; name the modules in a list instead"
    if repeats > ROW:
        return f"it has {repeats:g} repeats in a row, which may match for years; allowed: {ROW}"
    return None


class _Unbounded(Exception):
    """A part whose ways to match grow exponentially, in words."""


def _repeats(parsed: Any, inside: bool) -> float:
    """Number of repeats that can stand in a row in a parsed expression.

    Args:
        inside: the expression is repeated.
    """
    count = 0.0
    for code, value in parsed:
        if code in _REFERENCES and inside:
            raise _Unbounded("a back reference inside a repeat")
        if code is codes.BRANCH:
            if inside:
                raise _Unbounded("alternatives inside a repeat")
            count += max(_repeats(branch, inside) for branch in value[1])
        elif code in _REPEATS:
            least, most, body = value
            if inside and least != most:
                raise _Unbounded("a repeat inside a repeat")
            own = 0.0 if least == most else 1.0 if most >= FEW else SHARE
            count += own + _repeats(body, inside or most > 1)
        else:
            count += sum(_repeats(part, inside) for part in _parts(value))
    return count


def _parts(value: Any) -> list[Any]:
    """The expressions inside a group or a condition."""
    if isinstance(value, parser.SubPattern):
        return [value]
    return [part for part in value if isinstance(part, parser.SubPattern)] if isinstance(value, tuple) else []
