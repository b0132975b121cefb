"""The name of a model's KV cache is asked for in one place, since transformers has changed it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from erecap.models.cache_argument import CACHE, NAMES, given_cache

PACKAGE = Path(__file__).parents[2] / "erecap"


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_is_found_under_any_of_its_names(name: str) -> None:
    assert given_cache({"input_ids": 1, name: "the cache"}) == "the cache"
    assert given_cache({"input_ids": 1, name: None}) is None


def test_this_transformers_has_one_of_the_names() -> None:
    assert CACHE in NAMES


def test_no_code_names_the_cache_of_one_version() -> None:
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            named = getattr(node, "arg" if isinstance(node, ast.keyword) else "attr", None)
            if named in set(NAMES) - {"cache"}:  # that one is a name of ours, too
                wrong.append(f"{file.relative_to(PACKAGE)}:{node.lineno} {named}")
    assert not wrong, "\n".join(wrong)
