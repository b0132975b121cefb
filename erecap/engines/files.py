"""The safetensors file of a saved session: tensors of an engine, arrays and plain values of the session.

A file says what model it was saved from, and carries a checksum of each of its parts. What does not fit is refused.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from erecap.errors import RunError
from erecap.files import write_atomic
from erecap.untrusted import parse_json

FORMAT = "erecap-session-4"
OLDER = re.compile(r"erecap-session-[0-3]")
# What a fingerprint's parts are called in a sentence.
PARTS = {"weights": "weights", "adapters": "adapters", "config": "configuration", "model": "model"}


class Fingerprinted(Protocol):
    """The part of an engine that tells whose keys a file holds."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> str: ...

    def fingerprint(self) -> dict[str, str]: ...


def write_file(
    path: Path, serialized: Any, tensors: Mapping[str, Any], known: Mapping[str, Any], engine: Fingerprinted
) -> None:
    """Write the file under a temporary name, then rename it.

    Args:
        serialized: `save` of `safetensors.torch` or `safetensors.numpy`.
        known: plain JSON values.
        engine: whose keys these are; its fingerprint goes into the file.

    Raises:
        ModelError: the model has no fingerprint.
        RunError: the file cannot be written.
    """
    made = {"engine": engine.name, "shape": engine.shape, "fingerprint": engine.fingerprint()}
    plain = json.dumps({**known, "made": made})
    sums = json.dumps({name: checksum(tensor) for name, tensor in sorted(tensors.items())})
    metadata = {"format": FORMAT, "known": plain, "sums": sums, "check": seal(plain, sums)}
    try:
        write_atomic(path, serialized(dict(tensors), metadata=metadata))
    except OSError as error:
        raise RunError(f"{path.name!r}: the session cannot be saved: {error.strerror or error}") from error


def read_file(path: Path, framework: str, engine: Fingerprinted) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors of that framework ("pt" or "np") and the plain values, whole and saved from the engine's model.

    Raises:
        RunError: no such file, a damaged one, or one of another model.
    """
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise RunError(f"{path.name}: a folder; a saved session is one file")
    try:
        with safe_open(path, framework=framework) as file:
            metadata = file.metadata() or {}
            if OLDER.fullmatch(metadata.get("format", "")):
                raise RunError(
                    f"{path.name}: saved by an older version, without a fingerprint of its model, so it cannot be told "
                    "whether it fits; begin a new session"
                )
            if metadata.get("format") != FORMAT:
                raise RunError(f"{path.name}: not a saved session ({FORMAT})")
            if metadata["check"] != seal(metadata["known"], metadata["sums"]):
                raise ValueError("its description was changed")
            known = parse_json(metadata["known"])
            _check_fit(path, known.pop("made"), engine)
            sums = parse_json(metadata["sums"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        changed = next((name for name in {*sums, *tensors} if not _holds(name, sums, tensors)), None)
        if changed is not None:
            raise ValueError(f"the checksum of {changed} differs")
        return tensors, known
    except FileNotFoundError as error:
        raise RunError(f"{path.name}: no such session file") from error
    except OSError as error:
        raise RunError(f"{path.name}: cannot be read: {error}") from error
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise RunError(f"{path.name}: damaged session file: {_one_line(error)}") from error


def _check_fit(path: Path, made: Mapping[str, Any], engine: Fingerprinted) -> None:
    """Refuse keys of another model."""
    if made["engine"] != engine.name:
        raise RunError(f"{path.name}: saved by another engine ({made['engine']}) than {engine.name!r}")
    if made["shape"] != engine.shape:
        raise RunError(f"{path.name}: saved from model {made['shape']}, this one is {engine.shape}")
    saved, own = made["fingerprint"], engine.fingerprint()
    if saved.get("layers") != own.get("layers"):
        raise RunError(
            f"{path.name}: saved {_plan(saved)}, this model is {_plan(own)}; its keys and values do not fit this one"
        )
    if saved.get("dtype") != own.get("dtype"):
        raise RunError(f"{path.name}: saved from a model in {saved.get('dtype')}, this one is in {own.get('dtype')}")
    other = [PARTS.get(part, part) for part in own if saved.get(part) != own[part]]
    if other or len(saved) != len(own):
        raise RunError(
            f"{path.name}: saved from a model of this shape ({engine.shape}) with other {' and '.join(other)}; "
            "its keys and values do not fit this one"
        )


def _plan(parts: Mapping[str, str]) -> str:
    return f"with layer plan {parts['layers'][:23]}" if "layers" in parts else "without a layer plan"


def _holds(name: str, sums: Mapping[str, str], tensors: Mapping[str, Any]) -> bool:
    return name in sums and name in tensors and sums[name] == checksum(tensors[name])


def checksum(tensor: Any) -> str:
    """CRC-32 over the kind, shape and bytes of a tensor of torch or an array of numpy."""
    start = zlib.crc32(f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}".encode())
    if hasattr(tensor, "numpy"):
        import torch

        tensor = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f"{zlib.crc32(tensor.tobytes(), start):08x}"


def seal(plain: str, sums: str) -> str:
    """CRC-32 over the plain values and the checksums of a file."""
    return f"{zlib.crc32(sums.encode(), zlib.crc32(plain.encode())):08x}"


def _one_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
