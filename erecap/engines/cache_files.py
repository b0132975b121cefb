"""A pruned cache on disk: keys, values, layouts, parked tokens and scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from erecap.engines.files import read_file, write_file
from erecap.errors import RunError
from erecap.tokens.cache.layout import Layout
from erecap.tokens.cache.pruned_cache import PrunedCache

CACHE_NAMES = ("keys.", "values.", "index.", "positions.", "parked.", "ratings.")  # how names of its tensors begin


def save_cache(path: Path, cache: PrunedCache, arrays: Mapping[str, np.ndarray], known: Mapping[str, Any]) -> None:
    """Write a cache of one row, with `arrays` and `known`, to `path`."""
    tensors: dict[str, torch.Tensor] = {name: torch.from_numpy(array) for name, array in arrays.items()}
    for number, layer in enumerate(cache.layers):
        layout = cache.layout(number)
        if not layout.width:
            continue
        tensors |= {
            f"keys.{number}": layer.keys.contiguous(),
            f"values.{number}": layer.values.contiguous(),
            # Copies: layers that store the same tokens share these, and the format allows no shared memory.
            f"index.{number}": layout.index.clone(memory_format=torch.contiguous_format),
            f"positions.{number}": layout.positions.clone(memory_format=torch.contiguous_format),
        }
    tensors |= cache.parking.tensors()
    if cache.read_scores is not None:
        tensors |= cache.read_scores.tensors(cache.get_seq_length())
    write_file(path, save, tensors, {**known, "layers": cache.layer_count})


def load_cache(path: Path, cache: PrunedCache) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Fill an empty `cache` from `path`; returns the arrays and values that were saved with it.

    Raises:
        RunError: no such file, a damaged one, or one of another model.
    """
    tensors, known = read_file(path, "pt")
    numbers = sorted(int(name.removeprefix("keys.")) for name in tensors if name.startswith("keys."))
    # Files of the second format say nothing of layers; there all of them stored keys, or none had read anything.
    layers = known.get("layers", len(numbers) or cache.layer_count)
    if layers != cache.layer_count:
        raise RunError(f"{path.name}: saved from a model of {layers} layers, this one has {cache.layer_count}")
    shared: dict[bytes, Layout] = {}
    for number in numbers:
        index, positions = tensors[f"index.{number}"], tensors[f"positions.{number}"]
        # Layers that stored the same tokens share one layout again.
        key = index.numpy().tobytes() + positions.numpy().tobytes()
        if key not in shared:
            shared[key] = Layout(index, positions, torch.ones_like(index, dtype=torch.bool), True)
        cache.restore(number, tensors[f"keys.{number}"], tensors[f"values.{number}"], shared[key])
    cache.skip(known["logical"])
    cache.parking.restore(tensors)
    if cache.read_scores is not None:
        try:
            cache.read_scores.restore(tensors)
        except ValueError as error:
            raise RunError(f"{path.name}: {error}") from error
    return {name: tensor.numpy() for name, tensor in tensors.items() if not name.startswith(CACHE_NAMES)}, known
