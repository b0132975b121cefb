"""A growing chat asked of a bare and of a wrapped model: the same answers, few tokens read, and the summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from erecap.bench.wrap import WrapBench, wrap_summary
from erecap.errors import ConfigError
from tests.bench.test_replan import byte_level, model


@pytest.mark.parametrize("changes", [{"lengths": ()}, {"lengths": (0,)}, {"plan_tokens": 0}, {"repetitions": 0}])
def test_settings_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="allowed: from 1 on"):
        WrapBench(**changes)
    with pytest.raises(ConfigError, match="16 or more"):
        WrapBench(kv_tokens=8)


def test_the_summary_compares_within_a_repetition() -> None:
    def row(repetition: int, side: str, ms: float, equal: int = 4) -> dict[str, Any]:
        tokens = {"prompt_tokens": 100, "read_tokens": 100 if side == "bare" else 10, "stored_tokens": 0}
        return {"repetition": repetition, "length": 50, "side": side, "ms": ms, "equal_tokens": equal, **tokens}

    rows = [row(0, "bare", 100), row(0, "wrapped", 50), row(0, "budget", 20, 3)]
    rows += [row(1, "bare", 300), row(1, "wrapped", 60), row(1, "budget", 30, 2)]
    bare, wrapped, budget = wrap_summary(rows)
    assert bare["speed_up"] == [1, 1, 1] and bare["ms"] == [200, 100, 300] and bare["read_tokens"] == 100
    assert wrapped["speed_up"] == [3.5, 2, 5] and wrapped["equal_tokens"] == 1 and wrapped["read_tokens"] == 10
    assert budget["equal_tokens"] == 0.625


@pytest.mark.integration
def test_the_command(erecap, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("alfworld")
    model().save_pretrained(tmp_path / "tiny")
    byte_level().save_pretrained(tmp_path / "tiny")
    options = ("--lengths", "400,3000", "--repetitions", 1, "--kv-tokens", 300, "--plan-tokens", 4, "--out", "w.json")
    code, out, err = erecap("bench", "wrap", "--model", tmp_path / "tiny", "--note", "on a tiny model", *options)
    assert code == 0 and "100.0%" in out, err
    found = json.loads(Path("w.json").read_text())
    assert found["note"] == "on a tiny model" and found["settings"]["lengths"] == [400, 3000]
    assert [row["side"] for row in found["summary"]] == ["bare", "wrapped", "budget"] * 2
    for row in found["rows"]:
        if row["side"] == "bare":
            assert row["read_tokens"] == row["prompt_tokens"] > row["length"]
        else:
            assert row["read_tokens"] < row["prompt_tokens"] / 2
        if row["side"] == "budget":
            assert row["stored_tokens"] <= 300
        else:
            assert row["equal_tokens"] == 4
