"""A conversation on a server and in the process: the same answers, and the summary of their times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from erecap.bench.serve import ServeBench, serve_summary
from erecap.errors import ConfigError
from tests.bench.test_replan import byte_level, model


@pytest.mark.parametrize("changes", [{"turns": 3}, {"turn_tokens": 0}, {"kv_tokens": 8}])
def test_settings_that_make_no_sense(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="allowed: at least 4, 1, 1 and 16"):
        ServeBench(**changes)


def test_the_summary_judges_calls_beyond_the_budget() -> None:
    def row(tokens: int, served: float, direct: float, same: bool = True) -> dict[str, Any]:
        return {"prompt_tokens": tokens, "served_ms": served, "direct_ms": direct, "same": same}

    rows = [row(10, 900, 1), row(200, 20, 10), row(300, 20, 20), row(400, 30, 20), row(500, 30, 20, False)]
    found = serve_summary(rows, 100)
    assert found["calls"] == 4 and found["tokens"] == [200, 500] and found["served_ms"] == 25
    assert found["served_over_direct"] == 1.5 and found["late_over_early"] == 1.5 and found["same_answers"] == 0.75
    assert serve_summary(rows, 1000)["calls"] == 3  # a short conversation: its later half


@pytest.mark.integration
def test_the_command(erecap, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("alfworld")
    model().save_pretrained(tmp_path / "tiny")
    byte_level().save_pretrained(tmp_path / "tiny")
    options = ("--turns", 5, "--kv-tokens", 500, "--plan-tokens", 4, "--out", "serve.json")
    code, out, err = erecap("bench", "serve", "--model", tmp_path / "tiny", *options)
    assert code == 0 and "same answers: 100%" in out, err
    found = json.loads(Path("serve.json").read_text())
    assert [row["cached_tokens"] > 0 for row in found["rows"]] == [False, True, True, True, True]
    assert found["model"]["name"] == "tiny" and found["settings"]["turns"] == 5
