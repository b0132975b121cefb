"""Import of the packages behind engines, which most users do not have."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from erecap.errors import ConfigError


def package(engine: str, module: str, advice: str) -> Any:
    """Import a module of the package behind an engine, where it is asked for.

    Args:
        engine: its name.
        module: dotted name; the package is its first part.
        advice: the end of the sentence for those who lack it.

    Raises:
        ConfigError: the package is not installed, or cannot be loaded here.
    """
    name = module.partition(".")[0]
    try:
        return import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        lacking = isinstance(error, ModuleNotFoundError) and error.name == name
        reason = "is not installed" if lacking else f"cannot be loaded: {error}"
        raise ConfigError(f"engine {engine}: {name} {' '.join(reason.split())}; {advice}") from error
