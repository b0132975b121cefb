"""Readers of files that somebody else may have written: whatever is wrong with them is an error of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erecap.errors import ModelError

if TYPE_CHECKING:
    import torch

DEEPEST = 200  # levels; what is nested deeper breaks whoever walks through it afterwards
MOST_BYTES = 512 << 20  # of a file


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Args:
        text: bytes are UTF-8.

    Raises:
        ValueError: not UTF-8, not JSON, a number of thousands of digits, or nested too deeply.
    """
    try:
        value = json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    level, left = 0, [value]
    while left:
        level += 1
        if level > DEEPEST:
            raise ValueError(f"nested too deeply; allowed: {DEEPEST} levels")
        held = [item for item in left if isinstance(item, (dict, list))]
        left = [below for item in held for below in (item.values() if isinstance(item, dict) else item)]
    return value


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """The value of a JSON file.

    Raises:
        ValueError: as `parse_json`, or a file of more than `most_bytes`.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"larger than {most_bytes} bytes")
    return parse_json(content)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ModelError: missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
