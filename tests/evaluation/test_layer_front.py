"""The front of layer plans on a tiny model: measured, resumed, proposed, and its figures by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erecap.bench.layer_clock import LayerClock
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError, RunError
from erecap.evaluation.layer_front.front import Place, knee, pareto
from erecap.evaluation.layer_front.measuring import LayersMeasure, Measuring, controller_row
from erecap.evaluation.layer_front.output import propose
from erecap.evaluation.layer_front.plans import SEARCHES, Candidate
from erecap.evaluation.layer_front.points import Point, alone, combinations
from erecap.evaluation.layer_front.rows import around, differing, removal_rows
from erecap.evaluation.layer_front.running import about_opened, draw_front
from erecap.evaluation.layer_front.settings import FrontSettings
from erecap.evaluation.layer_front.timing import timed_calls
from erecap.evaluation.plans import collected
from erecap.layers import load_plan
from erecap.layers.search import SearchFolder
from erecap.layers.search.folder import Row
from erecap.rollout.run_folder.lock import owned
from erecap.training.controller.settings import TrainSettings
from erecap.tuning.samples import Transcript
from tests.context.small_tokenizers import byte_level
from tests.layers.search_models import LATENCIES
from tests.tuning.histories import write
from tools.readme.layers_table import layers_table

ABOUT = {
    "command": "erecap tune layers", "date": "2026-11-30", "machine": {"cpu": "a processor", "threads": 1},
    "model": {"name": "tiny", "dtype": "float32"},
}  # fmt: skip


def small(text: Path, **changed: Any) -> FrontSettings:
    """A front that takes seconds on a tiny model."""
    return FrontSettings(**{
        "methods": ("sleb", "random"), "speed_ups": (1.1,), "texts": (str(text),), "count": 2, "length": 16,
        "slices": ("channels-0.3",), "slice_count": 2, "multiple": 4, "kv_tokens": (64,), "combined": 1, "episodes": 2,
        "calls": 2, "timed_calls": 1, "rounds": 1, "clock": LayerClock(24, 2, 1), "together": 2, "least": 0.0,
    } | changed)  # fmt: skip


def timed(folder: Path, opened: Any) -> None:
    """A search of no step in `folder`, with latencies that nobody had to measure."""
    about = {"base": vars(opened.base), "layers": 8, "dtype": "float32", "method": "random", "seed": 0}
    empty: dict[str, Any] = {"options": {}, "calibration": {}, "held_out": {}, "evaluate_every": 1}
    SearchFolder(folder / SEARCHES / "a-timed").begin({**about, **empty}, lambda: dict(LATENCIES))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "general.txt"
    path.write_text(" ".join(f"You see mug {number} on shelf {7 * number}." for number in range(80)))
    return path


def test_the_front_is_what_nothing_beats() -> None:
    dense, a, slower, c = Place("dense", 1.0, 1.0), Place("a", 1.1, 0.99), Place("b", 1.05, 0.98), Place("c", 1.2, 0.9)
    assert pareto([c, slower, a, dense, Place("slow", 0.9, 1.0)]) == [dense, a, c]
    assert pareto([dense, Place("as fast", 1.0, 0.9)]) == [dense]


def test_the_knee_lies_farthest_above_the_line_between_the_ends() -> None:
    front = [Place("dense", 1.0, 1.0), Place("a", 1.1, 0.98), Place("b", 1.2, 0.9), Place("c", 1.4, 0.6)]
    # Of 0.4 in speed and 0.4 in agreement: a is at 0.25 for 0.05, b at 0.5 for 0.25.
    found = knee(front, 0.0)
    assert found is not None and found.name == "b"
    found = knee(front, 0.9)  # the line ends at b: a is at 0.5 for 0.2
    assert found is not None and found.name == "a"
    below = [Place("dense", 1.0, 1.0), Place("x", 1.1, 0.5), Place("y", 1.3, 0.4)]
    found = knee(below, 0.0)
    assert found is not None and found.name == "dense"
    assert knee([Place("x", 1.1, 0.5)], 0.9) is None


def test_points_and_their_combinations() -> None:
    plan = Candidate("sprint-2", "sprint", Path("x"), "blocks 1", 2)
    points = alone([plan])
    assert [point.name for point in points] == ["dense", "sprint-2"]
    more = combinations(points, (64,), True)
    assert [point.name for point in more[:3]] == ["drafts", "64 tokens", "64 tokens + drafts"] and len(more) == 6
    assert Point(plan, 64, True).name == "sprint-2 + 64 tokens + drafts"
    assert Point(draft=True).lossless and not Point(kv_tokens=64).lossless
    assert len(combinations(points, (), False)) == 0


def test_a_front_is_measured_once_and_ends_with_a_profile(opened, text: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, out, said = opened(), tmp_path / "out", []
    timed(out, model)
    histories = write(tmp_path / "histories", episodes=3, turns=3)
    stated = {"model": "tiny", "adapter": None}

    def draw(**changed: Any) -> Any:
        return draw_front(
            small(text, **changed), model, stated, out, ABOUT, collected(histories, 0), say=said.append
        )  # fmt: skip

    run = draw()
    result = run.result
    names = [point["name"] for point in result["points"]]
    assert names[0] == "dense" and {"sleb-1", "channels-0.3", "drafts", "64 tokens", "64 tokens + drafts"} <= {*names}
    # Combined are the whole model and, where one lies on the front, a plan.
    assert len(names) in (1 + 3 + 3, 1 + 3 + 3 + 3) and result["data"]["plans"]["plans"] == 3
    by_name = {point["name"]: point for point in result["points"]}
    assert by_name["dense"]["agreement"] == by_name["drafts"]["agreement"] == 1.0
    assert by_name["sleb-1"]["agreement"] == by_name["sleb-1"]["figures"]["same tokens"]["value"] / 100
    assert by_name["sleb-1"]["predicted"]["decode"] == pytest.approx(1.111, abs=1e-3)
    assert by_name["sleb-1"]["clock"]["decode"]["n"] == 1 and "clock" not in by_name["drafts"]
    assert all(point["speed_up"]["value"] > 0 for point in result["points"])
    assert set(result["front"]) <= {*names} and result["knee"] in result["front"]
    written = {path.name for path in out.iterdir()}
    assert {"front.json", "front.md", "front.svg", "profile.yaml", "calls.jsonl", "clock.jsonl"} <= written
    table, _, proposed = (out / "front.md").read_text().partition("Proposed: `")
    assert "| `dense` | 1 |" in table and str(tmp_path) not in table and proposed.startswith(result["knee"])
    # The same again: nothing is measured, and the last line was cut short.
    rows = {name: (out / name).read_bytes() for name in ("calls.jsonl", "clock.jsonl", "agreement.jsonl")}
    with (out / "calls.jsonl").open("ab") as file:
        file.write(b'{"subject": "x')
    again = draw().result
    assert again == result and {name: (out / name).read_bytes() for name in rows} == rows
    # By whole plans, from the same rows.
    other = draw(by="plans", kv_tokens=(), drafts=False, least=1.0).result
    row = next(point for point in other["points"] if point["name"] == "sleb-1")
    assert row["agreement"] == pytest.approx(1 - row["figures"]["plans that differ"]["value"] / 100)
    assert len(other["points"]) == 4 and (out / "calls.jsonl").read_bytes() == rows["calls.jsonl"]


def test_the_profile_is_a_plan_that_models_open_with(opened, plan, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = Path(plan("thin", blocks=(3,)))
    point = Point(Candidate("sleb-1", "sleb", folder, "blocks 3", 1), 64, True)
    row = {
        "figures": {"same tokens": {"value": 97.5}, "plans that differ": {"value": None}}, "episodes": [None, None],
        "speed_up": {"value": 1.2},
    }  # fmt: skip
    model = {"model": "smollm2-135m-instruct", "adapter": "smollm2-135m-planner"}
    found = propose(tmp_path, point, row, model, None)
    saved = load_plan(tmp_path / "profile")
    assert saved.blocks == (3,) and saved.test == {"calls_speed_up": 1.2, "episodes": 2, "same tokens": 97.5}
    assert opened().with_layers(str(tmp_path / "profile")).model.config.num_hidden_layers == 7
    assert found["plan"] == "profile" and '"kv_tokens": 64' in found["yaml"] and "adapter:" in found["yaml"]
    found = propose(tmp_path, Point(draft=True), row, model, None)
    assert found["plan"] is None and not (tmp_path / "profile" / "plan.safetensors").exists()


def point_of(method: str, decode: float, differ: list[int], predicted: float | None = None) -> dict[str, Any]:
    """A point whose episodes have ten plans each."""
    speed = {"value": decode, "low": decode - 0.01, "high": decode + 0.01, "n": 3}
    episodes = [{"plans": 10, "compared": 50, "same": 50 - one, "differ": one} for one in differ]
    return {
        "name": f"{method}-{decode}", "method": method, "kv_tokens": None, "draft": False, "episodes": episodes,
        "clock": {"decode": speed, "prefill": speed}, "predicted": {"decode": predicted or decode},
    }  # fmt: skip


def test_plans_that_differ_are_compared_at_equal_measured_speed(tmp_path: Path) -> None:
    points = [point_of("sprint", 1.1, [0, 2]), point_of("sprint", 1.2, [2, 4]), point_of("sprint", 1.4, [4, 8])]
    points += [point_of("sleb", 1.15, [2, 6]), point_of("sleb", 1.35, [8, 10], predicted=1.5)]
    every = np.arange(2)
    # 1.15 is half-way between shares of 0.1 and 0.3; 1.3 between 0.3 and 0.6.
    ours = [differing(around(points[:3], one), every) for one in (1.15, 1.3)]
    theirs = [differing(around(points[3:], one), every) for one in (1.15, 1.3)]
    assert ours == pytest.approx([0.2, 0.45]) and theirs == pytest.approx([0.4, 0.4 + 0.75 * 0.5])
    searches = {method: searched(tmp_path / method, seconds) for method, seconds in (("sprint", 1.0), ("sleb", 2.0))}
    rows, missing = removal_rows(points, searches, ABOUT)
    by_id = {row["id"]: row for row in rows}
    assert by_id["L1-sleb"]["measured"] == pytest.approx(max(0.2 / 0.4, 0.45 / 0.775), rel=1e-3)
    assert by_id["L1-sleb"]["holds"] is False and by_id["L1-sleb"]["n"] == 20
    assert "at 1.15x 20.0 % over 40.0 %" in by_id["L1-sleb"]["note"]
    assert by_id["L1-sleb"]["low"] <= by_id["L1-sleb"]["measured"] <= by_id["L1-sleb"]["high"]
    assert by_id["L2-sleb"]["measured"] == 2.0 and "4 evaluations of 1 s over 4 of 0.5 s" in by_id["L2-sleb"]["note"]
    assert by_id["L3"]["measured"] == pytest.approx(1.5 / 1.35, rel=1e-3) and "sleb-1.35" in by_id["L3"]["note"]
    assert missing == ["L1-blockpruner, L2-blockpruner: no search with blockpruner"]
    rows, missing = removal_rows([*points[:2], *points[3:]], searches, ABOUT)
    assert "L1-sleb: the plans of sprint reach 1.20x of 1.3x" in missing and "L1-sleb" not in {r["id"] for r in rows}


def searched(folder: Path, seconds: float) -> SearchFolder:
    """A search of two steps, the second at 1.4x, with two evaluations each."""
    found = SearchFolder(folder)
    base = {"name": "tiny", "hash": "sha256:0", "adapter": None}
    head = {"base": base, "layers": 8, "dtype": "float32", "method": "random", "options": {}, "seed": 0}
    found.begin({**head, "calibration": {}, "held_out": {}, "evaluate_every": 1}, lambda: dict(LATENCIES))
    for step, speed_up in enumerate((1.0, 1.2, 1.4)):
        done = {"removed": [f"{step}.mlp"], "evaluations": 2, "seconds": seconds, "passes": 1.0} if step else {}
        found.add(Row(step=step, predicted={"decode": speed_up}, **done))
    return found


def test_a_controller_that_gains_nothing_has_its_verdict() -> None:
    def result(low: float) -> dict[str, Any]:
        own = {"value": 0.01, "low": low, "high": 0.02}
        test = {"minus": {"best fixed": own}, "bound": {**own, "value": 0.05}, "prompts": 12, "best_fixed": "int8"}
        return {"about": {"method": "bandit"}, "test": test}

    row = controller_row(result(-0.01), ABOUT)
    assert (row["id"], row["measured"], row["holds"], row["verdict"]) == ("L5", -0.01, False, "does not pay")
    assert row["bound"]["value"] == 0.05 and "an oracle gains +0.050" in row["note"]
    row = controller_row(result(0.005), ABOUT)
    assert row["holds"] is True and "verdict" not in row


def test_the_parts_of_make_layers_go_into_one_file(opened, text: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, out, results = opened(), tmp_path / "out", tmp_path / "results" / "layers.json"
    byte_level().save_pretrained(tmp_path / "tiny")  # prompts are counted before the model is opened
    timed(out, model)
    histories = write(tmp_path / "histories", episodes=4, turns=3)
    front = small(text, methods=("sprint",), speed_ups=(1.2,), slices=(), combined=0)
    settings = LayersMeasure(
        front, controller_prompts=4, loads=("idle",), train=TrainSettings(steps=20, passes=1)
    )  # fmt: skip

    def measuring() -> Measuring:
        stated = {"model": str(tmp_path / "tiny"), "adapter": None, "dtype": "float32", "threads": 1}
        return Measuring(settings, model, stated, ABOUT, out, results, smoke=True)

    measuring().front(collected(histories, 0))
    first = measuring().controller(histories, None)
    assert content_of(results)["front"]["model"] == {"name": "tiny", "dtype": "float32", "adapter": None}
    content = content_of(results)
    assert [row["id"] for row in content["rows"]] == ["L3", "L5"] and content["rows"][0]["note"].startswith("smoke; ")
    assert [row["holds"] for row in content["rows"]] == [None, None] and str(tmp_path) not in json.dumps(
        content["rows"]
    )
    assert "thin" in first["about"]["actions"] and (tmp_path / "results" / "layer-front.svg").exists()
    assert measuring().controller(histories, None) == first  # a finished training is kept
    assert len(list(out.glob("controller-*"))) == 1
    measuring().controller(write(tmp_path / "others" / "histories", episodes=4, turns=3), None)
    assert len(list(out.glob("controller-*"))) == 2  # other calls in a folder of the same name
    table = layers_table(content)
    assert "| `dense` | 1 |" in table and "L1-sleb, L2-sleb: no search with sleb." in table
    assert "| L4 | >= 0.7 x | not measured yet | – |" in table and "smoke | " in table
    assert layers_table({}).count("not measured yet") == 7


def test_calls_that_are_timed_have_read_what_came_before() -> None:
    chat = [{"role": "system", "content": "You plan."}, {"role": "user", "content": "See a mug."}]
    chat += [{"role": "assistant", "content": "take mug"}, {"role": "user", "content": "You have it."}]
    both = Transcript(chat, [(2, "take mug"), (4, "go home ")])
    (call,) = timed_calls([Transcript(chat, []), both, both], byte_level(), 1024, 1)
    assert call.history == chat[:3] and call.messages[-1]["content"] == "You have it." and call.plan == "go home"
    window = len(render_prompt(chat, byte_level()).input_ids)  # leaves no room for the answer of the later one
    (call,) = timed_calls([both], byte_level(), window, 1)
    assert call.history == [] and call.plan == "take mug"
    with pytest.raises(ConfigError, match="no planning call fits the model's window"):
        timed_calls([both], byte_level(), 10, 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"speed_ups": (0.9,)}, "--speed-ups: got 0.9; allowed: above 1"),
        ({"slices": ("rows-0.2",)}, "--slices: got 'rows-0.2'; allowed: heads-SHARE, channels-SHARE"),
        ({"slices": ("heads-2",)}, "--slices: got 'heads-2'"),
        ({"kv_tokens": (3,)}, "--kv-tokens: got 3; allowed: 16 or more"),
        ({"by": "words"}, "--by: got 'words'; allowed: tokens, plans"),
        ({"least": 2.0}, "--least: got 2; allowed: 0 to 1"),
        ({"methods": (), "slices": ()}, "--methods, --slices: both are empty"),
        ({"methods": ("sleb", "sleb")}, "--methods: one is named twice"),
        ({"rounds": 0}, "--rounds: got 0; allowed: 1 or more"),
    ],
)
def test_settings_that_make_no_sense(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FrontSettings(**changed)
    assert message in str(caught.value)


def content_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_what_is_needed_in_the_end_is_looked_at_before_a_search(opened, text: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    histories = write(tmp_path / "histories", episodes=2, turns=2)
    for changed, message in (({"play": "nowhere"}, "nowhere"), ({"evict_by": "nobody"}, "nobody")):
        with pytest.raises(ConfigError, match=message) as caught:
            settings = small(text, **changed)
            draw_front(settings, opened(), {}, tmp_path / "out", ABOUT, collected(histories, 0))
        assert "\n" not in str(caught.value) and not (tmp_path / "out" / SEARCHES).exists()


def test_results_name_the_adapter_and_the_number_format_that_was_opened(opened) -> None:  # type: ignore[no-untyped-def]
    model = opened()
    adapted = replace(model, facts={**model.facts, "dtype": "bfloat16", "adapter": {"name": "plans", "hash": "x"}})
    assert about_opened(ABOUT, adapted)["model"] == {"name": "tiny", "dtype": "bfloat16", "adapter": "plans"}
    front = {"settings": {"count": 1, "length": 2, "timed_calls": 1, "by": "tokens"}, "date": "", "knee": None}
    front |= {"model": about_opened(ABOUT, adapted)["model"], "machine": {"threads": 1}, "points": []}
    front["data"] = {"plans": {"plans": 1, "episodes": 1}}
    assert "tiny with plans in bfloat16" in layers_table({"front": front})


def test_a_folder_in_use_is_refused(opened, text: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with owned(tmp_path), pytest.raises(RunError, match="another process"):
        draw_front(small(text), opened(), {}, tmp_path, ABOUT, [])
