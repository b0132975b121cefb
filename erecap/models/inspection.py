"""Integrity of a model folder: everything that can be told without loading it."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

from erecap.errors import ModelError
from erecap.untrusted import parse_json
from erecap.untrusted import read_json as read_any_json

# Sizes of a model, in the words of most and of the GPT-2 family.
_SIZES = {
    "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "head_dim",
    "vocab_size", "max_position_embeddings", "n_layer", "n_head", "n_embd", "n_positions",
}  # fmt: skip
_LARGEST = 10**9
ADAPTER = "adapter_config.json"


def inspect_folder(folder: Path) -> dict[str, Any]:
    """Check that a Hugging Face folder is whole, by its file names, JSON and safetensors headers.

    Returns:
        The parsed `config.json`.

    Raises:
        ModelError: a file is missing, is not valid JSON, or is shorter than its header says, or an adapter lies beside
            the model; names the file.
    """
    config = read_json(folder / "config.json")
    if "model_type" not in config:
        raise ModelError(f"{folder / 'config.json'}: no 'model_type', so this is not a Hugging Face model folder")
    if (folder / ADAPTER).exists():
        raise ModelError(
            f"{folder / ADAPTER}: transformers would change the model's weights by this adapter without a word; "
            "move its files to a folder of their own, and name that as the adapter"
        )
    _check_sizes(folder, config)
    _check_numbers(folder / "config.json", config)
    _check_token_ids(folder / "config.json", config)
    for shard in weight_files(folder):
        read_header(shard)
    tokenizer_files = ("tokenizer.json", "tokenizer.model", "vocab.json")
    if not any((folder / file).is_file() for file in tokenizer_files):
        raise ModelError(f"{folder}: no tokenizer; one of {', '.join(tokenizer_files)} must be there")
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (folder / file).is_file():
            values = read_json(folder / file)
            if file == "generation_config.json":
                _check_token_ids(folder / file, values)
    return config


def _check_numbers(path: Path, value: Any, name: str = "") -> None:
    """Refuse NaN anywhere in a configuration. Infinity is a limit that some models have."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        _check_numbers(path, part, f"{name}.{key}".lstrip("."))
    if isinstance(value, float) and math.isnan(value):
        raise ModelError(f"{path}: {name}: got NaN; allowed: a number")


def _check_token_ids(path: Path, values: dict[str, Any]) -> None:
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        value = values.get(name)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(number) is int for number in ids):
            raise ModelError(f"{path}: {name}: got {repr(value)[:40]}; allowed: a token id or a list of them")


def _check_sizes(folder: Path, config: dict[str, Any]) -> None:
    parts = [config, *(config[name] for name in ("text_config",) if isinstance(config.get(name), dict))]
    for part in parts:
        for name in _SIZES & part.keys():
            value = part[name]
            if value is None or isinstance(value, list):  # a list has one for each layer
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
                shown = repr(value)[:40]
                raise ModelError(f"{folder / 'config.json'}: {name}: got {shown}; allowed: 1 to {_LARGEST:,}")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: `model.safetensors`, or the shards that its index names.

    Raises:
        ModelError: there are none (weights in pickle format are not read).
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{index}: no 'weight_map'")
        return [folder / shard for shard in sorted(set(weight_map.values()))]
    single = folder / "model.safetensors"
    if not single.is_file():
        raise ModelError(f"{single} is missing; weights are read from safetensors only")
    return [single]


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """The header of a safetensors file: name -> dtype, shape, data_offsets (bytes from the header's end).

    Raises:
        ModelError: the file is missing, is not safetensors, or was cut short.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            header = parse_json(file.read(length)) if length <= size - 8 else None
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not a readable safetensors file: {first_line(error)}") from error
    if not isinstance(header, dict):
        raise ModelError(f"{path} is not a safetensors file, or was cut short ({size:,} bytes)")
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    try:
        expected = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (KeyError, TypeError, IndexError) as error:
        raise ModelError(f"{path}: the safetensors header is damaged") from error
    if size != expected:
        raise ModelError(f"{path} is damaged: {size:,} bytes, {expected:,} expected")
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ModelError: the file is missing or is not a JSON object.
    """
    try:
        value = read_any_json(path)
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not valid JSON: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value


def first_line(error: Exception) -> str:
    """The first line of an error's message: these are shown to people as one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
