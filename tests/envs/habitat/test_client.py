"""The connection to a worker process: refusals in one line, time limits, crashes, and what the worker may import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from erecap.envs.habitat.client import VARIABLE, WORKER, Connection, ask_version, connect, find_python
from erecap.errors import EnvironmentUnavailable, GameError
from tests.envs.habitat.playing import interpreter

SLOW = "import sys, time\nfor line in sys.stdin: time.sleep(30)\n"


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_which_interpreter(tmp_path: Path) -> None:
    assert find_python(tmp_path / "python", {VARIABLE: "/other"}) == tmp_path / "python"
    assert find_python(None, {VARIABLE: "/other"}) == Path("/other")
    with pytest.raises(EnvironmentUnavailable, match=rf"needs habitat-sim.*set {VARIABLE}") as caught:
        find_python(None, {})
    one_line(caught.value)


def test_a_missing_interpreter_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        EnvironmentUnavailable, match=rf"no interpreter for habitat-sim at .*set python: or {VARIABLE}"
    ) as caught:
        connect(tmp_path / "python", 10.0)
    one_line(caught.value)


def test_an_interpreter_without_habitat_sim_is_one_line() -> None:
    with pytest.raises(
        EnvironmentUnavailable, match=r"does not serve habitat-sim \(.*No module named 'habitat_sim'\); set"
    ) as caught:
        connect(Path(sys.executable), 30.0)
    one_line(caught.value)


def test_what_is_no_interpreter_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "python"
    path.write_text("no program")
    path.chmod(0o755)
    with pytest.raises(EnvironmentUnavailable, match="does not run") as caught:
        ask_version(path)
    one_line(caught.value)


def test_versions_are_told(tmp_path: Path) -> None:
    assert ask_version(interpreter(tmp_path)) == {"habitat_sim": "flat", "python": "", "bullet": True}


def test_a_request_that_fails_ends_the_worker_and_the_next_starts_another(tmp_path: Path) -> None:
    connection = Connection(interpreter(tmp_path), 10.0)
    with pytest.raises(GameError, match="habitat-sim failed at 'map': no scene is open") as caught:
        connection.ask("map")
    one_line(caught.value)
    assert connection.ask("hello")["habitat_sim"] == "flat"
    connection.close()
    connection.close()


def test_a_worker_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    connection = Connection(interpreter(tmp_path, script), 0.5)
    with pytest.raises(GameError, match=r"habitat-sim took longer than 0\.5 s at 'hello', and was ended") as caught:
        connection.ask("hello")
    one_line(caught.value)


def test_the_worker_imports_habitat_sim_and_the_standard_library_only() -> None:
    tree = ast.parse(WORKER.read_text("utf-8"), feature_version=(3, 9))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        assert not isinstance(node, ast.ImportFrom), ast.unparse(node)
        assert not isinstance(node, (ast.Match, ast.TryStar))
    assert imported - sys.stdlib_module_names == {"habitat_sim", "magnum", "numpy"}
    zips = [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "strict"]
    assert not zips  # zip(strict=) came with Python 3.10


def test_options_and_client_load_no_simulator() -> None:
    code = (
        "import sys, erecap.envs.habitat.client, erecap.envs.habitat.options\n"
        "heavy = {'habitat_sim', 'gymnasium', 'trimesh', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
