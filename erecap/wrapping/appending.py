"""Files of JSON rows to which several processes may append."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from erecap.generation import JsonRow
from erecap.untrusted import parse_json

LOCK = ".log.lock"


class RowFile:
    """One JSON object a line, appended whole and numbered by its line.

    A process that was killed may have left half a row at the end. Under the lock nobody else is writing, so that half
    is cut before anything follows it; a row that lacks only its line end gets it.

    Args:
        path: the file; made with the first row. Its folder has to exist, and gets the lock's file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # One lock a folder: threads of this process take turns by the first, processes by the second.
        self._thread, self._process = threading.Lock(), FileLock(path.parent / LOCK)
        self._seen = self._rows = 0  # bytes that were looked at, and whole rows in them

    def mended(self) -> int:
        """Cut or complete a torn last row; returns the rows of the file."""
        with self._thread, self._process:
            if not self._path.exists():
                return 0
            with self._path.open("r+b") as file:
                return self._count(file)

    def append(self, make: Callable[[int], JsonRow]) -> int:
        """Append the row that `make` gives for its number, counted from 0; returns the number.

        Raises:
            ValueError: a number in the row that is not finite; nothing is written then.
            OSError: the file cannot be written. Half a row that is left is cut by the next one.
        """
        if not self._path.parent.is_dir():  # the lock would make it anew, without the head that says what it is
            raise FileNotFoundError(errno.ENOENT, "its folder is gone", str(self._path))
        with self._thread, self._process, self._path.open("a+b") as file:
            number = self._count(file)
            line = json.dumps(make(number), ensure_ascii=False, allow_nan=False).encode() + b"\n"
            file.write(line)
            file.flush()  # a full disk is told here, before the row is counted
            self._seen, self._rows = self._seen + len(line), number + 1
        return number

    def _count(self, file: BinaryIO) -> int:
        """Whole rows of the open file, which ends with a whole row afterwards. Only what is new is read."""
        size = file.seek(0, os.SEEK_END)
        if size < self._seen:  # somebody has emptied it
            self._seen = self._rows = 0
        file.seek(self._seen)
        *whole, torn = file.read().split(b"\n")
        self._seen, self._rows = size - len(torn), self._rows + len(whole)
        if torn and _is_row(torn):
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
            self._seen, self._rows = size + 1, self._rows + 1
        elif torn:
            file.truncate(self._seen)
            file.seek(0, os.SEEK_END)
        return self._rows


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False
