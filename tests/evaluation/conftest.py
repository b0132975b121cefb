"""The small text world of tests/rollout, for comparisons that play, and a console that nobody sees."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))


@pytest.fixture(scope="module", autouse=True)
def tiny_environment():
    """The environment `tiny` is registered while a module of these tests runs, and for no other test."""
    from tinyworld import ENTRY

    from erecap.envs import ENVIRONMENTS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENTS, "tiny", ENTRY)
        yield


@pytest.fixture
def quiet():
    """A console whose output nobody sees; `quiet.file.getvalue()` tells what it was."""
    return Console(file=io.StringIO(), width=200)
