"""One process at a time owns a run folder, or writes the files of one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from erecap.errors import RunError

LOCK = ".lock"


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold a run folder; it is made if need be.

    The kernel releases the lock when the process ends, however it ends.

    Raises:
        RunError: another process holds it, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / LOCK, "ab")
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{folder}: another process is playing this run; wait for it, or choose --out") from error
        yield


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Wait until no other process is within this for `folder`, which is made if need be. Leaves no file behind.

    Raises:
        RunError: the folder cannot be made or locked.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise RunError(f"{folder}: cannot be locked: {error.strerror}") from error
        yield
    finally:
        os.close(handle)
