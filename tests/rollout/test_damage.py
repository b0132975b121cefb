"""Full disks and damaged games: what is written stays, a game costs its own episode, and the exit code says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tinyworld import TinyComponents, TinyEnv, tiny_run, tiny_suite

from erecap.errors import RunError
from erecap.report.load import load_run_folder
from erecap.rollout.run import run
from erecap.rollout.run_folder.writer import RunWriter

SUITES = {"tiny": tiny_suite()}
LIMITED = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from rich.console import Console
from tinyworld import ENTRY, TinyComponents, tiny_run, tiny_suite
from erecap.cli.main import main
from erecap.envs import ENVIRONMENTS
from erecap.rollout.run import run
ENVIRONMENTS.setdefault("tiny", ENTRY)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
from erecap.errors import RunError
try:
    run(tiny_run(samples=0), Path(sys.argv[1]), suites={{"tiny": tiny_suite()}}, open_components=TinyComponents)
except RunError as error:
    print(error)
    sys.exit(9)
"""


class RaisingEnv(TinyEnv):
    """Fails in other ways than a GameError, as other people's simulators do."""

    def reset(self, **options: Any):  # type: ignore[no-untyped-def]
        text, info = super().reset(**options)
        if self.episode == 0:
            raise KeyError("room 7")
        return text, info

    def step(self, action: str):  # type: ignore[no-untyped-def]
        text, reward, over, cut, info = super().step(action)
        if self.episode == 1:
            info["path_length"] = "far"
        if self.episode == 2:
            raise RecursionError("around and around\nand around")
        return text, reward, over, cut, info


class FullEnv(TinyEnv):
    """Meets a full disk."""

    def reset(self, **options: Any):  # type: ignore[no-untyped-def]
        found = super().reset(**options)
        if self.episode == 1:
            raise OSError(28, "No space left on device")
        return found


class With(TinyComponents):
    """Components with another environment."""

    def __init__(self, kind: type, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.kind = kind

    def env(self, suite, *, expert: bool):  # type: ignore[no-untyped-def]
        from tinyworld import TinyOptions

        return self.kind(
            TinyOptions(), seed=suite.seed, episodes=suite.episodes, expert=expert, render_mode="rgb_array"
        )


def test_any_failure_of_a_game_costs_its_own_episode(tmp_path: Path, quiet) -> None:  # type: ignore[no-untyped-def]
    config = tiny_run(modes=["expert", "full"])
    result = run(config, tmp_path, suites=SUITES, open_components=lambda *a: With(RaisingEnv, *a), console=quiet)
    assert (result.status, result.episodes, result.failed) == ("finished", 8, 6)
    rows = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    errors = {row["episode"]: row["error"] for row in rows}
    assert errors[0] == "GameError: KeyError: 'room 7'" and errors[1].startswith("GameError: TypeError")
    assert errors[2] == "GameError: RecursionError: around and around and around" and errors[3] is None
    assert all((row["end"] == "error") == (row["error"] is not None) for row in rows)
    again = run(config, tmp_path, suites=SUITES, open_components=TinyComponents, console=quiet)
    assert (again.played, again.failed) == (0, 6)


def test_a_full_disk_in_a_game_ends_the_run_and_not_its_episodes(tmp_path: Path, quiet) -> None:  # type: ignore[no-untyped-def]
    config = tiny_run(modes=["expert"], samples=0)
    with pytest.raises(RunError, match="No space left on device"):
        run(config, tmp_path, suites=SUITES, open_components=lambda *a: With(FullEnv, *a), console=quiet)
    assert len(load_run_folder(tmp_path).episodes) == 1
    result = run(config, tmp_path, suites=SUITES, open_components=TinyComponents, console=quiet)
    assert (result.played, result.failed) == (3, 0)


@pytest.mark.parametrize("room", [1500, 2500, 4000, 5555, 7000])
def test_a_full_disk_loses_no_row(tmp_path: Path, rows_of, quiet, room: int) -> None:  # type: ignore[no-untyped-def]
    """A limit on the size of files stands for it: it cuts writes short in the same way."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "run"), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 9, done.stderr
    assert "cannot be written: File too large; the episodes that it has are whole" in done.stdout
    folder = tmp_path / "run"
    for name in ("episodes.jsonl", "replans.jsonl"):  # no half of a row, and nothing beyond the room
        content = (folder / name).read_bytes() if (folder / name).exists() else b""
        assert content[-1:] in (b"", b"\n") and len(content) <= room
    before = len((folder / "episodes.jsonl").read_bytes().splitlines()) if (folder / "episodes.jsonl").exists() else 0
    result = run(tiny_run(samples=0), folder, suites=SUITES, open_components=TinyComponents, console=quiet)
    assert (result.status, result.played) == ("finished", 12 - before)
    run(tiny_run(samples=0), tmp_path / "whole", suites=SUITES, open_components=TinyComponents, console=quiet)
    assert rows_of(folder) == rows_of(tmp_path / "whole")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, quiet) -> None:  # type: ignore[no-untyped-def]
    run(tiny_run(modes=["expert"]), tmp_path, suites=SUITES, open_components=TinyComponents, console=quiet)
    head = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "episodes.jsonl").unlink()
    (tmp_path / "episodes.jsonl").mkdir()
    with pytest.raises(RunError, match="cannot be written: Is a directory"):
        RunWriter(tmp_path, head)
    with pytest.raises(RunError, match="cannot be written: Is a directory"):
        run(tiny_run(modes=["expert"]), tmp_path, suites=SUITES, open_components=TinyComponents, console=quiet)


@pytest.mark.parametrize("damage", ["[" * 5000, '{"format": ' + "9" * 5000 + "}", '{"a":' * 300 + "1" + "}" * 300])
def test_rows_and_heads_beyond_the_limits_are_told(tmp_path: Path, quiet, damage: str) -> None:  # type: ignore[no-untyped-def]
    config = tiny_run(modes=["expert"])
    run(config, tmp_path, suites=SUITES, open_components=TinyComponents, console=quiet)
    rows = (tmp_path / "episodes.jsonl").read_text()
    (tmp_path / "episodes.jsonl").write_text(damage + "\n" + rows)
    with pytest.raises(RunError, match=r"episodes\.jsonl:1: the row is damaged"):
        run(config, tmp_path, suites=SUITES, console=quiet)
    (tmp_path / "run.json").write_text(damage)
    with pytest.raises(RunError, match=r"run\.json: cannot be read .*; --fresh starts anew") as caught:
        run(config, tmp_path, suites=SUITES, console=quiet)
    assert "\n" not in str(caught.value)
