"""Locations of configurations, and reading their YAML."""

from __future__ import annotations

from collections.abc import Hashable
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from erecap.errors import ConfigError
from erecap.untrusted import DEEPEST

_SUFFIXES = (".yaml", ".yml")
_MERGE = "tag:yaml.org,2002:merge"
_MOST_VALUES = 100_000
_MOST_BYTES = 16 << 20  # of a file


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, except that some things are errors which PyYAML lets pass, or fails at.

    A key written twice (it would keep the last one), half a surrogate pair (which no file can hold), values that their
    tag cannot have (a 13th month), and aliases that contain themselves or stand for very much together.
    """

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        _size(node, {}, 0)
        return self.construct_document(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError) as error:
            kind, shown = node.tag.rpartition(":")[2], str(node.value)[:40]
            problem = f"{shown!r} cannot be read as {kind}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        value = super().construct_scalar(node)
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise yaml.constructor.ConstructorError(None, None, "half a surrogate pair in a text", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:  # stands for the keys of another mapping, over which those written here win
                key = "<<"
            else:
                key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is written twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Values in a node, those that aliases stand for counted each time."""
    if known.get(id(node), 1) == 0:
        raise yaml.constructor.ConstructorError(None, None, "an alias contains itself", node.start_mark)
    if id(node) not in known:
        if depth > DEEPEST:
            raise yaml.constructor.ConstructorError(None, None, "nested too deeply", node.start_mark)
        known[id(node)] = 0  # not known yet
        below = [] if isinstance(node, yaml.ScalarNode) else node.value
        flat = [part for item in below for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_size(part, known, depth + 1) for part in flat)
        if known[id(node)] > _MOST_VALUES:
            problem = f"more than {_MOST_VALUES:,} values, aliases written out"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return known[id(node)]


def is_path(text: str) -> bool:
    """True for `x/y`, `./x` and `x.yaml`; False for the name of something packaged."""
    return "/" in text or text.endswith(_SUFFIXES)


def packaged_names(package: str) -> list[str]:
    """Names of the YAML files that lie in `package`, sorted."""
    names = [item.name for item in files(package).iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_named(what: str, text: str, package: str, folder: Path | None = None) -> tuple[str, dict[str, Any]]:
    """The YAML mapping behind a name or a path.

    Args:
        what: "suite" or "run", for messages.
        text: a path of a YAML file, or the name of a file of `package`.
        package: importable package whose YAML files have names.
        folder: base of a relative path; None: the working folder.

    Returns:
        What to call the source in messages, and its mapping.

    Raises:
        ConfigError: missing, unreadable, empty, not a mapping, or not YAML (with the line).
    """
    if is_path(text):
        path = (folder or Path()) / Path(text).expanduser()
        return str(path), _mapping(str(path), _read(path, what, package))
    resource = files(package) / f"{text}.yaml"
    if not resource.is_file():
        raise ConfigError(
            f"{what} {text!r} not found; packaged: {', '.join(packaged_names(package)) or 'none'}; "
            f"a file is given by its path, such as ./{text}.yaml"
        )
    return f"{text}.yaml", _mapping(f"{text}.yaml", resource.read_text(encoding="utf-8"))


def parse_yaml(source: str, text: str) -> Any:
    """`text` as YAML, safely. Raises ConfigError with the line of the mistake."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{source}:{where} not valid YAML: {' '.join(problem.split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: not valid YAML: nested too deeply") from error


def _read(path: Path, what: str, package: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ConfigError(f"{path}: larger than {_MOST_BYTES} bytes")
        return content.decode("utf-8")
    except FileNotFoundError as error:
        known = ", ".join(packaged_names(package)) or "none"
        raise ConfigError(f"{path}: no such {what} file; packaged names: {known}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _mapping(source: str, text: str) -> dict[str, Any]:
    value = parse_yaml(source, text)
    if value is None:
        raise ConfigError(f"{source}: the file is empty; allowed: a mapping of keys to values")
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: got a {type(value).__name__}; allowed: a mapping of keys to values")
    return value
