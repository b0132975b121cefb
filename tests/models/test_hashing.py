"""Fingerprints tell weights apart, not the way they are packed."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file

from erecap.models import fingerprint, load


def test_folder_model_and_shards_agree(tiny: Path, tmp_path: Path) -> None:
    model, _ = load(str(tiny), dtype="float32", device="cpu")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert fingerprint(tiny) == fingerprint(model) == fingerprint(tmp_path / "shards")


def test_a_tied_matrix_counts_once(tiny: Path) -> None:
    before = fingerprint(tiny)
    tensors = load_file(tiny / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tiny / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(tiny) == before


def test_one_number_or_the_dtype_changes_it(tiny: Path) -> None:
    before = fingerprint(tiny)
    half, _ = load(str(tiny), dtype="bfloat16", device="cpu")
    assert fingerprint(half) != before
    tensors = load_file(tiny / "model.safetensors")
    tensors["model.norm.weight"][3] += 1e-6
    save_file(tensors, tiny / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(tiny) != before
