"""`erecap tune layers` and `erecap bench layers` as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tinyworld import tiny_suite

from erecap.cli.benching import names_in
from erecap.cli.layer_options import METHODS, SLICES, listed
from erecap.evaluation.layer_front.settings import FrontSettings
from erecap.layers import load_plan
from tests.layers.search_models import LATENCIES
from tests.tuning.histories import write

PLACE = ("--dtype", "float32", "--threads", "1")
SMALL = (
    "--methods", "sleb", "--speed-ups", "1.1", "--slices", "none", "--kv-tokens", "none", "--no-drafts", "--count", "2",
    "--length", "16", "--episodes", "2", "--calls", "2", "--timed-calls", "1", "--rounds", "1", "--clock-tokens", "24",
    "--clock-decoded", "2", "--repetitions", "1", "--device", "cpu",
)  # fmt: skip


@pytest.fixture
def out(tiny_model, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    """A folder with latencies that nobody had to measure."""
    from erecap.layers.search import SearchFolder
    from erecap.models import fingerprint

    base = {"name": str(tiny_model.name), "hash": fingerprint(tiny_model), "adapter": None}
    about = {"base": base, "layers": 8, "dtype": "float32", "method": "random", "seed": 0, "evaluate_every": 1}
    empty: dict[str, object] = {"options": {}, "calibration": {}, "held_out": {}}
    SearchFolder(tmp_path / "out" / "searches" / "a-timed").begin({**about, **empty}, lambda: dict(LATENCIES))
    return tmp_path / "out"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "general.txt"
    path.write_text(" ".join(f"You see mug {number} on shelf {7 * number}." for number in range(60)))
    return path


def test_a_front_with_perplexity_and_success(erecap, tiny_model, out: Path, text: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    suite = tmp_path / "rooms.yaml"
    suite.write_text(json.dumps(tiny_suite(episodes=2, horizon=1).model_dump(mode="json", exclude_none=True)))
    histories = write(tmp_path / "histories", episodes=2, turns=2)
    asked = ("tune", "layers", tiny_model, *SMALL, *PLACE, "--text", text, "--histories", histories, "--out", out)
    code, said, err = erecap(*asked, "--perplexity", text, "--play", suite, "--play-episodes", "1", "--least", "0")
    assert code == 0, err
    assert "| plan NLL | perplexity | success | front |" in said and "Proposed: `" in said and "```yaml" in said
    assert "results: front.json, front.md, front.svg in" in said
    result = json.loads((out / "front.json").read_text())
    dense, thin = result["points"]
    assert (dense["name"], thin["name"]) == ("dense", "sleb-1") and thin["figures"]["perplexity"]["value"] > 1
    assert dense["success"]["n"] == 1 and dense["success"]["against_dense"]["value"] == 0
    assert str(tmp_path) not in json.dumps({**result, "profile": None})
    assert load_plan(out / "plans" / "sleb-1").found["method"] == "sleb"
    times = (out / "calls.jsonl").read_bytes()
    code, again, err = erecap(*asked, "--least", "1")
    assert code == 0 and (out / "calls.jsonl").read_bytes() == times, err
    assert "| perplexity |" not in again
    code, _, err = erecap(*asked, "--seed", "3", "--fresh")  # which keeps searches
    said = "".join(err.split())
    assert code == 1 and "searchedwithseed0,hereitis3;another--outkeepsboth,delete" in said and "tostartanew" in said
    code, _, err = erecap(*asked, "--fresh", "--calls", "1")
    assert code == 0 and (out / "calls.jsonl").read_bytes() != times, err
    more = ("--play", suite, "--play-episodes", "2")
    code, _, err = erecap(*asked, *more)
    assert code == 1 and "config.episodes = 1, now it is 2; --fresh starts anew" in " ".join(err.split())
    code, _, err = erecap(*asked, *more, "--fresh", "--play-batch", "2")
    assert code == 0, err
    assert json.loads((out / "front.json").read_text())["points"][0]["success"]["n"] == 2
    played = [json.loads(path.read_text())["config"] for path in out.glob("episodes/*/*/run.json")]
    assert played and all(config["batch"] == 2 for config in played)
    code, _, err = erecap(*asked, *more, "--play-from", "1000")
    assert code == 0 and "no point of the front is 1000 times as fast, so none is played" in " ".join(err.split()), err
    assert "success" not in json.loads((out / "front.json").read_text())["points"][0]


def test_the_rows_of_a_smoke_test(erecap, tiny_model, out: Path, text: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    histories = write(tmp_path / "histories", episodes=2, turns=2)
    asked = (
        "bench",
        "layers",
        "--model",
        tiny_model,
        "--adapter",
        "none",
        "--pruner",
        "none",
        "--smoke",
        "--parts",
        "front",
    )
    asked += PLACE
    code, said, err = erecap(*asked, "--methods", "random", "--text", text, "--histories", histories, "--out", out)
    assert code == 0, err
    assert "not told: L1-sleb, L2-sleb: no search with sprint" in " ".join(err.split())
    content = json.loads((out / "layers.json").read_text())
    assert [row["id"] for row in content["rows"]] == ["L3"] and "L3" in said and "smoke" in said
    command = f"erecap bench layers --model {Path(tiny_model).name} --adapter none --pruner none --methods random"
    assert content["rows"][0]["command"] == f"{command} --text {text.name} --smoke"
    assert len(content["front"]["points"]) >= 3


def test_defaults_of_the_commands_are_those_of_the_settings() -> None:
    settings = FrontSettings()
    assert listed(METHODS, names_in) == settings.methods and listed(SLICES, names_in) == settings.slices


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tune", "layers", "x", "--methods", "best"), "--methods: 'best' is not a"),
        (("tune", "layers", "x", "--speed-ups", "fast"), "--speed-ups: got 'fast'; allowed: numbers above 1"),
        (("tune", "layers", "x", "--kv-tokens", "3"), "--kv-tokens: got '3'; allowed: whole numbers from 16 on"),
        (("tune", "layers", "x", "--suite", "a", "--histories", "b"), "--histories and --suite exclude each other"),
        (("tune", "layers", "x", "--perplexity", "nowhere.txt"), "nowhere.txt: cannot be read"),
        (("tune", "layers", "x", "--play-episodes", "3"), "--play-episodes: nothing is played; name a suite"),
        (("bench", "layers", "--play-episodes", "3"), "--play-episodes: nothing is played; name a suite"),
        (("tune", "layers", "x", "--play-batch", "2"), "--play-batch: nothing is played; name a suite"),
        (("bench", "layers", "--play-from", "1.15"), "--play-from: nothing is played; name a suite"),
        (("bench", "layers", "--smoke", "--prompts", "4"), "--smoke goes without --prompts"),
        (("bench", "layers", "--smoke", "--slices", "none"), "--smoke goes without --slices"),
        (("bench", "layers", "--slices", "feet-0.2"), "--slices: got 'feet-0.2'; allowed: heads-SHARE, channels-SHARE"),
        (("bench", "layers", "--parts", "all"), "--parts: got 'all'; allowed: front, slices, controller"),
        (
            ("layers", "find", "sprint", "x", "--out", "y", "--sublayers", "1", "--loss-sequences", "2"),
            "sprint goes wi",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(erecap, arguments: tuple[str, ...], message: str) -> None:  # type: ignore[no-untyped-def]
    code, _, err = erecap(*arguments)
    assert code == 2 and message in " ".join(err.split())
