"""A session on disk: one safetensors file with keys, values and what is known of them.

The number of evicted tokens is not among it: it follows from how many were read (`logical`) and how many are stored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from erecap.errors import RunError
from erecap.files import write_atomic
from erecap.session.conversation.transcript import Mark, Transcript
from erecap.tokens.cache.layout import Layout
from erecap.tokens.cache.pruned_cache import PrunedCache

FORMAT = "erecap-session-3"


def save_session(path: Path, cache: PrunedCache, transcript: Transcript, state: dict[str, Any]) -> None:
    """Write a session's cache, transcript and `state` (plain JSON values) to `path`, aside first, then renamed."""
    tensors: dict[str, torch.Tensor] = {"ids": torch.tensor(transcript.ids, dtype=torch.int64)}
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
    known = {
        "forgotten": transcript.forgotten,
        "overlays": transcript.overlays,
        "marks": _plain(transcript.marks),
        "older": _plain(transcript.older),
        "logical": cache.get_seq_length(),
        "layers": cache.layer_count,
        "state": state,
    }
    write_atomic(path, save(tensors, metadata={"format": FORMAT, "known": json.dumps(known)}))


def load_session(path: Path, cache: PrunedCache, transcript: Transcript) -> dict[str, Any]:
    """Fill an empty `cache` and `transcript` from `path`; returns the `state` that was saved.

    Raises:
        RunError: no such file, a damaged one, or one of another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise RunError(f"{path.name}: not a saved session ({FORMAT})")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        known = json.loads(metadata["known"])
    except (FileNotFoundError, IsADirectoryError) as error:
        raise RunError(f"{path.name}: no such session file") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise RunError(f"{path.name}: damaged session file: {error}") from error
    numbers = sorted(int(name.removeprefix("keys.")) for name in tensors if name.startswith("keys."))
    layers = known["layers"]
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
    transcript.ids = tensors["ids"].tolist()
    transcript.forgotten = known["forgotten"]
    transcript.overlays = [(place, list(ids)) for place, ids in known["overlays"]]
    transcript.marks, transcript.older = _marks(known["marks"]), _marks(known["older"])
    return known["state"]


def _plain(marks: list[Mark]) -> list[list[Any]]:
    return [
        [m.message, m.characters, m.digest.hex(), m.tokens, m.aligned, m.first, list(m.starts), m.generated]
        for m in marks
    ]


def _marks(values: list[list[Any]]) -> list[Mark]:
    return [
        Mark(message, characters, bytes.fromhex(digest), tokens, aligned, first, tuple(starts), generated)
        for message, characters, digest, tokens, aligned, first, starts, generated in values
    ]
