"""Figures and paired differences by hand."""

from __future__ import annotations

import math

import pytest

from erecap.errors import RunError
from erecap.evaluation.comparison import Measure, Measured, compare, label, measure_all
from erecap.evaluation.shown import notes, plot, table

LOSS = Measure("perplexity", "", "nats", "tokens", exponential=True)
SCORE = Measure("F1", "points", "f1", scale=100, better="higher", digits=1)


def rows(*pairs):
    return [{"nats": nats, "tokens": tokens, "f1": nats / 10} for nats, tokens in pairs]


def test_figures_are_ratios_of_sums_and_differences_are_paired() -> None:
    dense = Measured("dense", {"change": {"mode": {}}}, rows((2.0, 1), (6.0, 3)))
    thin = Measured("thin", {"change": {"mode": {}}}, rows((3.0, 1), (9.0, 3)))
    one, other = compare([LOSS, SCORE], [dense, thin])
    assert one["figures"]["perplexity"]["value"] == pytest.approx(math.exp(8 / 4), rel=1e-5)
    assert other["figures"]["perplexity"]["value"] == pytest.approx(math.exp(12 / 4), rel=1e-5)
    # Each item is one nat a token worse, so that the paired interval is a point, and that of the figure is too here.
    assert other["figures"]["perplexity"]["against_dense"] == {
        key: pytest.approx(math.e, rel=1e-5) for key in ("value", "low", "high")
    }
    assert one["figures"]["F1"]["value"] == pytest.approx(40) and other["figures"]["F1"]["against_dense"]["value"] == 20
    assert one["figures"]["F1"]["low"] == 20 and one["figures"]["F1"]["high"] == 60
    assert one["n"] == 2 and one["figures"]["F1"]["label"] == "smoke" and label(100) == "result"


def test_only_items_that_every_subject_has_are_compared() -> None:
    dense = Measured("dense", {"change": {"mode": {}}}, [*rows((2.0, 1), (6.0, 3)), None])
    thin = Measured("thin", {"change": {"mode": {}}}, [*rows((3.0, 1)), None, *rows((1.0, 1))])
    found = compare([LOSS], [dense, thin])
    assert [row["n"] for row in found] == [1, 1] and found[0]["passed_over"] == 2
    assert found[0]["figures"]["perplexity"]["value"] == pytest.approx(math.exp(2), rel=1e-5)
    with pytest.raises(RunError, match="no item was measured with all subjects"):
        compare([LOSS], [dense, Measured("x", {}, [None, None, None])])
    with pytest.raises(RunError, match="of one item cannot be paired"):
        compare([LOSS], [dense, Measured("x", {}, rows((1.0, 2), (1.0, 3), (1.0, 1)))])


def test_measures_of_several_tasks_have_items_of_their_own() -> None:
    both = [Measured(name, {"change": {"mode": {}}}, [{"a": 1.0}, {"a": 0.0}, {"b": 1.0}]) for name in ("dense", "x")]
    found = compare([Measure("a", "", "a"), Measure("b", "", "b")], both)
    assert {name: (figure["value"], figure["n"]) for name, figure in found[1]["figures"].items()} == {
        "a": (0.5, 2),
        "b": (1.0, 1),
    }


def test_subjects_are_asked_in_turn() -> None:
    asked = []
    found = measure_all("AB", [1, 2], lambda s, i: asked.append((s, i)) or {"s": s}, lambda _: None)  # type: ignore[func-returns-value]
    assert asked == [("A", 1), ("B", 1), ("A", 2), ("B", 2)] and found == [[{"s": "A"}] * 2, [{"s": "B"}] * 2]


def test_table_plot_and_notes() -> None:
    evicts = {"change": {"mode": {"kv": {"evict": "attention", "stale_first": False}}, "kv_tokens": 64}}
    dense = Measured("dense", {"change": {"mode": {}}}, rows((2.0, 1), (6.0, 3)))
    ours = Measured("attention 64", evicts, rows((3.0, 1), (9.0, 3)))
    found = compare([LOSS, SCORE], [dense, ours])
    grid = table(found, [LOSS, SCORE])
    cells = [list(column.cells) for column in grid.columns]
    assert [str(cell) for cell in cells[0]] == ["dense", "", "attention 64", ""]
    assert cells[4] == ["", "", "2.718x", "+20.0"] and cells[6] == ["2 smoke"] * 4
    svg = plot("qa", found, [LOSS, SCORE])
    assert svg.startswith("<svg") and "attention 64" in svg and "F1, points" in svg
    assert [line.split(";")[0].split(" at ")[0] for line in notes(found)] == [
        "n = 2: a smoke test", "no recency and no random",
    ]  # fmt: skip
    controls = [
        Measured(by, {"change": {"mode": {"kv": {"evict": by, "stale_first": False}}, "kv_tokens": 64}}, ours.items)
        for by in ("recency", "random")
    ]
    assert len(notes(compare([LOSS], [dense, ours, *controls]))) == 1
