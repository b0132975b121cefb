"""`erecap layers find`, `steps` and `take` as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock

from erecap.layers import load_plan
from tests.layers.search_models import LATENCIES

PLACE = ("--dtype", "float32", "--device", "cpu", "--threads", "1")
SMALL = ("--count", "3", "--length", "16", "--held-out", "1")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "general.jsonl"
    path.write_text("".join(json.dumps(f"You see mug {number} on shelf {7 * number}.") + "\n" for number in range(40)))
    return path


@pytest.fixture
def timed(tiny_model, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    """A search of no step with latencies that nobody had to measure."""
    from erecap.layers.search import SearchFolder
    from erecap.models import fingerprint

    base = {"name": str(tiny_model.name), "hash": fingerprint(tiny_model), "adapter": None}
    empty: dict[str, object] = {"options": {}, "calibration": {}, "held_out": {}}
    about = {"base": base, "layers": 8, "dtype": "float32", "method": "random", "seed": 0, "evaluate_every": 1}
    SearchFolder(tmp_path / "timed").begin({**about, **empty}, lambda: dict(LATENCIES))
    return tmp_path / "timed"


def test_a_search_its_steps_and_a_plan(erecap, tiny_model, text: Path, timed: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    asked = ("layers", "find", "sprint", tiny_model, "--out", tmp_path / "found", "--text", text, *SMALL, *PLACE)
    code, out, err = erecap(*asked, "--sublayers", "2", "--latencies", timed)
    assert code == 0, err
    assert "sprint on" in out and "dense model" in out and "predicted speed-up" in out
    rows = [json.loads(line) for line in (tmp_path / "found" / "search.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and str(tmp_path) not in json.dumps(rows)
    (source,) = rows[0]["calibration"]["sources"]
    assert (source["name"], source["kind"], source["count"]) == ("general.jsonl", "text", 4)
    assert rows[0]["latencies"]["decode"]["mlp"] == 0.4 and rows[3]["evaluation"]["tokens"] == 16
    code, shown, err = erecap("layers", "steps", tmp_path / "found")
    assert code == 0 and shown == out
    code, out, err = erecap("layers", "take", tmp_path / "found", "--steps", "2", "--out", tmp_path / "plan")
    assert code == 0 and out.startswith("2 steps: "), err
    plan = load_plan(tmp_path / "plan")
    assert plan.sublayers == 2 and plan.found["predicted"] == rows[3]["predicted"] and plan.test
    code, out, err = erecap("layers", "show", tmp_path / "plan")
    assert code == 0 and "found by  method sprint, steps 2" in out and "test      perplexity" in out
    options = ("--tokens", "40", "--decoded", "2", "--repetitions", "1", "--text", text)
    code, out, err = erecap("layers", "check", tmp_path / "plan", tiny_model, *options, *PLACE)
    assert code == 0 and f", predicted {rows[3]['predicted']['decode']:.3f}x" in out, err
    # Another method on the same latencies; the same command goes on.
    other = ("layers", "find", "random", tiny_model, "--out", tmp_path / "other", "--text", text, *SMALL, *PLACE)
    for sublayers in ("1", "3"):
        code, out, err = erecap(*other, "--sublayers", sublayers, "--latencies", tmp_path / "found")
        assert code == 0, err
    assert "1 steps are there already, and are kept" in err
    code, _, err = erecap(*other, "--sublayers", "3", "--latencies", tmp_path / "found", "--seed", "1")
    assert code == 1 and "searched with seed 0, here it is 1; another --out keeps both, --fresh starts anew" in err
    with FileLock(tmp_path / "other" / ".lock"):
        code, _, err = erecap(*other, "--sublayers", "3", "--latencies", tmp_path / "found")
        assert code == 1 and "other: another process searches here; wait for it, or name another --out" in err
    third = (*other[:5], tmp_path / "third", *other[6:])
    code, _, err = erecap(*third, "--sublayers", "1", "--latencies", tmp_path / "found", "--dtype", "bfloat16")
    assert code == 2 and "found is a search with dtype float32, here it is bfloat16" in err
    code, _, err = erecap(*other, "--speed-up", "50", "--latencies", tmp_path / "found")
    assert code == 2 and "--speed-up: got 50; with one attention left it would be" in err
    code, _, err = erecap("layers", "take", tmp_path / "other", "--speed-up", "9", "--out", tmp_path / "x")
    assert code == 2 and "--speed-up: got 9; the steps in" in err and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("best",), "METHOD: 'best' is not a search method; allowed: blockpruner, magnitude, random, shortgpt, sleb"),
        (("sprint",), "name the target of the search: --sublayers or --speed-up, one of the two"),
        (("sprint", "--sublayers", "2", "--speed-up", "1.1"), "--sublayers or --speed-up, one of the two"),
        (("sleb", "--sublayers", "2", "--metric", "l1"), "method sleb goes without --metric"),
        (("random", "--sublayers", "2", "--phase", "prefill"), "method random goes without --phase"),
        (("sprint", "--sublayers", "2", "--tune", "heads"), "--tune: got 'heads'; allowed: none, attention, mlp"),
        (("sprint", "--sublayers", "2", "--tune", "none", "--ratio", "0.5"), "--tune none goes without --ratio"),
        (("sleb", "--sublayers", "2", "--held-out", "0", "--evaluate-every", "2"), "--held-out 0 goes without --eval"),
        (("sprint", "--sublayers", "2", "--text", "nowhere"), "got 'nowhere'; allowed: planner, a file"),
        (("sprint", "--sublayers", "2", "--count", "0"), "--count: got 0; allowed: 1 or more"),
        (("sprint", "--sublayers", "2", "--clock-tokens", "0"), "clock tokens: got 0; allowed: 1 or more"),
        (
            ("sleb", "--sublayers", "2", "--latencies", "nowhere", "--repetitions", "2"),
            "--latencies goes without --rep",
        ),
        (("sprint", "--speed-up", "nan"), "--speed-up"),
    ],
)
def test_mistakes_are_told_in_one_line(erecap, tiny_model, tmp_path: Path, arguments, message) -> None:  # type: ignore[no-untyped-def]
    method, *options = arguments
    code, _, err = erecap("layers", "find", method, tiny_model, "--out", tmp_path / "x", *options, *PLACE)
    assert code == 2 and message in err
    assert not (tmp_path / "x").exists()


def test_plans_from_where_there_is_no_search(erecap, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for options, message in (
        (("--steps", "1"), "holds no search.jsonl; `erecap layers find` makes such a folder"),
        ((), "layers take: name --steps or --speed-up, one of the two"),
        (("--steps", "1", "--phase", "prefill"), "--steps goes without --phase"),
        (("--speed-up", "1.1", "--phase", "both"), "--phase: got 'both'; allowed: decode, prefill"),
    ):
        code, _, err = erecap("layers", "take", tmp_path, "--out", tmp_path / "plan", *options)
        assert code == 2 and message in err and not (tmp_path / "plan").exists()
    code, _, err = erecap("layers", "steps", tmp_path)
    assert code == 2 and "holds no search.jsonl" in err
