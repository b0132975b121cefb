"""The file that collects results: rows are replaced by id, and nothing else is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erecap.bench.results import FIELDS, Figure, merge_part, merge_rows, result_row, rounded
from erecap.errors import RunError
from erecap.targets import TARGETS, targets_of

ABOUT = {"command": "erecap bench replan", "machine": {"cpu": "a processor", "threads": 2}, "date": "2026-01-31"}


def row(name: str, value: float, kind: str = "algorithm") -> dict:
    return result_row(name, Figure(value, value - 0.1, value + 0.1, 5), ABOUT, row=kind)


def test_rows_that_were_not_measured_again_stay(tmp_path: Path) -> None:
    path = tmp_path / "replan.json"
    merge_rows(path, [row("R8", 3.4, "product"), row("R1a", 9), row("R1a", 16, "product")], settings={"lengths": [1]})
    merge_rows(path, [row("R1a", 10), row("R2", 1.2)], date="2026-02-01")
    content = json.loads(path.read_text())
    found = {(entry["id"], entry["row"]): entry["measured"] for entry in content["rows"]}
    assert found == {("R1a", "algorithm"): 10, ("R1a", "product"): 16, ("R2", "algorithm"): 1.2, ("R8", "product"): 3.4}
    assert [entry["id"] for entry in content["rows"]] == ["R1a", "R1a", "R2", "R8"]
    assert content["settings"] == {"lengths": [1]} and content["date"] == "2026-02-01"


@pytest.mark.parametrize(
    ("name", "value", "holds"),
    [
        ("R1a", 18.0, True),
        ("R1a", 17.99, False),
        ("R2", 1.15, True),
        ("R2", 1.16, False),
        ("R5", -1.0, True),
        ("R5", -1.5, False),
        ("R7-lookup", 1.01, True),
        ("R7-lookup", 1.0, False),
        ("R8", 2.7, None),  # shown, and judged by nothing
        ("R8-plain", 3.0, True),
    ],
)
def test_targets_point_the_right_way(name: str, value: float, holds: bool | None) -> None:
    assert row(name, value)["holds"] is holds
    assert row(name, value)["target"] == str(TARGETS[name])


def test_a_row_is_complete(tmp_path: Path) -> None:
    made = row("R3", 1.23456)
    assert tuple(made) == FIELDS and made["measured"] == 1.235 and made["machine"] == "a processor, 2 threads"
    for broken in ({**made, "row": "other"}, {key: made[key] for key in made if key != "low"}):
        with pytest.raises(RunError, match="result R3: missing"):
            merge_rows(tmp_path / "replan.json", [broken])
    assert not (tmp_path / "replan.json").exists()
    with pytest.raises(FloatingPointError):
        row("R3", float("nan"))
    assert rounded({"a": [1.23456, (2, 3.00001)], "b": True}) == {"a": [1.235, [2, 3.0]], "b": True}


def test_a_file_lists_its_own_targets(tmp_path: Path) -> None:
    content = merge_rows(tmp_path / "engines.json", [row("R8-plain", 3.2)], file="engines")
    assert list(content["targets"]) == ["R8-plain", "R8-drafted", "R9-speed", "R9-blocks", "R10"]
    assert content["targets"]["R9-blocks"]["target"] == "<= 0.2"
    assert "R8-plain" not in merge_rows(tmp_path / "replan.json", [row("R2", 1.2)])["targets"]


def test_a_part_takes_its_place_beside_the_others_of_a_file(tmp_path: Path) -> None:
    path, part = tmp_path / "engines.json", {"date": "d", "summary": {}, "settings": {"n": 1}, "versions": "private"}
    kept = ("date", "summary", "settings")
    merge_part(path, "one", part, [row("R8-plain", 3.2)], file="engines", kept=kept)
    merge_part(path, "two", part, [], file="engines", kept=kept)
    merge_part(path, "one", {**part, "date": "e"}, [row("R8-plain", 3.3)], file="engines", kept=kept)
    content = json.loads(path.read_text())
    assert [made["measured"] for made in content["rows"]] == [3.3]
    assert {name: one["date"] for name, one in content["parts"].items()} == {"one": "e", "two": "d"}
    assert all(set(one) == set(kept) for one in content["parts"].values())


@pytest.mark.parametrize("file", ["replan", "quality"])
def test_committed_rows_are_judged_by_the_targets_of_today(file: str) -> None:
    path = Path(__file__).parents[2] / "docs" / "results" / f"{file}.json"
    for made in json.loads(path.read_text())["rows"]:
        target = targets_of(file)[made["id"]]
        assert (made["target"], made["unit"]) == (str(target), target.unit)
        assert set(FIELDS) <= set(made)
        # A figure may need more than to reach its target, never less.
        reached = target.holds(made["measured"])
        assert made["holds"] is None if reached is None else made["holds"] <= reached, made["id"]


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": [{"length": 1000}]}'])
def test_another_file_is_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "replan.json"
    path.write_text(text)
    with pytest.raises(RunError, match=r"replan\.json"):
        merge_rows(path, [row("R1a", 9)])
    assert path.read_text() == text
