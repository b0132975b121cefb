"""Keys and values of an engine on vLLM as tensors of a saved session."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from erecap.errors import RunError

if TYPE_CHECKING:
    from erecap.engines.vllm.kept import Held
    from erecap.engines.vllm.model import VllmModel

COLUMNS = ("index", "position", "ids", "first")


def tensors_of(model: VllmModel, held: Held, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The tensors of a file.

    Raises:
        RunError: the store has lost the tokens.
    """
    import torch

    from erecap.engines.vllm.rows import joined

    found = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    if not len(held.index):
        return found
    entry = None if held.entry is None else model.scheduler.index.get(held.entry.name)
    if entry is None:
        raise RunError("engine vllm: its store has lost the tokens of this session, so that it cannot be saved")
    model.settle()
    part = joined(model.worker.rows.taken(entry.name, torch.from_numpy(held.row)))
    columns = {"index": held.index, "position": held.position, "ids": held.ids, "first": part.first.numpy()}
    found |= {f"vllm.{name}": torch.from_numpy(np.ascontiguousarray(column)) for name, column in columns.items()}
    return found | {"vllm.keys": part.keys.contiguous().clone(), "vllm.values": part.values.contiguous().clone()}


def problem_of(tensors: Mapping[str, Any], tokens: Any, shift: Any, model: VllmModel) -> str | None:
    """Reason why what a file holds is not the state of an engine."""
    if type(tokens) is not int or type(shift) is not int or not 0 <= tokens - shift <= model.window:
        return f"{tokens} tokens with a shift of {shift} do not end within the window of {model.window}"
    if "vllm.keys" not in tensors:
        return None if not any(name.startswith("vllm.") for name in tensors) else "its keys are missing"
    columns: list[Any] = [tensors.get(f"vllm.{name}") for name in COLUMNS]
    count = len(tensors["vllm.keys"][0]) if tensors["vllm.keys"].ndim == 4 else -1
    if any(column is None or column.shape != (count,) for column in columns):
        return "its columns are not those of its tokens"
    arrays = dict(zip(COLUMNS, (column.numpy() for column in columns), strict=True))
    bounds = {"index": tokens, "position": tokens - shift, "ids": model.vocabulary}
    for name, below in bounds.items():
        column = arrays[name]
        rising = name == "ids" or bool((np.diff(column) > 0).all())
        if column.dtype != np.int64 or not rising or not count or column.min() < 0 or column.max() >= below:
            return f"{name} does not lie within 0 to {below - 1}"
    layers = model.worker.layers
    wanted = (len(layers), count, layers[0].heads, layers[0].dim)
    for name in ("vllm.keys", "vllm.values"):
        if tuple(tensors[name].shape) != wanted or tensors[name].dtype != layers[0].layer.kv_cache.dtype:
            return f"{name.removeprefix('vllm.')} have another shape than {wanted}"
    return None


def parts_of(
    tensors: dict[str, Any], model: VllmModel, path: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str | None, dict[str, np.ndarray]]:
    """Put the tokens of a file into the store: indices, positions, ids, name of the entry, other arrays of the file.

    Raises:
        RunError: the store has no room.
    """
    from erecap.engines.vllm.rows import Part

    own = {name.removeprefix("vllm."): tensors.pop(name) for name in list(tensors) if name.startswith("vllm.")}
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    if not own:
        none = np.empty(0, np.int64)
        return none, none, none, None, arrays
    index, position, ids, first = (own[name].numpy() for name in COLUMNS)
    name = model.scheduler.index.add(ids, first, None)
    if name is None:
        raise RunError(f"{path.name}: {model.scheduler.index.why_full(len(ids))}; raise store_mb")
    model.worker.rows.put(name, [Part(own["keys"], own["values"], own["first"])])
    return index, position, ids, name, arrays
