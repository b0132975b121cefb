"""Modes have one name each."""

import subprocess
import sys

import pytest

from erecap.config import Mode, parse_mode
from erecap.config.modes import mode_names


@pytest.mark.parametrize("name", mode_names())
def test_names_round_trip(name):
    assert str(parse_mode(name)) == name


def test_parts():
    assert parse_mode(" prune[attention] ") == Mode("prune[attention]", prune="attention")
    assert not parse_mode("expert").needs_model
    assert parse_mode("erecap").session and not parse_mode("prune[recency]").session


@pytest.mark.parametrize(
    "name", ["", "FULL", "full[recency]", "prune", "prune[]", "prune[x]", "prune[recency]x", "prune[[a]]"]
)
def test_refused(name):
    with pytest.raises(ValueError, match="allowed"):
        parse_mode(name)


def test_config_is_light():
    code = "import sys, erecap.config; print([m for m in ('torch', 'transformers', 'gymnasium') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
