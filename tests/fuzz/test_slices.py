"""Long runs of the fuzzers: slices cover what is wanted, a stopped run goes on, and a failure is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fuzz import __main__ as fuzz

BROKEN = fuzz.Part("broken", "no_such_fuzzer", 10, 10, "calls of nothing")


@pytest.mark.parametrize("share", [1.0, 0.013, 0.00001])
def test_slices_add_up_and_no_seed_comes_twice(share: float) -> None:
    made = fuzz.slices(fuzz.PARTS, share, seed=7)
    for part in fuzz.PARTS:
        mine = [one for one in made if one.part == part]
        assert sum(one.count for one in mine) == max(1, round(share * part.count))
        assert [one.seed for one in mine] == [7 + sum(one.count for one in mine[:n]) for n in range(len(mine))]
    if share == 1.0:  # a run that is stopped has done about the same share of each part
        for n in range(0, len(made), 10):
            done = [sum(one.count for one in made[:n] if one.part == part) / part.count for part in fuzz.PARTS]
            assert max(done) - min(done) <= max(part.slice / part.count for part in fuzz.PARTS) + 1e-9


def test_a_run_leaves_rows_and_does_not_play_them_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows" / "fuzz.jsonl"
    arguments = ["--only", "compactions", "--share", "0.001", "--seed", "5", "--rows", str(rows)]
    assert fuzz.main(arguments) == 0
    [line] = rows.read_text().splitlines()
    row = json.loads(line)
    assert (row["part"], row["count"], row["seed"], row["status"]) == ("compactions", 20, 5, 0)
    assert " compactions in " in row["figures"] and row["figures"] in capsys.readouterr().out
    with rows.open("a") as file:
        file.write('{"part": "comp')  # a stop tore it
    assert fuzz.main(arguments) == 0 and len(rows.read_text().splitlines()) == 2
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["compactions", "20", "20", "0"]


def test_a_failure_names_the_command_that_reproduces_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "fuzz.jsonl"
    for _ in range(2):  # also where it was played before
        assert fuzz.run(fuzz.slices([BROKEN], 1.0, 3), rows) == 1
        said = capsys.readouterr().out
        assert "failed: python -m tests.fuzz.no_such_fuzzer --count 10 --seed 3" in said and "No module named" in said
    [row] = map(json.loads, rows.read_text().splitlines())
    assert row["status"] == 1 and "No module named" in row["error"]
