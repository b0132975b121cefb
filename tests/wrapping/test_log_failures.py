"""Logs that cannot be written: the planner's answer comes all the same, and one warning says what is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import erecap
from erecap.errors import ConfigError
from erecap.wrapping.appending import RowFile
from tests.tokens.models import prompt, tiny
from tests.wrapping.chats import chat, rows


def removed(folder: Path) -> None:
    shutil.rmtree(folder)


def a_folder(folder: Path) -> None:
    (folder / "replans.jsonl").unlink(missing_ok=True)
    (folder / "replans.jsonl").mkdir()


def a_loop(folder: Path) -> None:
    (folder / "replans.jsonl").unlink(missing_ok=True)
    (folder / "replans.jsonl").symlink_to(folder / "replans.jsonl")


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


FAULTS: list[Callable[[Path], None]] = [removed, a_folder, a_loop, a_file]


@pytest.mark.parametrize("fault", FAULTS)
def test_an_answer_is_never_lost(fault: Callable[[Path], None], tmp_path: Path) -> None:
    wrapped = erecap.wrap(lambda messages: "go on", keep_tokens=60, log=tmp_path / "log")
    assert wrapped(chat(3)) == "go on"
    fault(tmp_path / "log")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [wrapped(chat(3)) for _ in range(3)] == ["go on"] * 3
    [said] = [str(one.message) for one in caught]
    assert said.startswith(f"the log in {tmp_path / 'log'} cannot be written (") and "\n" not in said
    assert said.endswith("; calls go on without it")
    assert wrapped.log.rows == 4 and wrapped.log.lost == 3


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["session", "prune", "stream", "shadow"])
def test_other_kinds_of_planners_answer_too(kind: str, fault: Callable[[Path], None], tmp_path: Path) -> None:
    def words(messages: list) -> Any:
        yield from ("go ", "on")

    folder = tmp_path / "log"
    if kind in ("session", "prune"):
        model = tiny("llama")
        wrapped = erecap.wrap(model, **({"keep": 0.5} if kind == "prune" else {}), log=folder)
        wrapped.generate(**prompt(), max_new_tokens=2)
        fault(folder)
        with pytest.warns(UserWarning, match="calls go on without it"):
            assert wrapped.generate(**prompt(), max_new_tokens=2).shape[1] == prompt()["input_ids"].shape[1] + 2
        return
    planner = erecap.wrap(words if kind == "stream" else lambda m: "go on", keep_tokens=60, shadow=1.0, log=folder)
    fault(folder)
    with pytest.warns(UserWarning, match="calls go on without it"):
        assert "".join(planner(chat(3))) == "go on"
        planner.shadow.wait()


def test_a_full_disk_costs_rows_and_no_answer_and_leaves_whole_rows(tmp_path: Path) -> None:
    code = """
import resource, warnings, erecap
wrapped = erecap.wrap(lambda messages: "go on", keep_tokens=60, log="log")
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))  # files may be no longer, as on a full disk
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    answers = [wrapped([{"role": "user", "content": "Find it."}]) for _ in range(9)]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
answers.append(wrapped([{"role": "user", "content": "Find it."}]))  # somebody has made room
print(answers == ["go on"] * 10, len(caught), wrapped.log.lost)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120, capture_output=True)
    same, said, lost = done.stdout.decode().split()
    assert (same, said) == ("True", "1") and int(lost) > 3
    found = rows(tmp_path / "log")
    assert len(found) == 10 - int(lost) and [row["replan"] for row in found] == list(range(len(found)))


def test_half_a_row_after_a_full_disk_is_cut_by_the_next(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.jsonl")
    file.append(lambda n: {"n": n})
    with (tmp_path / "rows.jsonl").open("a") as torn:
        torn.write('{"n": 1, "half')
    assert file.append(lambda n: {"n": n}) == 1
    assert [json.loads(line)["n"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == [0, 1]


def test_a_row_that_was_torn_and_two_writers(tmp_path: Path) -> None:
    for _ in range(2):
        wrapped = erecap.wrap(lambda messages: "x", keep_tokens=9, log=tmp_path)
        wrapped(chat(1))
        path = tmp_path / "replans.jsonl"
        path.write_bytes(path.read_bytes()[:-40])
    wrapped, other = (erecap.wrap(lambda messages: "x", keep_tokens=9, log=tmp_path) for _ in range(2))
    wrapped(chat(1)), other(chat(1)), wrapped(chat(1))
    assert [row["replan"] for row in rows(tmp_path)] == [0, 1, 2]


@pytest.mark.parametrize("fault", [a_folder])
def test_a_log_that_cannot_be_opened_is_refused_when_wrapped(fault: Callable[[Path], None], tmp_path: Path) -> None:
    fault(tmp_path)
    with pytest.raises(ConfigError, match=r"^log: .* cannot be written: ") as refused:
        erecap.wrap(lambda messages: "x", keep_tokens=9, log=tmp_path)
    assert "\n" not in str(refused.value)


def test_a_count_that_fails_after_the_answer_costs_the_count(tmp_path: Path) -> None:
    def count(text: str) -> int:
        if text == "go on":
            raise OverflowError("no such number")
        return len(text)

    wrapped = erecap.wrap(lambda messages: "go on", keep_tokens=900, count_tokens=count, log=tmp_path)
    assert wrapped(chat(1)) == "go on"
    [row] = rows(tmp_path)
    assert row["plan_tokens"] == 0 and row["reason"].endswith("not counted: OverflowError: no such number")
