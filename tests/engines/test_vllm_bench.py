"""The comparison of agents on vLLM at a tiny size; it goes on where it was broken off."""

from __future__ import annotations

from typing import Any

import pytest

from erecap.bench.sides import FLOOR, OURS
from erecap.bench.vllm.agents import PREFIX, AgentsBench, agents_bench, summary_of
from erecap.errors import ConfigError
from tests.engines.vllm_models import NEEDS_VLLM, small_vllm

pytestmark = NEEDS_VLLM
BENCH = AgentsBench(agents=2, length=900, new_tokens=60, plan_tokens=4, repetitions=2, kv_tokens=512)


def test_all_sides_are_timed_and_what_was_timed_is_not_timed_again() -> None:
    pytest.importorskip("alfworld")
    model, saved = small_vllm(), list[tuple[list, dict]]()

    def save(raw: list, read_s: dict) -> None:
        saved.append((list(raw), dict(read_s)))
        if len(saved) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        agents_bench(BENCH, model, save=save)
    [(half, _)] = saved
    assert [(row["mode"], row["repetition"]) for row in half] == [(PREFIX, 0), (OURS, 0), (FLOOR, 0)]
    found = agents_bench(BENCH, model, done=half, save=save)
    assert found["raw"][:3] == half and [row["repetition"] for row in found["raw"]] == [0] * 3 + [1] * 3
    assert saved[-1] == (found["raw"], found["read_s"]) and min(found["read_s"].values()) > 0
    at = {entry["mode"]: entry for entry in summary_of(found["raw"])}
    assert at[FLOOR]["blocks"] < at[OURS]["blocks"] < at[PREFIX]["blocks"]
    assert at[PREFIX]["cached"] > 800 > 512 >= at[OURS]["cached"] > 100

    said: list[Any] = []
    again = agents_bench(BENCH, model, said.append, done=found["raw"], read_s=found["read_s"], save=save)
    assert again == found and said == [] and len(saved) == 2, "nothing is read or timed"


def test_histories_beyond_the_window_are_refused() -> None:
    with pytest.raises(ConfigError, match="a history of 4000 tokens does not fit the window of 4095"):
        agents_bench(AgentsBench(length=4000), small_vllm())
