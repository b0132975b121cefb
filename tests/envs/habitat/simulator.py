"""habitat-sim for tests: the interpreter that has it, or the reason to skip."""

from __future__ import annotations

from pathlib import Path

import pytest

from erecap.envs.habitat.client import find_python
from erecap.errors import EnvironmentUnavailable


def need_habitat() -> Path | None:
    """The interpreter with habitat-sim, None for this one; skips the test where none is named."""
    try:
        return find_python(None)
    except EnvironmentUnavailable as error:
        pytest.skip(str(error))
