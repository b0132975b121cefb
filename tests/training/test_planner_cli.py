"""`erecap train planner` as it is typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from erecap.cli.main import main
from tests.training.chatworld import row, save_model, save_rows


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a command line."""
    monkeypatch.setattr(sys, "argv", ["erecap", "train", "planner", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_a_training_and_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = save_rows(tmp_path / "data", [row(n) for n in range(4)])
    model = save_model(tmp_path / "base")
    typed = [str(data), "--model", str(model), "--out", str(tmp_path / "out"), "--max-tokens", "512"]
    typed += ["--device", "cpu", "--amp", "none", "--accumulate", "1", "--held-out", "0.25", "--seed", "2"]
    typed += ["--batch-tokens", "900"]
    assert call(monkeypatch, *typed) == 0
    said = capsys.readouterr()
    assert "finished after 6 steps; plans right" in said.out
    assert "ms a token; 6 steps" in said.err and "3 transcripts, 6 plans" in said.err
    settings = json.loads((tmp_path / "out" / "card.json").read_text())["settings"]
    assert settings["seed"] == 2 and settings["accumulate"] == 1 and settings["max_tokens"] == 512
    assert settings["batch_tokens"] == 900
    assert call(monkeypatch, *typed, "--lr", "0.1") == 1
    assert "--fresh starts anew" in capsys.readouterr().err
    assert call(monkeypatch, *typed, "--lr", "0.1", "--fresh", "--epochs", "1") == 0


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["nowhere"], "nowhere: holds no meta.json"),
        (["x", "--rank", "99"], "--rank is 99; allowed: 1 to 32"),
        (["x", "--hours", "0"], "--hours is 0.0; allowed: more than 0"),
        (["x", "--model", "no such model"], "no model 'no such model'"),
    ],
)
def test_bad_input_is_one_line(
    typed: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "--model" not in typed:
        typed = [*typed, "--model", str(save_model(tmp_path / "base")), "--max-tokens", "512"]
    assert call(monkeypatch, *typed, "--out", str(tmp_path / "out")) in (1, 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]


@pytest.mark.integration
def test_the_embedded_model_can_be_trained(tmp_path: Path) -> None:
    import torch

    from erecap.models import load
    from erecap.training.planner.loop import read_log
    from erecap.training.planner.settings import PlannerTraining
    from erecap.training.planner.train import PROGRESS, train_planner

    data = save_rows(tmp_path / "data", [row(n, branch=n == 1) for n in range(2)])
    settings = PlannerTraining((str(data),), rank=4, lr=2e-3, epochs=3, accumulate=2, held_out=0.0, device="cpu")
    train_planner(settings, tmp_path / "out", say=lambda _: None)
    losses = [line["loss"] for line in read_log(tmp_path / "out" / PROGRESS)]
    assert losses[-1] < losses[0]
    merged, tokenizer = load("smollm2-135m-instruct", "float32", "cpu", adapter=str(tmp_path / "out"))
    base, _ = load("smollm2-135m-instruct", "float32", "cpu")
    ids = tokenizer("go to fridge 1", return_tensors="pt").input_ids
    with torch.no_grad():
        assert not torch.allclose(merged(ids).logits, base(ids).logits, atol=1e-3)
