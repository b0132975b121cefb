"""The generated tables, result lines and figure of the documents: targets beside what was measured."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from erecap.bench import results as bench
from erecap.targets import targets_of
from tools.readme.engines_table import engine_quality, engines_table
from tools.readme.remote_table import remote_table
from tools.readme.short_results import short_results
from tools.readme.time_figure import points, time_figure
from tools.readme.together_table import together_table
from tools.readme.write import filled, replan_table

ABOUT = {"command": "erecap bench all", "machine": {"cpu": "a processor", "threads": 2}, "date": "2026-01-31"}


def results() -> dict[str, Any]:
    rows = [
        bench.result_row("R1a", bench.Figure(5.4321, 5, 6, 5), ABOUT, row="algorithm", note="far from the floor"),
        bench.result_row("R1a", bench.Figure(19, 18.5, 20, 5), ABOUT, row="product"),
        bench.result_row("R2", bench.Figure(1.1, 1, 1.2, 5), ABOUT, row="algorithm"),
        bench.result_row("R8", bench.Figure(2.7, 2.6, 2.8, 5), ABOUT, row="product"),
    ]
    calls = [
        {"row": row, "length": length, "mode": mode, "total_ms": length * factor}
        for length in (4000, 7500)
        for row, mode, factor in [
            ("algorithm", "full", 3.0),
            ("algorithm", "floor", 0.5),
            ("product", "full", 2.5),
            ("product", "floor", 0.25),
            *([("hf", "hf", 4.0)] if length > 4000 else []),
        ]
    ]
    settings = {"new_tokens": 100, "plan_tokens": 32, "repetitions": 5, "kv_tokens": 1024}
    model = {"name": "tiny", "dtype": "float32"}
    part = {"settings": settings, "date": "2026-01-31", "model": model, "summary": {"calls": calls}}
    with TemporaryDirectory() as folder:
        head = {"machine": {"threads": 2}, "parts": {"replan": part}}
        return bench.merge_rows(Path(folder) / "replan.json", rows, **head)


def targets(table: str) -> list[str]:
    """The rows of the first table, whose second cell is an id."""
    return [line for line in table.split("\n\n")[1].splitlines() if re.search(r"^\| [^|]+ \| R\d", line)]


def test_every_target_stands_in_the_table_with_its_limit() -> None:
    lines = targets(replan_table(results()))
    for line, (name, target) in zip(lines, targets_of("replan").items(), strict=True):
        assert line.startswith(f"| {target.what} | {name} | {target} |")


def test_target_and_measured_side_by_side() -> None:
    lines = replan_table(results()).splitlines()
    by_id = {line.split(" | ")[1]: line for line in targets("\n".join(lines))}
    assert by_id["R1a"].endswith("| >= 18 | 5.432 (5 to 6) **short** | 19 (18.5 to 20) |")
    assert by_id["R2"].endswith("| <= 1.15 | 1.1 (1 to 1.2) | – |")
    assert by_id["R5"].endswith("| >= -1 | not measured | – |")
    assert by_id["R8"].endswith("| – | – | 2.7 (2.6 to 2.8) |")  # no target, so it cannot fall short
    assert "- R1a, algorithm: far from the floor." in lines


def test_seconds_by_length_in_all_rows() -> None:
    lines = replan_table(results()).splitlines()
    assert "| history | `full` | floor | `full`, product | floor, product | stock `generate` |" in lines
    assert "| 4,000 | 12.00 | 2.00 | 10.00 | 1.00 | – |" in lines
    assert "| 7,500 | 22.50 | 3.75 | 18.75 | 1.88 | 30.00 |" in lines


def test_speed_and_quality_stand_in_one_table() -> None:
    def group(suite: str, mode: str, budget: int | None, sr: float, counted: int = 120) -> dict[str, Any]:
        return {
            "suite": suite, "mode": mode, "budget": budget, "sr": {"value": sr}, "spl": sr / 2, "counted": counted,
            "waiting": 0,
        }  # fmt: skip

    chains, single = "household-chains-unseen", "household-unseen"
    modes = [group(single, "reuse", None, 0.9), group(chains, "reuse", None, 0.7), group(chains, "erecap", 1024, 0.6)]
    ignored = [group(chains, "erecap", 512, 0.1), group("babyai-mixed", "mask", 1024, 0.2)]
    lines = together_table(results(), {"modes": [*modes, *ignored]}).splitlines()
    assert lines[2] == "| mode | 4,000 | 7,500 | SR single | SPL | SR chains | SPL |"
    assert lines[4:] == [
        "| `full` | 12.00 | 22.50 | 90 % of 120 | 0.45 | 70 % of 120 | 0.35 |",
        "| `reuse` | – | – | 90 % of 120 | 0.45 | 70 % of 120 | 0.35 |",
        "| `erecap` | – | – | – | – | 60 % of 120 | 0.30 |",
    ]
    modes[2]["counted"] = 12
    lines = together_table(results(), {"modes": modes}).splitlines()
    assert lines[6].startswith("| `erecap` | – | – | – | – | 60 % of 12 |")
    assert lines[-1].startswith("Not all modes have played as many episodes of a suite yet")
    assert together_table(results(), {}).splitlines()[4:] == ["| `full` | 12.00 | 22.50 | – | – | – | – |"]


def test_remote_views_one_a_row() -> None:
    row = {"view": "mask", "prompt_tokens": 12345, "longest": 1000, "cached_share": 0.5, "dollars": 0.25}
    row |= {"dollars_without_cache": 0.5, "calls_without_a_fact": 0.031}
    about = {"conversations": 2, "calls": 9, "budget": 1024, "model": "m", "cache": {"block": 128, "least": 1024}}
    lines = remote_table({**about, "rows": [row]}).splitlines()
    assert "2 recorded household chains" in lines[0] and "at most 1,024 tokens" in lines[0]
    assert lines[-1] == "| `mask` | 12,345 | 1,000 | 50% | 0.250 | 0.500 | 3.1% |"
    assert "not measured yet" in remote_table({})


def test_engines_beside_their_targets_and_pairs_of_episodes(tmp_path: Path) -> None:
    from erecap.files import write_json

    share = {"value": 0.5, "low": 0.2, "high": 0.8}
    modes = {name: {"counted": 8, "sr": share} for name in ("transformers", "llamacpp")}
    paired = {"pairs": 8, "success": {"value": -0.125, "low": -0.25, "high": 0.0}}
    summary = {"label": "smoke", "baseline": "transformers", "suites": {"s": modes}}
    summary["paired"] = {"llamacpp": {"suites": {"s": paired}}}
    config = {"budget": {"kv_tokens": 1024}}
    head = {"name": "q", "created": "2026-01-31T00", "machine": {}, "model": {"name": "m"}, "config": config}
    write_json(tmp_path / "run.json", {**head, "suites": {"s": {}}, "versions": {}})
    write_json(tmp_path / "summary.json", {**summary, "status": "interrupted"})
    with pytest.raises(ValueError, match="the run is interrupted; results are kept of finished runs"):
        engine_quality(tmp_path)
    write_json(tmp_path / "summary.json", {**summary, "status": "finished"})
    rows = [bench.result_row("R10", bench.Figure(1.3, 1.25, 1.4, 5), ABOUT, row="algorithm", note="floor 2 s")]
    table = engines_table({"rows": rows, "parts": {"quality": engine_quality(tmp_path)}})
    by_id = {line.split(" | ")[1]: line for line in table.splitlines() if re.search(r"^\| [^|]+ \| R\d", line)}
    assert list(by_id) == list(targets_of("engines"))
    assert by_id["R10"].endswith("| <= 1.2 | 1.3 (1.25 to 1.4) **short** | 5 | a processor, 2 threads | 2026-01-31 |")
    assert by_id["R8-plain"].endswith("| >= 3 | not measured | – | – | – |")
    assert "- R10, algorithm: floor 2 s." in table and "(1,024 tokens kept)" in table
    assert table.splitlines()[-2:] == [
        "| s | `transformers` | 8 | 50 % | 20–80 % | – | – |",
        "| s | `llamacpp` | 8 | 50 % | 20–80 % | -12.5 (-25.0 to +0.0) | 8 |",
    ]
    assert engines_table({}).count("| not measured |") == len(by_id)
    ms = {what: {"median": 2.0, "min": 1.0, "max": 3.0} for what in ("1", "8", "prefill")}
    part = {"settings": {"new_tokens": 100, "stored": 1024, "repetitions": 15}, "date": "2026-01-31"}
    part |= {"model": {"name": "m"}, "machine": ABOUT["machine"]}
    summary = [{"side": "transformers", "ms": ms, "error": 2e-6, "agreeing": 63, "tokens": 64}]
    table = engines_table({"parts": {"decoders": {**part, "summary": summary}}})
    assert "| decoder | 1 (ms) | 8 (ms) | 100 tokens, as a prompt (ms) | error | same first choice |" in table
    assert table.endswith("| transformers | 2.0 | 2.0 | 2.0 | 2.0e-06 | 63 of 64 |")


def test_only_the_marked_blocks_change(tmp_path: Path) -> None:
    from erecap.files import write_json

    root = Path(__file__).parents[2]
    (tmp_path / "demo.json").write_text((root / "docs" / "results" / "demo.json").read_text())
    write_json(tmp_path / "replan.json", results())
    text = "before\n<!-- results:replan -->\nworn out\n<!-- /results:replan -->\nafter\n"
    new = filled(text, tmp_path)
    assert new.startswith("before\n<!-- results:replan -->\nEach figure") and new.endswith(
        "<!-- /results:replan -->\nafter\n"
    )
    assert "worn out" not in new and filled(new, tmp_path) == new


def test_three_lines_with_interval_number_and_baseline() -> None:
    def figure(name: str, measured: float, low: float, high: float, n: int) -> dict[str, Any]:
        return {"id": name, "measured": measured, "low": low, "high": high, "n": n}

    replan = {
        "rows": [
            {**figure("R1b", 24.0, 23, 25, 5), "row": "product"},
            {**figure("R1b", 13.44, 11.7, 14, 5), "row": "algorithm"},
        ]
    }
    quality = {
        "rows": [
            figure("Q2-chain-SR", 15.83, 6.7, 25, 120),
            figure("Q3", 3, -1, 7, 90),
            figure("Q2-in", -10.9, -21.8, 0, 55),
        ]
    }
    time, long, short = short_results(replan, quality).splitlines()
    assert "13.4 times as fast as reading everything again (11.7 to 14.0, n = 5)" in time
    assert "+15.8 points (+6.7 to +25.0, n = 120) against the unpruned planner" in long
    assert long.endswith("(recency, random, attention, masked text): +3.0 points (-1.0 to +7.0, n = 90).")
    assert "-10.9 points (-21.8 to +0.0, n = 55)" in short


def test_the_figure_of_time_shows_medians_and_ranges() -> None:
    raw = [
        {"row": row, "mode": mode, "length": length, "total_ms": ms * length}
        for row in ("algorithm", "product")
        for mode, factor in (("full", 4.0), ("reuse", 0.5), ("erecap", 0.25))
        for length in (1000, 7500)
        for ms in (factor, factor * 0.5, factor * (2 if row == "algorithm" else 9))
    ]
    short, longest = points(raw, "full")
    assert longest.middle == 30.0
    assert (short.length, short.middle, short.low, short.high, short.n) == (1000, 4.0, 2.0, 8.0, 3)
    settings = {"new_tokens": 100, "plan_tokens": 32, "kv_tokens": 1024}
    part = {"raw": raw, "settings": settings, "model": {"name": "tiny", "dtype": "float32"}, "date": "2026-01-31"}
    svg = time_figure({"parts": {"replan": part}, "machine": {"threads": 2}})
    assert svg == time_figure({"parts": {"replan": part}, "machine": {"threads": 2}})
    assert ">30.0 s  read everything again (full)<" in svg and ">1.9 s  keep 1,024 tokens (erecap)<" in svg
    assert svg.count("<polyline") == 3 and ">65 s<" in svg and ">1,000<" in svg and ">7,500<" in svg
    # The line of `full` rises to the height of its seconds: 30 of 65 between the margins.
    line = re.search(r'--full\)" points="(\S+),(\S+) (\S+),(\S+)"/>\n<polygon', svg)
    assert line is not None and float(line[4]) == round(320 - 46 - 30 / 65 * (320 - 44 - 46), 1)
