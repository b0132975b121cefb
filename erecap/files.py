"""File locations and atomic writing: under a temporary name first, then renamed."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def cache_dir() -> Path:
    """Folder for generated games and downloads: `$ERECAP_CACHE`, else `~/.cache/erecap`."""
    configured = os.environ.get("ERECAP_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "erecap"


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write `data` to `path` so that the file is either the old one or the whole new one.

    Parent folders are made. Text is UTF-8.

    Raises:
        OSError: with the name of the file; what was there is unchanged. A folder, a device or another thing that is no
            file is not replaced.
    """
    raw = data.encode("utf-8") if isinstance(data, str) else data
    with naming(path):
        _write_aside(path, raw)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError from inside the name of the file that it is about, where it has none, as on a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _write_aside(path: Path, raw: bytes) -> None:
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "a file name has no NUL in it", repr(str(path)))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file, so it is not replaced", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a result is for everyone who may read the folder.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def try_writing(folder: Path) -> None:
    """Make a file in `folder`, or in its nearest existing parent; nothing is left behind.

    Raises:
        OSError: it cannot be made, with the name of the place.
    """
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            return
    except OSError as error:
        error.filename = str(there)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused with a ValueError."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def portable(value: Any) -> Any:
    """`value` with absolute paths cut to their last part, through lists and dictionaries.

    For what travels with a folder: it tells nothing of a machine.
    """
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
