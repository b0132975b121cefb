"""Overrides: whatever can be written in YAML comes through, and nothing else is touched."""

import copy

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from erecap.config.overrides import apply_overrides, parse_override
from erecap.errors import ConfigError

words = st.from_regex(r"[a-z_][a-z0-9_-]{0,8}", fullmatch=True)
keys = st.lists(words, min_size=1, max_size=4)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=5
)


@given(keys, values)
def test_what_is_written_is_read(path, value):
    written = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True)
    assert parse_override(".".join(path) + "=" + written) == (path, yaml.safe_load(written))


@given(st.dictionaries(words, st.integers() | st.dictionaries(words, st.integers(), max_size=3), max_size=4), keys)
def test_only_the_named_key_changes(before, path):
    original = copy.deepcopy(before)
    try:
        after = apply_overrides(before, [".".join(path) + "=7"])
    except ConfigError as error:
        assert "no keys below it" in str(error)
        after = None
    assert before == original
    if after is not None:
        inside = after
        for part in path:
            inside = inside[part]
        assert inside == 7
        assert {k: v for k, v in after.items() if k != path[0]} == {k: v for k, v in before.items() if k != path[0]}


@given(st.text(max_size=40))
def test_any_text_is_an_override_or_a_config_error(text):
    try:
        path, _ = parse_override(text)
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert ".".join(path) == text.partition("=")[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [("a=", None), ("a=1", 1), ("a=x=y", "x=y"), ("a=prune[recency]", "prune[recency]"), ("a=[1, 2]", [1, 2])],
)
def test_values(text, value):
    assert parse_override(text) == (["a"], value)


def test_the_last_one_wins():
    assert apply_overrides({}, ["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": 3, "c": 2}}
