"""Origin of a loaded model: the folder of its weights, and the adapter that was merged into them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary


@dataclass(frozen=True)
class Origin:
    """The folder of a model's weights, and its merged adapter."""

    folder: Path
    adapter: Path | None = None  # merged into them
    adapter_known: bool = True  # False: the model was loaded by somebody else, who may have merged an adapter


_LOADED: WeakKeyDictionary[Any, Origin] = WeakKeyDictionary()


def remember_origin(model: Any, folder: Path, adapter: Path | None) -> None:
    """Note where `model` was loaded from, for as long as it lives."""
    _LOADED[model] = Origin(folder, adapter)


def origin_of(model: Any) -> Origin | None:
    """The origin of a transformers model.

    Of a model that `erecap.models.load` did not load, its configuration names the folder.

    Returns:
        None where the model was made in code, or its folder is not on this machine under the name that it was loaded
        by (a name on the hub).
    """
    if model in _LOADED:
        return _LOADED[model]
    named = getattr(model.config, "_name_or_path", "")
    folder = Path(named)
    return Origin(folder, adapter_known=False) if named and (folder / "config.json").is_file() else None


def carry_origin(model: Any, other: Any) -> None:
    """Note that `other` was made from `model`, and so has its origin, as far as that is known."""
    if model in _LOADED:
        _LOADED[other] = _LOADED[model]
