"""The bench of drafts on a tiny model: every way on the same answers, prompts by path, result rows, refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from erecap.bench.drafts.bench import REPEATING, drafts_bench, drafts_rows, drafts_summary
from erecap.bench.drafts.calls import agreement
from erecap.bench.drafts.scenes import prompt_sets
from erecap.bench.drafts.settings import DraftsBench
from erecap.bench.drafts.tables import drafts_tables
from erecap.errors import ConfigError
from erecap.registries import DRAFTS
from tests.bench.test_parts import ABOUT
from tests.bench.test_replan import byte_level, model, shown


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "sets"
    made.mkdir()
    (made / "qa.jsonl").write_text('{"turns": ["go to fridge 1", "again"]}\n\n{"turns": ["look"]}\n')
    (made / "sum.jsonl").write_text(json.dumps({"turns": ["word " * 900]}) + "\n")
    return made


def test_every_way_gives_the_plain_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("alfworld")
    monkeypatch.setattr("erecap.bench.drafts.bench.PART", 0.0)  # a random model repeats nothing
    bench = DraftsBench(
        weights=("same",), tokens=5, points=1, new_plans=1, history=50, kv_tokens=350, prompts=folder, prompt_tokens=6,
        repetitions=2,
    )  # fmt: skip
    made = drafts_bench(bench, model(), byte_level(), ABOUT)
    ways, raw = ("plain", *DRAFTS), made["raw"]
    scenes = {scene: [row for row in raw if row["scene"] == scene] for scene in ("replans", "new plans", "qa")}
    assert [len(rows) for rows in scenes.values()] == [2 * len(ways), 2 * len(ways), 3 * 2 * len(ways)]
    assert sum(map(len, scenes.values())) == len(raw) and made["summary"]["left_out"] == {"qa": 0, "sum": 1}
    assert all(row["same_text"] and row["agreement"] == 1.0 for row in raw)
    assert all(row["drafted_tokens"] == row["accepted_tokens"] == 0 for row in raw if row["way"] == "plain")
    assert all(row["tokens"] == 4 for row in scenes["replans"]) and all(row["decode_ms"] > 0 for row in raw)
    # Twice the same: an answer does not help to give it once more.
    for rows in scenes.values():
        first, second = ([{**row, "repetition": 0, "decode_ms": 0, "processor_ms": 0} for row in rows
                          if row["repetition"] == number] for number in (0, 1))  # fmt: skip
        assert first == second
    summary = made["summary"]["ways"]
    assert [row["way"] for row in summary if row["scene"] == REPEATING] == list(ways)
    assert {row["answers"] for row in summary if row["scene"] == "qa"} == {3}
    assert [row["id"] for row in made["rows"]] == ["R7", "R7-lookup", "R7-suffix"]
    assert {row["row"] for row in made["rows"]} == {"algorithm"} and "1 of 1 replans" in made["rows"][0]["note"]
    assert made["settings"]["prompts"] == "sets" and len(made["summary"]["costs"]) == 9
    for table in drafts_tables(made):
        assert shown(table)
    json.dumps(made)


def rows_of(way: str, ms: float, repeats: float, point: int = 1, repetitions: int = 3) -> list[dict]:
    return [
        {
            "scene": "replans", "point": point, "weights": "int4", "way": way, "repetition": number, "decode_ms": ms,
            "processor_ms": 2 * ms + number, "tokens": 31, "passes": 10, "drafted_tokens": 40, "accepted_tokens": 20,
            "agreement": 1.0, "same_text": True, "repeats": repeats,
        }
        for number in range(repetitions)
    ]  # fmt: skip


def test_the_figures_are_of_the_replans_that_repeat_the_last_plan() -> None:
    raw = [*rows_of("plain", 300, 0.9), *rows_of("automaton", 100, 0.9), *rows_of("suffix", 120, 0.9)]
    raw += [*rows_of("plain", 300, 0.1, 2), *rows_of("automaton", 300, 0.1, 2), *rows_of("suffix", 300, 0.1, 2)]
    rows = {row["id"]: row for row in drafts_rows(raw, ABOUT, False)}
    assert {name: row["measured"] for name, row in rows.items()} == {"R7": 3.0, "R7-suffix": 1.2}
    assert rows["R7"]["row"] == "product" and rows["R7"]["n"] == 3 and rows["R7"]["holds"]
    assert "1 of 2 replans repeat 90 %" in rows["R7"]["note"] and "over all replans 1.50" in rows["R7"]["note"]
    timed = {row["id"]: row for row in drafts_rows(raw, ABOUT, True)}
    assert timed["R7"]["measured"] == pytest.approx(601 / 201, rel=1e-3)
    assert "processor time" in timed["R7"]["note"]
    found = {(row["scene"], row["way"]): row for row in drafts_summary(raw, False)}
    assert found[REPEATING, "automaton"]["speed_up"]["value"] == 3.0
    assert found[REPEATING, "automaton"]["tokens_a_pass"] == 3.1
    assert found["other replans", "automaton"]["speed_up"]["value"] == 1.0
    assert found[REPEATING, "plain"]["accepted_of_drafted"] == 0.5


def test_agreement_is_the_share_before_the_first_difference() -> None:
    assert agreement([1, 2, 3], [1, 2, 3]) == 1.0 and agreement([1, 9, 3], [1, 2, 3, 4]) == 0.25
    assert agreement([], []) == 1.0 and agreement([1], []) == 0.0 and agreement([1, 2], [1]) == 1.0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("not json", r"qa\.jsonl cannot be read"),
        ('{"turns": []}', "row 1: 'turns' must be a list of texts"),
        ('{"turns": ["a", 3]}', "row 1: 'turns' must be a list of texts"),
        ("[1]", "row 1: 'turns' must be a list of texts"),
        ("", "qa.jsonl has no rows"),
    ],
)
def test_prompt_files_that_hold_no_prompts(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "qa.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=said):
        prompt_sets(tmp_path, 3)
    for place in (tmp_path / "other", tmp_path / "qa.jsonl"):
        with pytest.raises(ConfigError, match=f"{re.escape(str(place))} is no folder with \\.jsonl files in it"):
            prompt_sets(place, 3)


def test_what_the_command_refuses(erecap, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for arguments, said in (
        (["--ways", "guess"], "--ways: unknown guess; allowed: automaton, automaton-run"),
        (["--weights", ""], "--weights: unknown none"),
        (["--no-replans"], "--no-replans: nothing is left to measure"),
        (["--no-replans", "--points", "3", "--prompts", str(tmp_path)], "--no-replans goes without --points"),
        (["--prompt-count", "3"], "a bench without --prompts goes without --prompt-count"),
    ):
        code, _, err = erecap("bench", "drafts", *arguments)
        assert code and said in err
