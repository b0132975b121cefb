"""The small text world of tests/rollout, for commands that play."""

import sys
from pathlib import Path

import pytest

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
def erecap(monkeypatch, capsys, tmp_path):
    """Calls the command in an empty folder; returns exit code, stdout, stderr."""
    from erecap.cli import main as command_line

    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["erecap", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            command_line.main()
        out, err = capsys.readouterr()
        return left.value.code or 0, out, err

    return call
