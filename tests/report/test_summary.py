"""The figures of summary.json: their structure, who counts, and the ceiling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import erecap.report
from erecap.cost.flops import schedule_ceiling
from erecap.report.load import load_run_folder
from erecap.report.page.headline import headline
from erecap.report.page.summary import baseline_of, summarise
from erecap.report.page.timing import pair_by_length, phase_ms
from erecap.report.rows import ModelFacts, ReplanRow
from tests.report.synthetic import LAYERS, MODEL, episode_row, kept_per_layer, make_run, replan_row, write_run

PRUNED = "prune[recency]"


def summary_of(folder: Path) -> dict[str, Any]:
    return summarise(load_run_folder(folder))


def words_of(folder: Path) -> str:
    run = load_run_folder(folder)
    return "\n".join(sentence.text for sentence in headline(run, summarise(run)))


def shape_of(value: Any) -> Any:
    """Keys all the way down, with the values left out."""
    if isinstance(value, dict):
        return {key: shape_of(entry) for key, entry in value.items()}
    return [shape_of(value[0])] if isinstance(value, list) and value else None


def test_structure_is_the_golden_one(tmp_path: Path) -> None:
    """A change of keys is a change of the format: other tools read this file."""
    folder = make_run(tmp_path / "run", episodes=3, calls=3, modes=("full", PRUNED), samples=False)
    golden = Path(__file__).with_name("summary_keys.json")
    assert shape_of(summary_of(folder)) == json.loads(golden.read_text(encoding="utf-8"))


def test_the_same_run_gives_the_same_summary(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", episodes=4, calls=3)
    assert summary_of(folder) == summary_of(folder)


def test_measures_of_a_simulator_are_means_over_the_episodes_that_have_them(tmp_path: Path) -> None:
    rows = [
        episode_row("far", "full", 0, measures={"distance_to_goal": 1.0, "soft_spl": 0.5}),
        episode_row("far", "full", 1, measures={"soft_spl": 1.0}),
        episode_row("far", "full", 2, measures={"soft_spl": 0.0}, end="error", error="gone"),
        episode_row("far", PRUNED, 0, measures={"distance_to_goal": 4.0, "soft_spl": 0.0}),
        episode_row("near", "full", 0),
    ]
    folder = write_run(tmp_path / "run", rows, config={"modes": ["full", PRUNED]}, suites={"far": {}, "near": {}})
    assert summary_of(folder)["measures"] == {
        "far": {
            "full": {"distance_to_goal": {"n": 1, "mean": 1.0}, "soft_spl": {"n": 2, "mean": 0.75}},
            PRUNED: {"distance_to_goal": {"n": 1, "mean": 4.0}, "soft_spl": {"n": 1, "mean": 0.0}},
        }
    }
    page = erecap.report.build(folder).read_text("utf-8")
    assert "Measures of far" in page and "<th>soft spl</th>" in page and "Measures of near" not in page


def test_errors_and_overflow_stand_apart(tmp_path: Path) -> None:
    won = {"success": True, "progress": 1.0, "spl": 0.5, "end": "success"}
    rows = [
        episode_row("s", "full", 0, **won),
        episode_row("s", "full", 1),
        episode_row("s", "full", 2, overflow=2),
        episode_row("s", "full", 3, end="error", error="gone"),
        episode_row("s", PRUNED, 0),
        episode_row("s", PRUNED, 1),
        episode_row("s", PRUNED, 2, **won),
        episode_row("s", PRUNED, 3, **won),
    ]
    summary = summary_of(write_run(tmp_path / "run", rows, config={"modes": ["full", PRUNED]}))
    full, pruned = summary["modes"]["full"], summary["modes"][PRUNED]
    assert (full["episodes"], full["counted"], full["successes"], full["errors"], full["overflow"]) == (4, 2, 1, 1, 1)
    # Episode 2 outgrew the window in `full`, so it counts in no mode; episode 3 has no partner.
    assert (pruned["counted"], pruned["successes"]) == (3, 1)
    paired = summary["paired"][PRUNED]
    assert paired["pairs"] == 2
    assert paired["success"]["value"] == -0.5
    assert paired["spl"]["value"] == -0.25
    assert paired["success"]["low"] == -1.0 and paired["success"]["high"] == 0.0
    assert summary["apart"]["errors"] == [{"suite": "s", "mode": "full", "episode": 3, "error": "gone"}]
    assert summary["apart"]["overflow"]["episodes"] == 1
    assert summary["apart"]["overflow"]["modes"][PRUNED]["successes"] == 1


def test_pairs_are_matched_by_episode_not_by_order(tmp_path: Path) -> None:
    won = {"success": True, "end": "success"}
    rows = [episode_row("s", "full", n, **(won if n == 5 else {})) for n in (5, 6, 7)]
    rows += [episode_row("s", PRUNED, n, **(won if n == 5 else {})) for n in (7, 6, 5)]
    paired = summary_of(write_run(tmp_path / "run", rows))["paired"][PRUNED]
    assert paired["pairs"] == 3
    assert paired["success"] == {"value": 0, "low": 0, "high": 0}


def test_label_needs_a_hundred_episodes_in_every_mode(tmp_path: Path) -> None:
    modes = ["full", PRUNED]
    rows = [episode_row("s", mode, n) for mode in modes for n in range(100)]
    assert summary_of(write_run(tmp_path / "a", rows, config={"modes": modes}))["label"] == "result"
    assert summary_of(write_run(tmp_path / "b", rows[:-1], config={"modes": modes}))["label"] == "smoke"
    assert "do not rank" in words_of(tmp_path / "b")


@pytest.mark.parametrize(
    ("modes", "expected"), [(["expert", "full"], "full"), ([PRUNED, "expert"], PRUNED), ([], None)]
)
def test_baseline(modes: list[str], expected: str | None) -> None:
    assert baseline_of(modes) == expected


def calls_run(folder: Path, speed_up: float, **changes: Any) -> Path:
    """Six equally long calls in each of two modes, the pruned prefill `speed_up` times as fast."""
    rows = [episode_row("s", mode, 0) for mode in ("full", PRUNED)]
    replans = [replan_row("s", "full", 0, n, prompt_tokens=1000, prefill_ms=1000.0, **changes) for n in range(6)]
    replans += [
        replan_row("s", PRUNED, 0, n, prompt_tokens=1000, prefill_ms=1000.0 / speed_up, **changes) for n in range(6)
    ]
    return write_run(folder, rows, replans, config={"modes": ["full", PRUNED]})


def test_ceiling_beside_the_speed_up(tmp_path: Path) -> None:
    summary = summary_of(calls_run(tmp_path / "run", 2.0))
    figures = summary["ceiling"][PRUNED]
    expected = schedule_ceiling(ModelFacts(**MODEL).shape, kept_per_layer(PRUNED, 1000), [1000] * LAYERS)
    assert figures["pairs"] == 6
    assert figures["total"] == pytest.approx(expected.total)
    assert figures["prefill_speed_up"] == pytest.approx(2.0)
    assert figures["share_of_ceiling"] == pytest.approx(2.0 / expected.total)
    assert not figures["fault"] and summary["faults"] == []
    assert "full" not in summary["ceiling"]


def test_a_speed_up_above_its_ceiling_says_that_times_are_rough(tmp_path: Path) -> None:
    assert summary_of(calls_run(tmp_path / "noise", 3.1))["faults"] == []  # above 2.96, within the allowance
    few = calls_run(tmp_path / "few", 3.6)
    rows = (few / "replans.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (few / "replans.jsonl").write_text("".join(rows[:-2]), encoding="utf-8")
    assert summary_of(few)["ceiling"][PRUNED]["pairs"] == 4
    assert summary_of(few)["faults"] == []
    assert summary_of(calls_run(tmp_path / "fault", 3.6))["faults"] == [PRUNED]
    words = words_of(tmp_path / "fault")
    assert "This machine was busy, times are rough: in the median of 6 pairs of calls" in words
    assert f"the prefill of {PRUNED} was " in words
    assert "1.22× as fast as its token counts allow (allowance 10 %)." in words and "Fault" not in words


def test_contended_calls_are_not_timed(tmp_path: Path) -> None:
    summary = summary_of(calls_run(tmp_path / "run", 2.0, contended=True))
    latency = summary["modes"][PRUNED]["latency"]
    assert (latency["calls"], latency["contended_calls"], latency["total_ms"]) == (0, 6, None)
    assert summary["ceiling"] == {}
    assert summary["modes"][PRUNED]["model_calls"] == 6  # their tokens still count


def test_phases_add_up_to_the_whole_call() -> None:
    times = {"tokenize_ms": 5, "prefill_ms": 100, "prune_ms": 20, "decode_ms": 50, "total_ms": 160}
    phases = phase_ms(ReplanRow(**replan_row("s", PRUNED, 0, 0) | times))
    assert phases == {"tokenize": 5, "prefill": 80, "prune": 20, "decode": 50, "other": 5}


def test_calls_pair_by_length_within_their_suite() -> None:
    def call(suite: str, mode: str, tokens: int, episode: int = 0) -> ReplanRow:
        return ReplanRow(**replan_row(suite, mode, episode, 0, prompt_tokens=tokens))

    baseline = [call("s", "full", 1000, 1), call("s", "full", 1000, 2), call("s", "full", 2000), call("t", "full", 500)]
    pairs = pair_by_length(baseline, [call("s", PRUNED, 1000, 2), call("s", PRUNED, 1960), call("s", PRUNED, 500)])
    assert [(first.prompt_tokens, first.episode, second.prompt_tokens) for first, second in pairs] == [
        (1000, 2, 1000),
        (2000, 0, 1960),
    ]


def test_words_claim_nothing_from_few_pairs(tmp_path: Path) -> None:
    rows = [episode_row("s", "full", 0, success=True, end="success"), episode_row("s", PRUNED, 0)]
    text = words_of(write_run(tmp_path / "run", rows, config={"modes": ["full", PRUNED]}))
    assert "No claim is made" in text and "excludes" not in text


def test_words_say_when_pruning_is_slower(tmp_path: Path) -> None:
    text = words_of(calls_run(tmp_path / "run", 0.8))
    assert f"Below 1× is slower: the prefill of {PRUNED}" in text
    assert "0.80× (at most 2.9" in text
    assert "Prompts are short" not in text  # 1,000 tokens


def test_words_claim_no_more_than_the_intervals(tmp_path: Path) -> None:
    won = {"success": True, "end": "success"}
    lost_all = [episode_row("s", "full", n, **won) for n in range(24)] + [
        episode_row("s", PRUNED, n) for n in range(24)
    ]
    text = words_of(write_run(tmp_path / "differs", lost_all, config={"modes": ["full", PRUNED]}))
    assert f"{PRUNED} differs from full by −100.0 points" in text and "excludes zero" in text
    alike = [episode_row("s", mode, n) for mode in ("full", PRUNED) for n in range(24)]
    text = words_of(write_run(tmp_path / "alike", alike, config={"modes": ["full", PRUNED]}))
    assert "exactly the same episodes" in text
    assert "never trained to plan" in text  # nothing was won, and the model is the stock one
    adapted = {**MODEL, "adapter": {"name": "plans", "hash": "sha256:1"}}
    text = words_of(write_run(tmp_path / "adapted", alike, config={"modes": ["full", PRUNED]}, model=adapted))
    assert "never trained" not in text and f"the planner model ({MODEL['name']} with plans) before" in text
    hard = alike + [episode_row("s", "expert", n) for n in range(24)]
    text = words_of(write_run(tmp_path / "hard", hard, config={"modes": ["full", PRUNED, "expert"]}, model=adapted))
    assert "the expert's included" in text and "the planner model (" not in text
    mixed = [episode_row("s", "full", n, **(won if n % 2 else {})) for n in range(24)]
    mixed += [episode_row("s", PRUNED, n, **(won if n % 3 else {})) for n in range(24)]
    text = words_of(write_run(tmp_path / "mixed", mixed, config={"modes": ["full", PRUNED]}))
    assert f"No difference in success from full is shown for {PRUNED}" in text
    assert "never trained" not in text
