"""World files in pyrobosim's own YAML schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from erecap.errors import ConfigError


def read_world(path: Path) -> dict[str, Any]:
    """Read a world file.

    Raises:
        ConfigError: there is no such file, or it is no world.
    """
    path = path.expanduser()
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"world: {path} cannot be read: {reason}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"world: {path} is no pyrobosim world: it holds {type(found).__name__}, not a mapping")
    for part in ("rooms", "locations", "objects", "robots"):
        if not isinstance(found.get(part), list) or not all(isinstance(entry, dict) for entry in found[part]):
            raise ConfigError(f"world: {path} is no world to play in: {part} must be a list of mappings")
        if not found[part]:
            raise ConfigError(f"world: {path} is no world to play in: it has no {part}")
    return found
