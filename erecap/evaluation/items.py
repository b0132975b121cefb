"""Measured items on disk: one row an item and a subject, appended whole, found again by what was asked."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erecap.errors import RunError
from erecap.files import write_atomic
from erecap.untrusted import parse_json

FORMAT = "erecap-items-1"


class Items:
    """Answers by subject and item, kept in a file; what lies there is read, and not asked for again.

    A row names its subject and its item by digests of all that the answer depends on. So rows of other models, texts
    and settings may lie in the same file, and none is taken for another. A last line that was cut short goes.

    Args:
        path: made if it is missing.
        kind: of evaluation.
        keys: that every row has, besides its subject and its item.
        fresh: delete the rows of earlier calls.

    Raises:
        RunError: not such a file, or a damaged row; file and line are named.
    """

    def __init__(self, path: Path, kind: str, keys: Sequence[str], *, fresh: bool = False) -> None:
        self.path, self.keys = path, keys
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}
        head = {"format": FORMAT, "kind": kind}
        lines = [] if fresh or not path.exists() else path.read_bytes().split(b"\n")
        whole = lines[:-1]
        for number, line in enumerate(whole, start=1):
            self._take(number, line, head)
        if not whole:
            write_atomic(path, _line(head))
        elif lines[-1]:
            write_atomic(path, b"\n".join(whole) + b"\n")

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, subject: str, item: str) -> dict[str, Any] | None:
        """The row of an item, if it was measured."""
        return self._rows.get((subject, item))

    def add(self, subject: str, item: str, values: dict[str, Any]) -> dict[str, Any]:
        """Keep what was measured: the row is on the disk when this returns."""
        row = {"subject": subject, "item": item, **values}
        line = _line(row)
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._rows[subject, item] = row
        return row

    def _take(self, number: int, line: bytes, head: dict[str, Any]) -> None:
        try:
            row = parse_json(line)
            if number > 1:
                if missing := [key for key in self.keys if key not in row]:
                    raise ValueError(f"it lacks {', '.join(missing)}")
                self._rows[str(row["subject"]), str(row["item"])] = row
                return
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.path}:{number}: the row is damaged ({error}); --fresh starts anew") from error
        if row != head:
            raise RunError(f"{self.path}: holds no rows of `erecap evaluate {head['kind']}`; --fresh starts anew")


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
