"""Model folders whose JSON nobody meant: one line that names file and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from erecap.errors import ModelError
from erecap.models.inspection import inspect_folder, read_header


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", -1),
        ("num_hidden_layers", 0),
        ("num_attention_heads", "8"),
        ("hidden_size", 1.5),
        ("vocab_size", True),
        ("max_position_embeddings", 10**30),
        ("head_dim", -64),
        ("n_layer", -12),
    ],
)
@pytest.mark.parametrize("inner", [False, True])
def test_sizes_that_cannot_be(tmp_path: Path, name: str, value: Any, inner: bool) -> None:
    config = {"model_type": "llama", "num_hidden_layers": 2}
    config |= {"text_config": {name: value}} if inner else {name: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf"config\.json: {name}: got .*; allowed: 1 to 1,000,000,000") as caught:
        inspect_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_sizes_that_some_models_have(tmp_path: Path) -> None:
    config = {"model_type": "x", "num_key_value_heads": None, "intermediate_size": [8, 16], "num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="safetensors"):  # the next thing that it lacks
        inspect_folder(tmp_path)


@pytest.mark.parametrize(
    "content", ["[" * 5000, '{"a": ' + "9" * 5000 + "}", '{"a":' * 400 + "1" + "}" * 400, "\udcff"]
)
def test_json_beyond_the_limits(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"config\.json is not valid JSON") as caught:
        inspect_folder(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "header", [b"[" * 5000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff{}", b'{"a": {"data_offsets": ["x", "y"]}}']
)
def test_headers_beyond_the_limits(tmp_path: Path, header: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match=r"model\.safetensors") as caught:
        read_header(file)
    assert "\n" not in str(caught.value)
