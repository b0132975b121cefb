"""Figures from made-up rows with known answers, and the words beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from erecap.errors import RunError
from erecap.evaluation.figures import CHAIN, SINGLE, TARGETS, summarise_quality
from erecap.evaluation.rows import AgreementRow, QualityRow, read_quality
from erecap.evaluation.table import budget_plot, quality_table, write_budget_plot

ABOUT = {"command": "make quality", "machine": "a processor", "date": "2026-01-31"}


def rows(suite: str, mode: str, won: list[int], *, spl: float = 1.0, **changes: Any) -> list[QualityRow]:
    """An episode for each entry of `won`, which says whether it was won."""
    budget = None if mode in ("reuse", "expert") else 1024
    made = []
    for episode, success in enumerate(won):
        values = {
            "suite": suite,
            "mode": mode,
            "budget": budget,
            "episode": episode,
            "success": bool(success),
            "spl": spl * success,
            "progress": float(success),
            "steps": 10,
            "replans": 3,
            "kept_share": 0.5,
            "tokens": 2000,
            "end": "success" if success else "horizon",
            "model": None if mode == "expert" else "m",
        }
        made.append(QualityRow.model_validate(values | changes))
    return made


def figures(*parts: list[QualityRow], agreement: list[AgreementRow] | None = None) -> dict[str, dict[str, Any]]:
    content = summarise_quality([row for part in parts for row in part], agreement or [], ABOUT)
    return {row["id"]: row for row in content["rows"]}


def won(count: int, n: int = 120) -> list[int]:
    return [1] * count + [0] * (n - count)


def test_success_of_the_unpruned_planner() -> None:
    found = figures(
        rows(SINGLE, "reuse", won(108)),
        rows(SINGLE, "expert", won(114)),
        rows(CHAIN, "reuse", won(60)),
    )
    assert (found["Q1a"]["measured"], found["Q1a"]["n"], found["Q1a"]["holds"]) == (90.0, 120, True)
    assert found["Q1a"]["note"] == "the expert: 95.0 % of 120"
    # Wilson's interval of 108 in 120.
    assert (found["Q1a"]["low"], found["Q1a"]["high"]) == (83.33, 94.19)
    assert (found["Q1b"]["measured"], found["Q1b"]["holds"], found["Q1b"]["label"]) == (50.0, False, "result")
    assert found.keys() == {"Q1a", "Q1b"}  # nothing of what was not played
    assert found["Q1a"]["command"] == "make quality" and found["Q1a"]["target"] == ">= 85"


def test_paired_differences_do_not_care_how_hard_the_episodes_are() -> None:
    same = figures(rows(SINGLE, "reuse", won(60)), rows(SINGLE, "erecap", won(60)))
    for name in ("Q2-single-SR", "Q2-single-SPL"):
        assert [same[name][key] for key in ("measured", "low", "high")] == [0.0, 0.0, 0.0]
        assert same[name]["holds"] and same[name]["note"].startswith("non-inferior (low end above -5)")
    # As many are won, but others: the difference is 0 again, and the interval wide.
    other = figures(rows(SINGLE, "reuse", won(60)), rows(SINGLE, "erecap", won(60)[::-1]))["Q2-single-SR"]
    assert other["measured"] == 0.0 and other["low"] < -15 and other["high"] > 15
    # The point estimate judges; the words depend on the interval.
    assert other["holds"] and other["note"].startswith("not shown to be non-inferior")


def test_a_few_episodes_judge_nothing() -> None:
    found = figures(rows(SINGLE, "reuse", won(2, 2)), rows(SINGLE, "erecap", won(2, 2)))
    assert {row["label"] for row in found.values()} == {"smoke"} and not any(row["holds"] for row in found.values())
    assert found["Q2-single-SR"]["note"].startswith("too few episodes to call it non-inferior")


def test_what_comes_after_a_missing_episode_waits() -> None:
    ours = rows(SINGLE, "erecap", [1, 0, *won(118, 118)])
    gap = [row for row in ours if row.episode != 101]
    parts = rows(SINGLE, "reuse", won(120)), gap
    assert figures(*parts)["Q2-single-SR"]["n"] == 101
    # Episodes within the budget have rows before the others are played: nothing is said of them before that.
    early = [row for row in ours if row.success]
    content = summarise_quality([*parts[0], *early], [], ABOUT)
    assert "Q2-single-SR" not in {row["id"] for row in content["rows"] if row["n"] > 1}
    group = next(group for group in content["modes"] if group["mode"] == "erecap")
    assert (group["counted"], group["waiting"], group["sr"]["value"]) == (1, 118, 1.0)
    assert "first one that it lacks; 118 rows of later ones wait" in quality_table(content)


def test_three_of_a_hundred_lost_is_short_but_their_interval_is_known() -> None:
    found = figures(rows(CHAIN, "reuse", won(100, 100)), rows(CHAIN, "erecap", won(97, 100), spl=0.9))
    figure = found["Q2-chain-SR"]
    assert (figure["measured"], figure["holds"], figure["label"]) == (-3.0, False, "smoke")  # 120 are needed
    assert figure["low"] == -7.0 and figure["high"] == 0.0
    # SPL: 0.9 less on each of those won, 1 less on the three lost.
    assert found["Q2-chain-SPL"]["measured"] == pytest.approx(-(97 * 0.1 + 3) / 100 * 100)
    again = figures(rows(CHAIN, "reuse", won(100, 100)), rows(CHAIN, "erecap", won(97, 100), spl=0.9))
    assert again == found


def test_the_best_control_is_the_opponent_and_all_must_have_played() -> None:
    parts = [
        rows(CHAIN, "erecap", won(90), spl=0.8),
        rows(CHAIN, "recency", won(70)),
        rows(CHAIN, "random", won(20)),
        rows(CHAIN, "attention", won(72), spl=0.5),
        rows(CHAIN, "mask", won(50)),
    ]
    figure = figures(*parts)["Q3"]
    # SR: 90 - 72 of 120. SPL: 72 (90 x 0.8) - 70 of 120, against another control. The better one stands.
    assert figure["measured"] == 15.0 and figure["holds"] and figure["n"] == 120
    assert figure["note"].startswith("SR, against `attention` with 60.0; SPL: +1.7")
    assert "against `recency`; without a learned pruner" in figure["note"]
    assert "Q3" not in figures(*parts[:-1])


def test_ten_points_are_not_enough_where_the_interval_reaches_zero() -> None:
    controls = [rows(CHAIN, mode, won(5, 10)[::-1]) for mode in ("recency", "random", "attention", "mask")]
    figure = figures(rows(CHAIN, "erecap", won(7, 10)), *controls)["Q3"]
    assert figure["measured"] == 20.0 and figure["low"] < 0 and not figure["holds"] and figure["label"] == "smoke"


def test_what_leaving_out_the_episodes_that_outgrew_the_window_changes_is_said() -> None:
    over = rows(CHAIN, "reuse", won(50, 100))
    over[0] = over[0].model_copy(update={"overflow": 2})
    broken = rows(CHAIN, "erecap", won(50, 100))
    broken[1] = broken[1].model_copy(update={"end": "error", "success": False})
    content = summarise_quality([*over, *broken], [], ABOUT)
    found = {row["id"]: row for row in content["rows"]}
    assert (found["Q1b"]["n"], found["Q1b"]["measured"]) == (100, 50.0) and found["Q2-chain-SR"]["n"] == 99
    assert found["Q1b"]["note"].startswith("49.49 (39.85 to 59.18) in the 99 that stayed within the model's window")
    assert "0 (0 to 0) in the 98 that stayed within the model's window" in found["Q2-chain-SR"]["note"]
    modes = {mode["mode"]: mode for mode in content["apart"][0]["modes"]}
    assert content["apart"][0]["episodes"] == 1
    assert (modes["reuse"]["overflowed"], modes["erecap"]["overflowed"], modes["erecap"]["sr"]) == (1, 0, 1.0)
    group = next(group for group in content["modes"] if group["mode"] == "erecap")
    assert (group["episodes"], group["counted"], group["errors"]) == (100, 99, 1)


def test_chains_within_the_window_have_a_figure_of_their_own_that_needs_more_of_them() -> None:
    def chains(n: int) -> dict[str, dict[str, Any]]:
        unpruned = rows(CHAIN, "reuse", won(n, n))
        unpruned[-10:] = [row.model_copy(update={"overflow": 1, "success": False}) for row in unpruned[-10:]]
        return figures(unpruned, rows(CHAIN, "erecap", won(n - 20, n)))

    found = chains(130)
    # Over all 130 the 10 lost on each side differ; within the window 10 of 120 are lost by ours alone.
    assert (found["Q2-chain-SR"]["measured"], found["Q2-chain-SR"]["label"]) == (pytest.approx(-7.69), "result")
    assert (found["Q2-in"]["measured"], found["Q2-in"]["n"], found["Q2-in"]["label"]) == (-8.33, 120, "smoke")
    assert found["Q2-in"]["note"].startswith("too few episodes to call it non-inferior") and not found["Q2-in"]["holds"]
    many = chains(310)["Q2-in"]
    assert (many["measured"], many["n"], many["label"], many["holds"]) == (-3.33, 300, "result", True)
    assert list(found) == [name for name in TARGETS if name in found]


def test_other_budgets_are_compared_with_recency_at_the_same_budget() -> None:
    parts = [rows(CHAIN, "erecap", won(90)), rows(CHAIN, "recency", won(50))]
    parts += [rows(CHAIN, "erecap", won(60), budget=512), rows(CHAIN, "recency", won(57), budget=512)]
    parts += [rows(CHAIN, "erecap", won(30, 40), budget=2048), rows(CHAIN, "recency", won(10, 40), budget=2048)]
    found = figures(*parts)
    few, many = found["Q5-512"], found["Q5-2048"]
    assert (few["measured"], few["n"], few["label"], few["holds"], few["row"]) == (2.5, 120, "result", False, None)
    assert (many["measured"], many["n"], many["label"], many["holds"]) == (50.0, 40, "smoke", False)
    assert "Q5-512" not in figures(*parts[:3])


def agreement(agreed: list[int], tokens: int = 50) -> list[AgreementRow]:
    return [
        AgreementRow(suite=CHAIN, budget=1024, episode=n, plans=5, plan_tokens=tokens, agreed=a, model="m")
        for n, a in enumerate(agreed)
    ]


def test_agreement_is_over_tokens_and_its_interval_over_episodes() -> None:
    figure = figures(agreement=agreement([50, 50, 40, 48]))["Q4"]
    assert (figure["measured"], figure["n"], figure["holds"]) == (94.0, 4, False)
    assert figure["low"] < 94 < figure["high"] <= 100
    assert figure["note"].startswith("200 tokens of 20 plans")


def test_two_planners_are_not_compared() -> None:
    with pytest.raises(RunError, match="rows of two planners"):
        figures(rows(SINGLE, "reuse", won(3)), rows(SINGLE, "erecap", won(3), adapter="b"))
    with pytest.raises(RunError, match="rows of two planners"):
        figures(rows(SINGLE, "reuse", won(3), model="other"), agreement=agreement([1]))


def test_a_damaged_row_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = rows(SINGLE, "reuse", [1])[0].model_dump_json()
    path.write_text(good + "\n" + good.replace('"spl":1.0', '"spl":7.0') + "\n")
    with pytest.raises(RunError, match=r"rows\.jsonl:2: spl: Input should be less than or equal to 1"):
        read_quality(path, QualityRow)
    assert read_quality(tmp_path / "none", QualityRow) == []


def test_the_table_says_what_is_missing_short_or_smoke() -> None:
    lines = {line.split(" | ")[1]: line for line in quality_table({}).splitlines() if " | Q" in line}
    assert lines.keys() == TARGETS.keys()
    assert all(line.endswith("| not measured yet | – |") for line in lines.values())
    parts = [*rows(SINGLE, "reuse", won(60)), *rows(SINGLE, "erecap", won(60)), *rows(CHAIN, "reuse", won(2, 3))]
    content = json.loads(json.dumps(summarise_quality(parts, [], ABOUT)))
    table = quality_table(content)
    lines = {line.split(" | ")[1]: line for line in table.splitlines() if line.startswith("| ")}
    assert lines["Q1a"].endswith("| >= 85 % | 50 (41.19 to 58.81) **short** | 120 |")
    assert lines["Q2-single-SR"].endswith("| >= -2 points | 0 (0 to 0) | 120 |")
    assert "smoke | 3 |" in lines["Q1b"]
    assert "| household-unseen | `erecap` | 1,024 | 120 | 50 % | 41–59 % | 0.50 | 10.0 | 2,000 | 50 % |" in table
    assert table.index("| `reuse` |") < table.index("| `erecap` |")


def test_the_automatic_budget_has_a_row_that_says_how_often_it_dropped() -> None:
    fixed = rows(CHAIN, "erecap", won(20, 40), dropping=0.5)
    automatic = rows(CHAIN, "erecap", won(30, 40), budget="auto", dropping=0.125)
    content = summarise_quality([*automatic, *fixed, *rows(CHAIN, "reuse", won(30, 40))], [], ABOUT)
    assert [(entry["mode"], entry["budget"]) for entry in content["budgets"]] == [
        ("erecap", 1024),
        ("erecap", "auto"),
        ("reuse", None),
    ]
    table = quality_table(content)
    assert "| mode | KV tokens | SR | 95 % | SPL | steps | kept | calls that dropped |" in table
    assert "| `erecap` | auto | 75 % | 60–86 % | 0.75 | 10.0 | 50 % | 12 % |" in table
    assert "| `reuse` | – | 75 % | 60–86 % | 0.75 | 10.0 | 50 % | – |" in table
    svg = budget_plot(content)
    assert svg is not None and ">1,024<" in svg and ">auto<" not in svg  # it is no number of tokens
    # Rows from before it was counted have no such column.
    assert "calls that dropped" not in quality_table(summarise_quality(rows(CHAIN, "erecap", won(3, 4)), [], ABOUT))


def test_the_plot_shows_two_budgets_or_nothing(tmp_path: Path) -> None:
    one = rows(CHAIN, "erecap", won(30, 40))
    assert not write_budget_plot(tmp_path / "p.svg", summarise_quality(one, [], ABOUT))
    assert not (tmp_path / "p.svg").exists()
    unpruned = rows(CHAIN, "reuse", won(60, 120))
    unpruned[0] = unpruned[0].model_copy(update={"overflow": 2})
    two = [*one, *rows(CHAIN, "erecap", won(20, 40), budget=512), *unpruned]
    content = summarise_quality(two, [], ABOUT)
    # On the 40 episodes that all have in common, of which the unpruned planner wins each.
    assert [(entry["mode"], entry["budget"], entry["n"], entry["sr"]["value"]) for entry in content["budgets"]] == [
        ("erecap", 512, 40, 0.5),
        ("erecap", 1024, 40, 0.75),
        ("reuse", None, 40, 1.0),
    ]
    svg = budget_plot(content)
    assert svg is not None and all(text in svg for text in (">512<", ">1,024<", ">erecap<", ">unpruned<"))
    assert write_budget_plot(tmp_path / "p.svg", content) and "<svg" in (tmp_path / "p.svg").read_text()
    assert "<img" not in quality_table({})
    table = quality_table(content)
    assert 'alt="Success on 40 chains' in table and "at each budget; a smoke test:" in table
    assert "| `erecap` | 512 | 50 % | 35–65 % | 0.50 | 10.0 | 50 % |" in table
    # A budget stands beside the same episodes at other budgets, not beside all of them.
    assert "| household-chains-unseen | `erecap` | 512 |" not in table
    assert "| household-chains-unseen | `reuse` | – | 120 |" in table
    assert "| `reuse` | – | 100 % |" in table
    assert "1 episodes outgrew the model's window in some mode (`erecap` 100 % of 1, `reuse` 100 % of 1)" in table
