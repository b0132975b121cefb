"""Budgets are exact, and a count that is off by one is told."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from erecap.cli.main import app
from erecap.evaluation import budgets
from erecap.tokens import SCORER_NAMES
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "BUDGETS", (128,))
    monkeypatch.setattr(budgets, "KEEPS", (0.7,))


def test_each_ranking_stores_its_budget_and_each_scorer_its_share() -> None:
    checks = {check.name: check for check in budgets.check_budgets(model(), byte_level())}
    assert set(checks) == {
        *(f"budget 128 by {name}" for name in budgets.RANKINGS),
        *(f"keep 0.7 by {name}" for name in SCORER_NAMES),
    }
    assert all(check.ok is True for check in checks.values()), checks
    assert checks["budget 128 by random"].found.startswith("128 of ")
    assert checks["keep 0.7 by recency"].found == "400 to 280 of 400 tokens by layer, as counted beforehand"


def test_the_counts_are_those_of_the_cache_after_every_call() -> None:
    found = budgets.stored_after_calls(model(), byte_level(), 300, "recency")
    reads = [read for read, _ in found]
    assert len(found) == budgets.TURNS and reads == sorted(reads) and reads[0] < 128 < 300 < reads[-1]
    assert all(kept == (min(read, 300),) * 8 for read, kept in found)


@pytest.mark.parametrize("off", [-1, 1])
def test_one_token_too_few_or_too_many_is_told(off: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, kept = budgets.stored_after_calls, budgets.kept_by_layer

    def stored_wrongly(*args: Any) -> Any:
        found = stored(*args)
        read, counts = found[-2]
        found[-2] = (read, (*counts[:-1], counts[-1] + off))
        return found

    def kept_wrongly(*args: Any) -> Any:
        counts = kept(*args)
        return (*counts[:5], counts[5] + off, *counts[6:])

    monkeypatch.setattr(budgets, "stored_after_calls", stored_wrongly)
    monkeypatch.setattr(budgets, "kept_by_layer", kept_wrongly)
    checks = list(budgets.check_budgets(model(), byte_level()))
    assert not any(check.ok for check in checks)
    low, high = sorted((128, 128 + off))
    assert checks[0].found.startswith(f"{low} to {high} stored of ") and checks[0].found.endswith("128 wanted")
    assert checks[-1].found == f"layer 5 stores {280 + off} of 400 tokens, 280 wanted"


def test_the_command_shows_them_behind_the_models_own_checks(tmp_path: Any) -> None:
    model().save_pretrained(tmp_path / "tiny")
    byte_level().save_pretrained(tmp_path / "tiny")
    done = CliRunner().invoke(app, ["models", "check", str(tmp_path / "tiny"), "--budgets"])
    assert done.exit_code == 0, done.output
    assert "generates" in done.output and "keep 0.7 by random" in done.output
    assert (
        "budget" not in CliRunner().invoke(app, ["models", "check", str(tmp_path / "tiny")]).output.split("stores")[0]
    )
