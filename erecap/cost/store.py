"""Cost models on disk: one JSON file a machine, model and setting, in the cache folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from erecap.cost.machine import CostKey
from erecap.cost.model import CostModel
from erecap.errors import ConfigError
from erecap.files import cache_dir
from erecap.untrusted import read_json

FORMAT = 1  # raised when the meaning of a coefficient changes; older files are then refused


def cost_path(key: CostKey) -> Path:
    """The file of the cost model of `key`: in `cost/` of `$ERECAP_CACHE`, else of `~/.cache/erecap`."""
    return cache_dir() / "cost" / f"{key.digest()}.json"


def load_cost_model(key: CostKey, path: Path | None = None) -> CostModel | None:
    """The cost model that was stored for `key`; None if there is none.

    Args:
        path: a file; None: `cost_path(key)`.

    Raises:
        ConfigError: the file is damaged, of another format, or belongs to another key; the first difference is named.
    """
    source = path or cost_path(key)
    try:
        content = read_json(source)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source.name}: cannot be read as a cost model: {error}; {_AGAIN}") from error
    if not isinstance(content, dict) or "format" not in content:
        raise ConfigError(f"{source.name}: not a cost model; {_AGAIN}")
    if content["format"] != FORMAT:
        raise ConfigError(f"{source.name}: cost model of format {content['format']!r}, allowed is {FORMAT}; {_AGAIN}")
    _same_key(source.name, content.get("key"), key)
    try:
        parts = {
            name: tuple(map(float, values)) if isinstance(values, list) else values
            for name, values in content["model"].items()
        }
        return CostModel(**parts)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{source.name}: damaged cost model ({error}); {_AGAIN}") from error


_AGAIN = "run `erecap calibrate` again"


def _same_key(name: str, found: Any, key: CostKey) -> None:
    if not isinstance(found, Mapping):
        raise ConfigError(f"{name}: damaged cost model (no key); {_AGAIN}")
    for field, wanted in asdict(key).items():
        stored = found.get(field)
        if (tuple(stored) if isinstance(stored, list) else stored) != wanted:
            raise ConfigError(f"{name}: calibrated for {field} {stored!r}, here it is {wanted!r}; {_AGAIN}")
