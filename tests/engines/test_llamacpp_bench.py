"""The comparison of two ways to use llama.cpp, at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest

from erecap.bench.llamacpp.one_engine import DRAFTED, PLAIN, OneEngineBench, one_engine_bench, summary_of
from erecap.bench.llamacpp.random_gguf import random_gguf
from erecap.bench.sides import FLOOR, OURS
from erecap.cost.flops import ModelShape
from erecap.errors import ConfigError
from tests.context.small_tokenizers import byte_level
from tests.engines.llamacpp_models import NEEDS_LLAMACPP, gguf_of_small_llama, small_llama

pytestmark = NEEDS_LLAMACPP
SIZES = {"length": 900, "new_tokens": 60, "plan_tokens": 8, "repetitions": 2, "kv_tokens": 512}


def test_all_sides_read_the_same_history() -> None:
    pytest.importorskip("alfworld")
    model = small_llama()
    found = one_engine_bench(OneEngineBench(**SIZES), model, model.tokenizer)
    assert found["history_tokens"] >= 900 and found["new_tokens"] >= 60
    assert set(found["read_ms"]) == {PLAIN, OURS, DRAFTED}
    modes = [entry["mode"] for entry in summary_of(found["raw"])]
    assert modes == [PLAIN, "prompt cache, lookup-2", "prompt cache, lookup-10", OURS, DRAFTED, FLOOR]
    assert len(found["raw"]) == 2 * len(modes)
    with pytest.raises(ConfigError, match="does not fit the window of 4096"):
        one_engine_bench(OneEngineBench(**{**SIZES, "length": 4000}), model, model.tokenizer)


def test_sides_of_the_comparison_of_decoders(tmp_path: Path) -> None:
    from erecap.bench.decoders import LLAMACPP_FILE, LLAMACPP_FLOAT, DecoderBench, exactness, own_sides, times
    from erecap.bench.llamacpp.sides import llamacpp_sides
    from tests.session.chats import model

    made, ids = model(), [(7 * n) % 90 + 3 for n in range(60)]
    bench = DecoderBench(stored=40, steps=6, passes=(1, 3), new_tokens=5, repetitions=1)
    sides = llamacpp_sides(str(gguf_of_small_llama()), tmp_path, 1, lambda line: None)
    exact = {row["side"]: row for row in exactness(bench, sides, made, ids, lambda line: None)}
    assert exact[LLAMACPP_FLOAT]["error"] < 1e-4 < exact[LLAMACPP_FILE]["error"] < 1e-2  # its keys are float16
    assert len(times(bench, {**own_sides(made), **sides}, ids, lambda line: None)) == 7 * 3


def test_a_random_model_stands_beside_its_floor_alone(tmp_path: Path) -> None:
    pytest.importorskip("alfworld")
    from erecap.engines.llamacpp.model import LlamaCppModel, LlamaCppOptions

    path = random_gguf(gguf_of_small_llama(), ModelShape(2, 64, 96, 4, 2, 16, len(byte_level())), target=tmp_path / "r")
    model = LlamaCppModel.open(path, LlamaCppOptions(threads=1))
    found = one_engine_bench(OneEngineBench(**SIZES, random=True), model, model.tokenizer)
    assert [entry["mode"] for entry in summary_of(found["raw"])] == [OURS, FLOOR] and set(found["read_ms"]) == {OURS}


def test_full_and_erecap_on_both_engines() -> None:
    pytest.importorskip("alfworld")
    from erecap.bench.llamacpp.best_engine import (
        FLOORS,
        FULL,
        OURS,
        BestEngineBench,
        best_engine_bench,
        best_engine_summary,
    )  # fmt: skip
    from tests.session.chats import model

    gguf = small_llama()
    bench = BestEngineBench((900,), 60, 8, 2, kv_tokens=512, decode_weights="same")
    raw = best_engine_bench(bench, model(window=4096), gguf, gguf.tokenizer)
    summary = best_engine_summary(raw)
    assert {entry["mode"] for entry in summary} == {*FULL.values(), *OURS.values(), *FLOORS.values()}
    assert len(raw) == 2 * len(summary) and {(row["length"], row["repetition"]) for row in raw} == {(900, 0), (900, 1)}
    assert all(row["prefill_ms"] > 0 and row["decode_ms"] > 0 for row in raw)
    undrafted = {sides["llamacpp"] for sides in (FULL, OURS, FLOORS)}
    assert not undrafted & {row["mode"] for row in raw if row["drafted"]}
    assert min(entry["over_erecap"] for entry in summary if entry["mode"] in OURS.values()) == 1.0
