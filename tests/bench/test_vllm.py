"""The bench of agents on vLLM: its figures, and what it says where vLLM is missing."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from typer.testing import CliRunner

from erecap.bench.sides import FLOOR, OURS
from erecap.bench.vllm.agents import PREFIX, AgentsBench, agents_rows, summary_of
from erecap.cli.main import app
from erecap.errors import ConfigError


def rows(*totals: tuple[str, float, float]) -> list[dict[str, Any]]:
    return [
        {"mode": mode, "repetition": number // 3, "total_ms": ms, "blocks": blocks, "cached": 10.0}
        for number, (mode, ms, blocks) in enumerate(totals)
    ]


RAW = rows(
    (PREFIX, 9000, 60), (OURS, 3000, 9), (FLOOR, 2000, 2),
    (PREFIX, 8000, 60), (OURS, 4000, 9), (FLOOR, 2500, 2),
    (PREFIX, 9600, 60), (OURS, 3200, 12), (FLOOR, 2000, 2),
)  # fmt: skip
ABOUT = {"command": "c", "date": "d", "machine": {"cpu": "x", "threads": 2}}
FOUND = {"raw": RAW, "read_s": {PREFIX: 100.0, OURS: 50.0}, "model": "llama-30x576", "block": 128}


def test_the_figures_are_medians_and_their_ranges_those_of_repetitions() -> None:
    at = {entry["mode"]: entry for entry in summary_of(RAW)}
    assert at[PREFIX]["total_ms"] == 9000 and at[PREFIX]["over_erecap"] == 9000 / 3200 and at[OURS]["blocks"] == 10
    assert at[OURS]["over_floor"] == 1.6 and at[FLOOR]["n"] == 3
    speed, blocks = agents_rows(FOUND, ABOUT, AgentsBench())
    assert (speed["id"], speed["low"], speed["high"], speed["n"]) == ("R9-speed", 2.0, 3.0, 3)
    assert speed["measured"] == pytest.approx(9000 / 3200, abs=0.01)
    assert (blocks["id"], blocks["measured"], blocks["low"], blocks["high"]) == ("R9-blocks", 0.15, 0.15, 0.2)
    assert speed["holds"] and blocks["holds"] and "prefix cache 100 s, erecap 50 s" in speed["note"]
    for other in (AgentsBench(agents=4), AgentsBench(length=1000)):
        assert agents_rows(FOUND, ABOUT, other) == []


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_it_says_what_to_install() -> None:
    result = CliRunner().invoke(app, ["bench", "vllm"])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith("engine vllm: vllm is not installed; pip install 'erecap[vllm]'")
