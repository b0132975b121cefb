"""The tuner from start to end on a tiny model, and its files."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from erecap.config.load import load_run
from erecap.cost.flops import prefill_flops
from erecap.errors import ConfigError, RunError
from erecap.language_models.opened import shape_of
from erecap.tuning import tune as module
from erecap.tuning.output import markdown, write_all, yaml_lines
from erecap.tuning.samples import digest
from erecap.tuning.tune import Tune, tune
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model
from tests.tuning.histories import write

SMALL = Tune(keep=0.5, scorer="recency", length=150, samples=2, budget=6, confirm=2, repetitions=0)
ABOUT = {"command": "erecap tune stages", "date": "2026-01-01", "model": {"name": "tiny"}}


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("histories"), episodes=6)


@pytest.fixture(autouse=True)
def nobody_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERECAP_CACHE", str(tmp_path / "cache"))


def play(settings: Tune, folder: Path, histories: Path, **options: Any) -> dict[str, Any]:
    return tune(settings, model(), byte_level(), folder, base="sha256:folder", histories=histories, **options)


def test_from_start_to_end(histories: Path, tmp_path: Path) -> None:
    result = play(replace(SMALL, repetitions=2), tmp_path, histories)
    candidates = result["candidates"]
    assert len(candidates) == 6 and result["speed_up_from"] == "FLOPs" and result["layers"] == 8
    assert [row["score"] for row in candidates] == sorted((row["score"] for row in candidates), reverse=True)
    assert all(row["score"] == pytest.approx(row["speed_up"] * row["agreement"]) for row in candidates)
    assert sum(row["origin"] == "published" for row in candidates) == 1
    rows = [json.loads(line) for line in (tmp_path / "stages.jsonl").read_text().splitlines()[1:]]
    assert [row["part"] for row in rows] == ["search"] * 6 + ["held-out"] * 2
    # The speed-up is that of the tokens which each layer read.
    first = next(row for row in rows if row["stages"] == candidates[0]["stages"])
    full, pruned = (
        sum(prefill_flops(shape_of(model()), counts).total for counts in side)
        for side in ([[length] * 8 for length in result["lengths"]], first["kept"])
    )
    assert candidates[0]["speed_up"] == pytest.approx(full / pruned)
    held_out = result["confirmed"]
    assert len(held_out) == 2 and all(row["held_out"] for row in held_out) and result["chosen"] == held_out[0]
    assert {tuple(row["stages"]) for row in held_out} == {tuple(row["stages"]) for row in candidates[:2]}
    timed = result["timing"]["sets"]
    assert [row["stages"] for row in timed[:2]] == [row["stages"] for row in held_out]
    assert all(0 < row["low"] <= row["speed_up"] <= row["high"] for row in timed)


def test_the_same_again_and_on_from_where_it_stopped(
    histories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = play(SMALL, tmp_path / "whole", histories)
    rows = (tmp_path / "whole" / "stages.jsonl").read_bytes()
    assert play(SMALL, tmp_path / "twin", histories) == whole
    # Killed in the middle of the fifth set's row.
    lines = rows.splitlines(keepends=True)
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "stages.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:20])
    asked: list[tuple[tuple[int, ...], str]] = []
    compare = module.Judge.compare

    def counted(self: Any, stages: tuple[int, ...]) -> Any:
        asked.append((stages, digest(self.samples)))
        return compare(self, stages)

    monkeypatch.setattr(module.Judge, "compare", counted)
    assert play(SMALL, tmp_path / "killed", histories) == whole
    assert len(asked) == 8 - 4 and (tmp_path / "killed" / "stages.jsonl").read_bytes() == rows
    assert play(SMALL, tmp_path / "killed", histories) == whole and len(asked) == 4
    # A larger budget goes on, and asks for nothing twice.
    more = play(replace(SMALL, budget=9), tmp_path / "killed", histories)
    assert len(more["candidates"]) >= 9 and asked[4:]
    there = {(tuple(json.loads(line)["stages"]), more["head"]["text"]) for line in lines[1:5]}
    assert len(set(asked)) == len(asked) and not there & set(asked)
    with pytest.raises(RunError, match=r"tried with keep 0\.5, here it is 0\.6"):
        play(replace(SMALL, keep=0.6), tmp_path / "killed", histories)
    before = len(asked)
    play(replace(SMALL, budget=1), tmp_path / "killed", histories, fresh=True)
    assert len(asked) - before == 2


@pytest.mark.parametrize("scorer", ["recency", "attention"])
def test_keeping_all_saves_nothing_and_changes_nothing(histories: Path, tmp_path: Path, scorer: str) -> None:
    result = play(replace(SMALL, keep=1.0, scorer=scorer, budget=4), tmp_path, histories)
    assert {(row["agreement"], row["speed_up"]) for row in result["candidates"]} == {(1.0, 1.0)}
    assert result["chosen"]["stages"] == min(
        (row["stages"] for row in result["candidates"]), key=lambda stages: (len(stages), stages)
    )


def test_given_sets_and_no_others(histories: Path, tmp_path: Path) -> None:
    result = play(replace(SMALL, candidates=((2, 5), (7,))), tmp_path, histories)
    assert sorted(row["stages"] for row in result["candidates"]) == [[2, 5], [7]]
    with pytest.raises(ConfigError, match="stage at layer 8 cannot be tried; allowed layers: 1 to 7"):
        play(replace(SMALL, candidates=((2, 8),)), tmp_path, histories)


def test_a_calibration_is_used_where_there_is_one(
    histories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from erecap.cost.model import CostModel

    plain = play(replace(SMALL, budget=3), tmp_path, histories)
    fitted = CostModel(prefill=(0.0, 1.0, 0.0, 0.0, 0.0), decode=(0.0,) * 8)  # time goes by tokens alone
    monkeypatch.setattr(module, "load_cost_model", lambda key: fitted if key.weights == "sha256:folder" else None)
    result = play(replace(SMALL, budget=3), tmp_path, histories)
    assert result["speed_up_from"] == "calibration" != plain["speed_up_from"]
    row = result["candidates"][0]
    assert row["speed_up"] == pytest.approx(1 / row["mean_kept"], rel=0.02)


def test_few_histories(histories: Path, tmp_path: Path) -> None:
    said: list[str] = []
    result = play(replace(SMALL, samples=9, budget=2), tmp_path, histories, say=said.append)
    assert "only 5 of 9 planning calls are long enough" in said
    assert "no planning calls are left to read the best sets again on" in said
    assert not result["confirmed"][0]["held_out"] and result["chosen"] == result["confirmed"][0]


def test_a_wish_that_cannot_be_met(histories: Path, tmp_path: Path) -> None:
    strict = replace(SMALL, keep=0.05, scorer="random", candidates=((1, 2, 3),), least_agreement=1.0)
    result = play(strict, tmp_path, histories)
    assert result["chosen"] is None and result["confirmed"] == [] and result["candidates"][0]["agreement"] < 1
    assert "No candidate agrees as often" in markdown(result, ABOUT, None)


def test_what_is_written(histories: Path, tmp_path: Path) -> None:
    result = play(replace(SMALL, repetitions=1), tmp_path, histories)
    lines = yaml_lines(0.5, "recency", result["chosen"]["stages"])
    paths = write_all(tmp_path, result, ABOUT, lines)
    content = json.loads(paths[0].read_text())
    assert len(content["candidates"]) == 6 and content["chosen"]["stages"] == result["chosen"]["stages"]
    page = paths[1].read_text()
    assert lines in page and "counted FLOPs" in page and page.count("\n| ") >= 7
    widths = {line.replace("\\|", "").count("|") for line in page.splitlines() if line.startswith("|")}
    assert widths == {10}
    assert ElementTree.fromstring(paths[2].read_text()).tag.endswith("svg")
    assert "published stages" in paths[2].read_text() and "chosen" in paths[2].read_text()
    before = paths[2].read_bytes()
    write_all(tmp_path, result, ABOUT, lines)
    assert paths[2].read_bytes() == before
    # The lines are a part of a run as they stand.
    suite = {"name": "corridor", "env": "household", "episodes": 1, "horizon": 9}
    (tmp_path / "corridor.yaml").write_text(yaml.safe_dump(suite))
    (tmp_path / "run.yaml").write_text(f"name: mine\nsuites: [./corridor.yaml]\n{lines}\n")
    run = load_run(tmp_path / "run.yaml")
    assert run.prune.stages == result["chosen"]["stages"] and run.prune.keep == 0.5
    assert run.modes == ["full", "prune[recency]"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": 0.0}, r"--keep: got 0; allowed: above 0 and at most 1"),
        ({"keep": 1.01}, r"--keep: got 1\.01"),
        ({"keep": float("nan")}, r"--keep: got nan"),
        ({"scorer": "luck"}, r"--scorer: got 'luck'; allowed: .*recency"),
        ({"least_agreement": 1.5}, r"--least-agreement: got 1\.5; allowed: 0 to 1"),
        ({"samples": 0}, r"--samples: got 0; allowed: 1 or more"),
        ({"budget": 0}, r"--budget-evals: got 0"),
        ({"repetitions": -1}, r"--repetitions: got -1; allowed: 0 or more"),
    ],
)
def test_settings_out_of_bounds(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **change)
