"""The row X1 by hand, and `erecap bench exits` from a text to the results file and its table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from erecap.bench.exits.results import exits_row
from erecap.cli.main import app
from erecap.errors import ConfigError, ErecapError
from tests.context.small_tokenizers import byte_level
from tests.decoding.exiting import folder
from tests.session.chats import model, start, turn
from tools.readme.exits_table import exits_table

ABOUT = {"command": "erecap bench exits", "machine": {"cpu": "a processor", "threads": 1}, "date": "2026-01-31"}


def summary(bound: float, same: float = 1.0) -> dict[str, Any]:
    heads = {
        name: {"bounds": {"verified": value}} for name, value in (("full", 1.01), ("small", bound), ("draft", 9.0))
    }
    found = {"exit_layers": {"20": 3, "24": 1}, "mean_layer": 21.0, "left_early": 0.4, "same_texts": same}
    return {"heads": heads, "layers": 30, "exit": found}


def timed(*speeds: float) -> list[dict[str, Any]]:
    return [
        {"round": number, "way": way, "ms": 100.0 * speed, "tokens": 8}
        for number, exit in enumerate(speeds)
        for way, speed in (("plain", exit), ("exit", 1.0))
    ]


def test_what_of_the_bound_is_reached() -> None:
    row = exits_row(summary(1.4), timed(1.3, 1.32, 1.28), ABOUT, "algorithm")
    assert row is not None and (row["id"], row["row"], row["holds"], row["bound"]) == ("X1", "algorithm", True, 1.4)
    assert row["measured"] == pytest.approx(0.75) and row["low"] == pytest.approx(0.7)
    assert "1.30x (1.28 to 1.32) of at most 1.40x" in row["note"] and "after 21.0 of 30 layers" in row["note"]
    assert "verdict" not in row
    other = exits_row(summary(1.4, same=0.9), timed(1.3, 1.32, 1.28), ABOUT, "product")
    assert other is not None and other["holds"] is False and "90 % of the answers are the plain ones" in other["note"]


@pytest.mark.parametrize(("bound", "speeds"), [(1.1, (1.2, 1.2)), (1.4, (1.1, 0.99)), (0.9, (1.1, 1.1))])
def test_a_low_bound_or_no_gain_is_the_verdict(bound: float, speeds: tuple[float, ...]) -> None:
    row = exits_row(summary(bound), timed(*speeds), ABOUT, "algorithm")
    assert row is not None and row["verdict"] == "does not pay"
    assert exits_row(summary(bound), [], ABOUT, "algorithm") is None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, and chats."""
    made = tmp_path_factory.mktemp("exits")
    model().save_pretrained(made / "tiny")
    byte_level().save_pretrained(made / "tiny")
    chats = [[*start(), *turn(f"go to shelf {n}", n), {"role": "assistant", "content": "take mug 1"}] for n in (1, 2)]
    (made / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return made


def bench(place: Path, *options: str) -> str:
    settings = (
        "--timed",
        "1",
        "--repetitions",
        "1",
        "--kv",
        "30",
        "--new-tokens",
        "6",
        "--dtype",
        "float32",
        "--model",
    )
    command = ["bench", "exits", str(place / "chats.jsonl"), *settings, str(place / "tiny"), *options]
    return CliRunner().invoke(app, command, catch_exceptions=False, standalone_mode=False).output


def test_from_a_text_to_the_table(place: Path) -> None:
    out, results = place / "part.json", place / "exits.json"
    asked = ("--exit-layer", "3", "--threshold", "0", "--out", str(out), "--resume", "--results", str(results))
    said = bench(place, *asked)
    assert "X1" in said and "chats.jsonl" in said and "decoded with early exit" in said
    content = json.loads(results.read_text())
    row = content["rows"][0]
    assert row["id"] == "X1" and row["row"] == "algorithm" and row["bound"] > 0
    part = content["parts"]["algorithm"]
    assert len(part["raw"]) == 2 * 5 and part["settings"]["exit"] == {"layer": 3, "threshold": 0.0}
    table = exits_table(content)
    assert "| X1 |" in table and "the planner as it is" in table and "whole head" in table
    # What was measured with the same settings is kept; other settings are measured.
    before = out.read_text()
    assert bench(place, *asked).count("X1") == said.count("X1") and out.read_text() == before
    bench(place, "--row", "product", *asked)
    assert out.read_text() != before
    # Other texts under the same name are other settings.
    before, chats = out.read_text(), place / "chats.jsonl"
    text = chats.read_text()
    chats.write_text(text.replace("mug 1", "mug 2"))
    bench(place, "--row", "product", *asked)
    chats.write_text(text)
    assert json.loads(out.read_text())["settings"]["hash"] != json.loads(before)["settings"]["hash"]
    assert [row["row"] for row in json.loads(results.read_text())["rows"]] == ["algorithm", "product"]
    assert "an adapter trained for it" in exits_table(json.loads(results.read_text()))


def test_before_the_first_measurement_the_table_says_so() -> None:
    assert "not measured yet" in exits_table({}) and "| X1 | >= 0.7 |" in exits_table({})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--results", "x.json"), "--results: got it without --exit or --exit-layer, or without --out"),
        (("--row", "best"), "--row: got 'best'; allowed: algorithm, product"),
        (("--resume",), "--resume: got it without --out"),
        (("--threshold", "0.9"), "--threshold, --no-lossless: they are of exits"),
        (("--no-lossless",), "--threshold, --no-lossless: they are of exits"),
        (("other/chats.jsonl",), "DATA: got two sources named chats.jsonl; allowed: each name once"),
    ],
)
def test_options_that_mean_nothing_are_one_line(place: Path, options: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        bench(place, *options)


def test_an_exit_that_cannot_be_had_is_said_before_texts_are_read(place: Path, tmp_path: Path) -> None:
    # A text that cannot be read comes before all bounds; the exit comes before the text.
    (tmp_path / "broken.jsonl").write_text("{\n")
    other = folder(tmp_path / "other", model(), "never")
    for options, said in (
        (("--exit-layer", "8"), "exit: layer is 8; allowed: 1 to 7 of this model"),
        (("--exit", str(other)), "the exit predictor was trained for weights None"),
    ):
        command = ["bench", "exits", str(tmp_path / "broken.jsonl"), "--model", str(place / "tiny"), *options]
        with pytest.raises(ErecapError, match=said):
            CliRunner().invoke(app, command, catch_exceptions=False, standalone_mode=False)
