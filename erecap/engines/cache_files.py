"""A pruned cache on disk: keys, values, layouts, parked tokens and scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from erecap.engines.files import Fingerprinted, read_file, write_file
from erecap.errors import RunError
from erecap.tokens.cache.layout import Layout
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.cache.read_scores import PLACES, SCORES

CACHE_NAMES = ("keys.", "values.", "index.", "positions.", "parked.", "ratings.")  # how names of its tensors begin
MOST_TOKENS = 1 << 53  # tokens read by any session


@dataclass(frozen=True)
class StoredKind:
    """Kind of tensors that a model's cache stores, as far as that can be told without reading a token."""

    dtype: torch.dtype
    devices: tuple[torch.device, ...]  # of each layer
    window: int  # positions are below this
    hidden_size: int
    heads: int | None = None  # key heads of a layer; None: not known of this architecture
    width: int | None = None  # numbers of a head's key


def save_cache(
    path: Path, cache: PrunedCache, arrays: Mapping[str, np.ndarray], known: Mapping[str, Any], engine: Fingerprinted
) -> None:
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
    write_file(path, save, tensors, {**known, "layers": cache.layer_count}, engine)


def load_cache(
    path: Path, cache: PrunedCache, kind: StoredKind, engine: Fingerprinted
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Fill an empty `cache` from `path`; returns the arrays and values that were saved with it.

    Raises:
        RunError: no such file, a damaged one, or one of another model; the cache may then be half filled.
    """
    tensors, known = read_file(path, "pt", engine)
    try:
        _fill(cache, kind, tensors, known)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise RunError(f"{path.name}: damaged session file: {reason}") from error
    return {name: tensor.numpy() for name, tensor in tensors.items() if not name.startswith(CACHE_NAMES)}, known


def _fill(cache: PrunedCache, kind: StoredKind, tensors: Mapping[str, torch.Tensor], known: Mapping[str, Any]) -> None:
    logical, shift = _whole(known["logical"], "logical"), _whole(known["state"]["shift"], "shift")
    if known["layers"] != cache.layer_count:
        raise ValueError(f"saved from a model of {known['layers']} layers, this one has {cache.layer_count}")
    if not 0 <= logical - shift <= kind.window:
        raise ValueError(f"its next position is {logical - shift}, the model's window is {kind.window}")
    numbers = _layers(tensors, "keys.", cache.layer_count)
    places: dict[int, int] = {}  # positions by token index
    shared: dict[bytes, Layout] = {}
    for number in numbers:
        index, positions = _rows(tensors, f"{number}", logical, logical - shift, places)
        # Layers that stored the same tokens share one layout again.
        device = kind.devices[number]
        key = str(device).encode() + index.numpy().tobytes() + positions.numpy().tobytes()
        if key not in shared:
            whole = torch.ones_like(index, dtype=torch.bool)
            shared[key] = Layout(index, positions, whole, True).to(device)
        for name in (f"keys.{number}", f"values.{number}"):
            _check_stored(tensors[name], name, kind, index.shape[1])
        keys, values = tensors[f"keys.{number}"].to(device), tensors[f"values.{number}"].to(device)
        cache.restore(number, keys, values, shared[key])
    cache.skip(logical)
    for name in [name for name in tensors if name.startswith("parked.") and name.endswith(".hidden")]:
        _check_parked(tensors, name, kind, cache.layer_count, logical, logical - shift)
    cache.parking.restore(
        {
            name: tensor.to(kind.devices[int(name.split(".")[1])])
            for name, tensor in tensors.items()
            if name.startswith("parked.")
        }
    )
    if cache.read_scores is not None:
        cache.read_scores.restore(tensors)
        _check_scores(tensors[PLACES], tensors[SCORES], logical)


def _whole(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value < MOST_TOKENS:
        raise ValueError(f"{name} is {value!r}, not a number of tokens")
    return value


def _layers(tensors: Mapping[str, torch.Tensor], prefix: str, layers: int) -> list[int]:
    numbers = sorted(int(name.removeprefix(prefix)) for name in tensors if name.startswith(prefix))
    if any(not 0 <= number < layers for number in numbers):
        raise ValueError(f"it holds keys of layer {numbers[-1]}, the model has {layers} layers")
    return numbers


def _rows(
    tensors: Mapping[str, torch.Tensor],
    layer: str,
    logical: int,
    following: int,
    places: dict[int, int],
    parked: str = "",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token indices and positions `(1, n)` of a layer: rising, in range, and positions the same in all layers."""
    names = [f"{parked}{layer}.{part}" if parked else f"{part}.{layer}" for part in ("index", "positions")]
    for name, below in zip(names, (logical, following), strict=True):
        rows = tensors[name]
        if rows.dtype != torch.int64 or rows.ndim != 2 or rows.shape[0] != 1 or not rows.shape[1]:
            raise ValueError(f"{name} has dtype {rows.dtype} and shape {list(rows.shape)}")
        if int(rows.min()) < 0 or int(rows.max()) >= below or not bool((rows[:, 1:] > rows[:, :-1]).all()):
            raise ValueError(f"{name} does not rise within 0 to {below - 1}")
    index, positions = (tensors[name] for name in names)
    if index.shape != positions.shape:
        raise ValueError(f"{names[0]} and {names[1]} differ in length")
    for place, position in zip(index[0].tolist(), positions[0].tolist(), strict=True):
        if places.setdefault(place, position) != position:
            raise ValueError(f"token {place} has two positions")
    return index, positions


def _check_stored(tensor: torch.Tensor, name: str, kind: StoredKind, tokens: int) -> None:
    wanted = (1, kind.heads or tensor.shape[1], tokens, kind.width or tensor.shape[-1])
    if tensor.ndim != 4 or tuple(tensor.shape) != wanted or tensor.dtype != kind.dtype:
        raise ValueError(f"{name} is {list(tensor.shape)} in {tensor.dtype}, wanted {list(wanted)} in {kind.dtype}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds values that are not finite")


def _check_parked(
    tensors: Mapping[str, torch.Tensor], name: str, kind: StoredKind, layers: int, logical: int, following: int
) -> None:
    layer, hidden = name.split(".")[1], tensors[name]
    if not 0 <= int(layer) < layers:
        raise ValueError(f"it holds tokens parked before layer {layer}, the model has {layers} layers")
    index, _ = _rows(tensors, layer, logical, following, {}, "parked.")
    if tuple(hidden.shape) != (1, index.shape[1], kind.hidden_size) or not bool(torch.isfinite(hidden).all()):
        raise ValueError(f"{name} does not hold {index.shape[1]} finite states of {kind.hidden_size} numbers")


def _check_scores(places: torch.Tensor, scores: torch.Tensor, logical: int) -> None:
    rising = places.ndim == 1 and places.dtype == torch.int64 and bool((places[1:] > places[:-1]).all())
    if not rising or (len(places) and not 0 <= int(places[0]) <= int(places[-1]) < logical):
        raise ValueError(f"{PLACES} does not rise within 0 to {logical - 1}")
    # Minus infinity: read, but dropped before it was scored.
    if (
        scores.dtype != torch.float32
        or scores.shape != places.shape
        or bool((scores.isnan() | (scores == torch.inf)).any())
    ):
        raise ValueError(f"{SCORES} are not {len(places)} scores")
