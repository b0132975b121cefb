"""Troubles of the machine and of names on the command line: one line, and an exit code that says what happened."""

from __future__ import annotations

import ast
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

SUITE = {"name": "corridor", "env": "tiny", "episodes": 3, "seed": 5, "horizon": 9}
RUN = {"name": "walk", "suites": ["./corridor.yaml"], "modes": ["expert"]}
Command = Callable[..., tuple[int, str, str]]


def written(folder: Path, options: dict[str, object] | None = None, **run: object) -> Path:
    (folder / "corridor.yaml").write_text(yaml.safe_dump({**SUITE, "options": options or {}}))
    path = folder / "walk.yaml"
    path.write_text(yaml.safe_dump({**RUN, **run}))
    return path


@pytest.mark.parametrize("command", ["rollout", "compare"])
@pytest.mark.parametrize("options", [{"broken": [1]}, {"cracks": [1], "goalless": [0]}])
def test_failed_episodes_have_an_exit_code(erecap: Command, tmp_path: Path, command: str, options: dict) -> None:  # type: ignore[type-arg]
    path, failed = written(tmp_path, options), sum(map(len, options.values()))
    for _ in range(2):  # a run that is finished says it again
        code, _, err = erecap(command, path)
        assert code == 3 and f"runs/walk: {failed} of 3 episodes failed; the field error of their rows" in err
    rows = [json.loads(line) for line in Path("runs/walk/episodes.jsonl").read_text().splitlines()]
    assert sum(row["error"] is not None for row in rows) == failed
    assert erecap(command, written(tmp_path), "--fresh")[0] == 0


def run(*arguments: str, limit: int | None = None, stdout: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: its files may grow to `limit` bytes, and its output goes to a device."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    with open(stdout or os.devnull, "w") as out:
        return subprocess.run(
            [sys.executable, "-m", "erecap.cli.main", *arguments],
            stdout=out, stderr=subprocess.PIPE, text=True, preexec_fn=limited,
        )  # fmt: skip


@pytest.mark.parametrize("arguments", [("--version",), ("models", "list"), ("--help",)])
def test_output_that_nothing_takes(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, stdout="/dev/full")
    assert done.returncode == 1 and done.stderr == "error: output: No space left on device\n"


def test_a_reader_who_has_seen_enough() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        command = [sys.executable, "-m", "erecap.cli.main", "models", "list"]
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr == ""


def test_no_console_reads_names_as_markup() -> None:
    calls = [
        (file, node)
        for file in (Path(__file__).parents[2] / "erecap").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console"
    ]
    assert len(calls) > 15
    for file, call in calls:
        given = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
        assert given.get("markup") is given.get("emoji") is False, f"{file}:{call.lineno}"


def call_log(folder: Path) -> Path:
    """The log of a wrapped planner with one call."""
    folder.mkdir(parents=True)
    call = {"suite": "wrapped", "mode": "m", "episode": 0, "replan": 0, "step": 0, "trigger": "call"}
    call |= dict.fromkeys(("prompt_tokens", "new_tokens", "reused_tokens", "kept_tokens", "total_ms", "plan_tokens"), 1)
    (folder / "replans.jsonl").write_text(json.dumps({**call, "decision": "passed", "reason": "x"}) + "\n")
    (folder / "run.json").write_text(json.dumps({"format": 1, "name": "x", "wrapped": "y"}))
    return folder


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    call_log(tmp_path / "run")
    done = run("report", str(tmp_path / "run"), limit=20)
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path}/run/summary.json: File too large\n"
    assert not (tmp_path / "run" / "summary.json").exists() and not list((tmp_path / "run").glob("*.part"))


@pytest.mark.parametrize("name", ["[bold]", "[/red]", "[link=x]", ":smile:"])
def test_names_are_no_markup(erecap: Command, tmp_path: Path, name: str) -> None:
    folder = f"{name}-run" if "/" not in name else name.replace("/", "")
    path = written(tmp_path)
    code, out, _ = erecap("compare", path, "--out", folder)
    assert code == 0 and folder in out
    code, _, err = erecap("report", f"./{name}")
    assert code == 1 and name in err
    code, _, err = erecap("rollout", path, f"modes={name}")
    assert code == 2 and name in err
    log = call_log(tmp_path / "logs" / folder)
    code, out, _ = erecap("report", log, "--against", log)
    assert code == 0 and out.count(folder) == 2
