"""The safetensors file of a saved session: tensors of an engine, arrays and plain values of the session."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erecap.errors import RunError
from erecap.files import write_atomic
from erecap.untrusted import parse_json

FORMAT = "erecap-session-3"
READABLE = (FORMAT, "erecap-session-2")


def write_file(path: Path, serialized: Any, tensors: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Write the file under a temporary name, then rename it.

    Args:
        serialized: `save` of `safetensors.torch` or `safetensors.numpy`.
        known: plain JSON values.
    """
    metadata = {"format": FORMAT, "known": json.dumps(known)}
    write_atomic(path, serialized(dict(tensors), metadata=metadata))


def read_file(path: Path, framework: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors of that framework ("pt" or "np") and the plain values.

    Raises:
        RunError: no such file, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise RunError(f"{path.name}: a folder; a saved session is one file")
    try:
        with safe_open(path, framework=framework) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") not in READABLE:
                raise RunError(f"{path.name}: not a saved session ({FORMAT})")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        return tensors, parse_json(metadata["known"])
    except FileNotFoundError as error:
        raise RunError(f"{path.name}: no such session file") from error
    except OSError as error:
        raise RunError(f"{path.name}: cannot be read: {error}") from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise RunError(f"{path.name}: damaged session file: {error}") from error
