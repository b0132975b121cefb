"""Makes textworld's grammar quick: it parses each rule and query once, and copies no more than it changes.

textworld parses the same few rules anew whenever a sentence is derived, and copies all entities that a rule speaks of,
though nothing writes into them. These take most of the time of a command.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from typing import Any
from unittest.mock import patch

from textworld.envs.pddl import textgen
from textworld.logic import Rule

_parse_symbols = lru_cache(maxsize=1024)(textgen._parse_and_convert)
_parse_query = lru_cache(maxsize=1024)(Rule.parse_conjunctive_query)


def _symbols(*args: Any, **kwargs: Any) -> Any:
    return deepcopy(_parse_symbols(*args, **kwargs))  # a derivation writes its context into them


def _context(context: dict[str, Any]) -> dict[str, Any]:
    """A context that can get further variables without changing this one."""
    return {**context, "variables": dict(context["variables"]), "mapping": dict(context["mapping"])}


@contextmanager
def quick_grammar() -> Iterator[None]:
    """Within, sentences are derived quickly, with the same words. Not for use from several threads at once."""
    with (
        patch.object(textgen, "copy_context", _context),
        patch.object(textgen, "_parse_and_convert", _symbols),
        patch.object(Rule, "parse_conjunctive_query", _parse_query),
    ):
        yield
