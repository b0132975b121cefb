"""Words of commands: as they are shown again, and the names that they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST_CHARACTERS = 100  # of a command that is shown again


def plain(text: str) -> str:
    """A command without doubled spaces and its full stop; short and in ASCII, since it is shown again."""
    return " ".join(text.split()).rstrip(". ")[:MOST_CHARACTERS].encode("ascii", "replace").decode()


def with_article(words: str) -> str:
    """Words with "a" or "an".

    >>> with_article("arm chair"), with_article("cup")
    ('an arm chair', 'a cup')
    """
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def find_name(text: str, names: Iterable[str]) -> str:
    """The name that a planner's words mean: exactly, or but for capitals and articles; else the words themselves.

    >>> find_name("the Table 1", ["table 1", "a"]), find_name("a", ["table 1", "a"])
    ('table 1', 'a')
    """
    known = {name.casefold(): name for name in names}
    bare = " ".join(re.sub(r"\b(the|a|an)\b", " ", text, flags=re.IGNORECASE).split())
    return known.get(text.casefold()) or known.get(bare.casefold()) or text
