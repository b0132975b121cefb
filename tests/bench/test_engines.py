"""Figures of engines on one library, and GGUF files of random weights; llama.cpp itself is in tests/engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, dequantize

from erecap.bench.llamacpp.one_engine import DRAFTED, PLAIN, OneEngineBench, engine_rows
from erecap.bench.llamacpp.random_gguf import ONE_BILLION, SPREAD, random_gguf
from erecap.bench.sides import FLOOR, OURS
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
