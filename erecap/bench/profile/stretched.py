"""A model of the same shape and weights with a longer window, for profiles of lengths that it was not trained for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from erecap.errors import ConfigError
from erecap.files import write_json
from erecap.models import locate
from erecap.untrusted import read_json


def stretched_folder(model: str, window: int, into: Path) -> Path:
    """A folder whose model has the window: the model's files, with rotary embeddings stretched linearly.

    Positions are divided by `window / the model's own window`, so that no angle is beyond those that the model knows.
    Times and memory are those of the shape. What such a model says means nothing.

    Args:
        into: where the folder is made; its name says model and window, with some digits for where the model lies.

    Raises:
        ModelError: no such model.
        ConfigError: a model whose rotary embeddings are scaled already, or a window that is no longer than its own.
    """
    source = locate(model).resolve()
    config: dict[str, Any] = read_json(source / "config.json")
    own = int(config.get("max_position_embeddings") or 0)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not own or rope.get("rope_type", "default") != "default":
        raise ConfigError(f"--window: {source.name} has rotary embeddings of its own kind; allowed: plain ones")
    if window <= own:
        raise ConfigError(f"--window: got {window}, the model's own is {own}; allowed: a longer one, or leave it out")
    where = hashlib.sha256(str(source).encode()).hexdigest()[:8]  # two models of one name share no folder
    folder = into / f"{source.name}-{where}-window-{window}"
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        link = folder / path.name
        if path.is_file() and path.name != "config.json" and not link.exists():
            link.symlink_to(path)
    theta = rope.get("rope_theta", config.get("rope_theta", 10_000.0))
    stretched = {"rope_type": "linear", "factor": window / own, "rope_theta": theta}
    wanted = {**config, "max_position_embeddings": window, "rope_parameters": stretched}
    wanted.pop("rope_scaling", None)
    if not (folder / "config.json").exists() or read_json(folder / "config.json") != json.loads(json.dumps(wanted)):
        write_json(folder / "config.json", wanted)
    _lengthen_tokenizer(folder, window)
    return folder


def _lengthen_tokenizer(folder: Path, window: int) -> None:
    """Let the tokenizer not warn of lengths that the stretched model takes."""
    path = folder / "tokenizer_config.json"
    if not path.exists():
        return
    settings = read_json(path)
    if isinstance(settings.get("model_max_length"), int) and settings["model_max_length"] < window:
        path.unlink()
        write_json(path, {**settings, "model_max_length": window})
