"""habitat-sim for tests: the interpreter that has it, or the reason to skip."""

from __future__ import annotations

from pathlib import Path

import pytest

from erecap.envs.habitat.client import find_python
from erecap.errors import EnvironmentUnavailable


def has_habitat() -> bool:
    """True if habitat-sim is here or in the interpreter that the environment variable names."""
    try:
        find_python(None)
    except EnvironmentUnavailable:
        return False
    return True


def need_habitat() -> Path:
    """The interpreter with habitat-sim; skips the test where none is named."""
    try:
        return find_python(None)
    except EnvironmentUnavailable as error:
        pytest.skip(str(error))
