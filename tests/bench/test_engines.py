"""Figures of engines on one library, and GGUF files of random weights; llama.cpp itself is in tests/engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, dequantize

from erecap.bench.llamacpp import best_engine
from erecap.bench.llamacpp.one_engine import DRAFTED, PLAIN, OneEngineBench, engine_rows
from erecap.bench.llamacpp.random_gguf import ONE_BILLION, SPREAD, random_gguf
from erecap.bench.results import Figure, merge_rows, result_row
from erecap.bench.sides import FLOOR, OURS
from erecap.bench.suite import BEST_ENGINE, publish
from erecap.cost.flops import ModelShape
from erecap.targets import TARGETS
from tests.context.small_tokenizers import byte_level
from tests.engines.small_gguf import random_weights, write_gguf

ABOUT = {"command": "erecap bench engines", "machine": {"cpu": "a processor", "threads": 2}, "date": "2026-01-01"}
LOOKUPS = ("prompt cache, lookup-2", "prompt cache, lookup-10")


def found(times: dict[str, float]) -> dict:
    """A finished measurement with these milliseconds a call."""
    raw = [
        {"mode": mode, "repetition": n, "prefill_ms": ms / 2, "decode_ms": ms / 2, "cpu_ms": 2 * ms, "drafted": 4,
         "accepted": 3}
        for n in range(2) for mode, ms in times.items()
    ]  # fmt: skip
    return {"raw": raw, "read_ms": {PLAIN: 1e3, OURS: 2e3}, "model": "llama 1B Q4_1", "kv": "float16",
            "history_tokens": 7510, "new_tokens": 100}  # fmt: skip


def test_figures_of_r8_stand_beside_their_floors() -> None:
    times = {PLAIN: 300.0, LOOKUPS[0]: 240.0, LOOKUPS[1]: 280.0, OURS: 100.0, DRAFTED: 48.0, FLOOR: 80.0}
    plain, drafted = engine_rows(found(times), ABOUT, OneEngineBench())
    assert (plain["id"], plain["measured"], plain["holds"]) == ("R8-plain", 3.0, True)
    assert "over the floor: prompt cache 3.75, `erecap` 1.25" in plain["note"]
    assert (drafted["id"], drafted["measured"], drafted["holds"]) == ("R8-drafted", 5.0, True)
    assert "fastest as `prompt cache, lookup-2`" in drafted["note"]
    assert engine_rows(found(times), ABOUT, OneEngineBench(length=4000)) == []


def test_r10_is_ours_over_the_floor_of_the_random_model() -> None:
    (row,) = engine_rows(found({OURS: 117.0, FLOOR: 100.0}), ABOUT, OneEngineBench(random=True))
    assert (row["id"], row["measured"], row["holds"], row["row"]) == ("R10", 1.17, True, "algorithm")
    assert row["target"] == str(TARGETS["R10"]) and "floor 100 ms, `erecap` 117 ms" in row["note"]


def best_engine_raw(length: int, **times: float) -> list[dict]:
    """Two repetitions of every side, with these milliseconds a call, else 50."""
    sides = {f"full_{key}": name for key, name in best_engine.FULL.items()}
    sides |= {f"erecap_{key}": name for key, name in best_engine.OURS.items()}
    sides |= {f"floor_{key}": name for key, name in best_engine.FLOORS.items()}
    return [
        {"length": length, "mode": name, "repetition": n, "prefill_ms": times.get(key, 50) - 10, "decode_ms": 10.0,
         "drafted": 0, "accepted": 0}
        for n in range(2) for key, name in sides.items()
    ]  # fmt: skip


def test_r1_takes_each_side_on_its_fastest_engine() -> None:
    raw = best_engine_raw(
        4000, full_transformers=2000, full_llamacpp=3000, erecap_llamacpp=110, erecap_drafted=100, floor_transformers=40
    )
    (row,) = best_engine.best_engine_rows(raw, ABOUT, "llama 256M Q4_1")
    assert (row["id"], row["row"], row["measured"], row["holds"]) == ("R1a", "product", 40.0, True)
    assert "fastest as `full, transformers` and `erecap, transformers`" in row["note"]
    assert row["note"].endswith("; at the floor it would be 50.0")
    raw = best_engine_raw(7500, full_transformers=4000, full_llamacpp=3000, erecap_transformers=200, erecap_drafted=40)
    (row,) = best_engine.best_engine_rows(raw, ABOUT, "llama 256M Q4_1")
    assert (row["id"], row["measured"], row["holds"]) == ("R1b", 75.0, True)
    assert "fastest as `full, llama.cpp` and `erecap drafted, llama.cpp`" in row["note"]
    entry = best_engine.best_engine_summary(raw)[0]
    assert (entry["length"], entry["mode"], entry["over_erecap"]) == (7500, "full, transformers", 100.0)


def test_parts_leave_rows_that_were_measured_more_finely(tmp_path: Path) -> None:
    about = {**ABOUT, "versions": {}, "model": {"name": "m", "dtype": "float32"}}
    raw = best_engine_raw(4000, full_transformers=2000, full_llamacpp=3000)
    best = best_engine.best_engine_rows(raw, {**about, "command": BEST_ENGINE}, "llama")
    drafts = result_row("R7", Figure(3.6, 3.5, 3.7, 5), {**about, "command": "erecap bench drafts"}, row="algorithm")
    merge_rows(tmp_path / "replan.json", [*best, drafts])
    coarse = result_row("R7", Figure(2.0, 1.9, 2.1, 2), about, row="algorithm")
    alone = result_row("R1a", Figure(11.0, 10.0, 12.0, 2), about, row="product")
    plain = result_row("R1a", Figure(5.0, 4.0, 6.0, 2), about, row="algorithm")
    part = {**about, "settings": {}, "summary": {}, "raw": [], "rows": [alone, plain, coarse]}
    found = publish(tmp_path / "replan.json", {"replan": part}, about)["rows"]
    assert [(row["id"], row["row"], row["measured"]) for row in found] == [
        ("R1a", "algorithm", 5.0),
        ("R1a", "product", best[0]["measured"]),
        ("R7", "algorithm", 3.6),
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = byte_level()
    path = tmp_path_factory.mktemp("gguf") / "source.gguf"
    return write_gguf(path, random_weights(len(tokenizer)), tokenizer=tokenizer)


def test_random_weights_have_four_bits_and_the_tokenizer_of_the_other_file(source: Path, tmp_path: Path) -> None:
    shape = ModelShape(2, 64, 96, 4, 2, 16, len(byte_level()))
    path = random_gguf(source, shape, window=512, target=tmp_path / "random.gguf")
    made, before = GGUFReader(path), GGUFReader(source)
    tensors = {tensor.name: tensor for tensor in made.tensors}
    assert len(tensors) == 2 + 2 * 9 and made.fields["llama.context_length"].contents() == 512
    for name, kind, sizes in (("blk.1.ffn_down", "Q4_1", (64, 96)), ("token_embd", "Q8_0", (shape.vocab_size, 64))):
        tensor = tensors[f"{name}.weight"]
        weights = dequantize(tensor.data, tensor.tensor_type)
        assert tensor.tensor_type.name == kind and weights.shape == sizes
        assert np.std(weights) == pytest.approx(SPREAD, rel=0.05) and abs(np.mean(weights)) < SPREAD / 10
    for name, field in before.fields.items():
        if name.startswith("tokenizer."):
            assert made.fields[name].contents() == field.contents()
    assert random_gguf(source, shape, target=path) == path  # it is there
    assert random_gguf(source, shape, target=tmp_path / "same.gguf", window=512).read_bytes() == path.read_bytes()


def test_shapes_that_such_a_file_cannot_have(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        random_gguf(source, ModelShape(1, 40, 96, 4, 2, 10, 10), target=tmp_path / "a.gguf")
    with pytest.raises(ValueError, match="a vocabulary of 49152, the tokenizer one of"):
        random_gguf(source, ONE_BILLION, target=tmp_path / "b.gguf")
    assert list(tmp_path.iterdir()) == []
