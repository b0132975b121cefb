"""The configuration of a LoRA adapter: fields that PEFT would fail at, each named in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erecap.errors import ModelError
from erecap.models.regexes import regex_problem

PATTERNS = ("rank_pattern", "alpha_pattern")
NAMES = ("target_modules", "exclude_modules", "modules_to_save", "target_parameters", "layers_pattern")
REGEXES = ("target_modules", "exclude_modules")  # where they are one text
ALWAYS_REGEXES = ("layers_pattern", "modules_to_save")  # in lists, too


def check_settings(config: dict[str, Any], path: Path) -> None:
    """Refuse values that PEFT has no clear word for.

    Args:
        config: the parsed file `path`.

    Raises:
        ModelError: names the file and the field.
    """
    for field in PATTERNS:
        value = config.get(field)
        if value is None:
            continue
        numbers = isinstance(value, dict) and all(type(number) in (int, float) for number in value.values())
        if not numbers:
            raise _refused(path, field, value, "an object of module names and numbers")
        for name in value:
            _check_regex(path, field, name)
    for field in NAMES:
        value = config.get(field)
        names = value if isinstance(value, list) else [value]
        if value is not None and not all(isinstance(name, str) for name in names):
            raise _refused(path, field, value, "a text or a list of texts")
        if field in ALWAYS_REGEXES or (field in REGEXES and isinstance(value, str)):
            for name in filter(None, names):
                _check_regex(path, field, name)
    if config.get("megatron_config") is not None:
        raise _refused(path, "megatron_config", config["megatron_config"], "null; Megatron's layers are not served")


def _check_regex(path: Path, field: str, text: str) -> None:
    problem = regex_problem(text)
    if problem is not None:
        raise ModelError(f"{path}: {field}: {text[:40]!r} cannot be matched against names of modules: {problem}")


def _refused(path: Path, field: str, value: Any, allowed: str) -> ModelError:
    return ModelError(f"{path}: {field}: got {repr(value)[:40]}; allowed: {allowed}")
