"""The rows of a profile on disk: one line a measured call, appended as it ends, so that a stopped profile goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erecap.bench.profile.settings import Cell
from erecap.bench.results import rounded
from erecap.errors import RunError
from erecap.generation import JsonRow
from erecap.untrusted import parse_json


class Journal:
    """A file of rows, the first of which says what they were measured with.

    Args:
        path: `FOLDER/PART.jsonl`; made if it is missing.
        about: what all rows share. A file whose rows were measured with something else is refused.
        fresh: begin anew.

    Raises:
        RunError: a damaged file, or one of other settings.
    """

    def __init__(self, path: Path, about: JsonRow, *, fresh: bool = False) -> None:
        self.path, self.rows = path, []  # type: Path, list[JsonRow]
        about = json.loads(json.dumps(about))
        lines = [] if fresh or not path.exists() else path.read_bytes().split(b"\n")
        if lines and lines[-1] != b"":
            lines.pop()  # a line that was cut off while it was written
        found = [self._parsed(line, number) for number, line in enumerate(lines, start=1) if line]
        if len(found) == 1 and "about" in found[0]:
            found = []  # a profile that was refused before its first call
        if not found:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            self._append({"about": about})
            return
        before = found[0].get("about")
        if not isinstance(before, dict):
            raise RunError(f"{path}: holds no profile; --fresh measures anew")
        other = next((name for name in about if before.get(name) != about[name]), None)
        if other is not None:
            raise RunError(f"{path}: measured with another {other}; --fresh measures anew, --folder keeps both")
        self.rows = found[1:]
        whole = b"".join(line + b"\n" for line in lines if line)
        if whole != path.read_bytes():
            path.write_bytes(whole)

    def add(self, row: JsonRow) -> None:
        """Append one row."""
        row = json.loads(json.dumps(rounded(row)))  # as a profile that goes on will read it
        self.rows.append(row)
        self._append(row)

    def of(self, cell: Cell) -> list[JsonRow]:
        """The measured calls of a cell."""
        return [row for row in self.rows if "run" in row and _names(row, cell)]

    def note(self, cell: Cell, field: str) -> Any:
        """A field that was noted about a cell beside its calls; None if nothing was."""
        return next((row[field] for row in self.rows if field in row and "run" not in row and _names(row, cell)), None)

    def skipped(self, cell: Cell) -> JsonRow | None:
        """The row that says why a cell, or a shorter one of the same mode, was left out."""
        for row in self.rows:
            if "skipped" in row and _names(row, Cell(row["length"], cell.preset, cell.mode)):
                if row["length"] <= cell.length:
                    return row
        return None

    def _append(self, row: JsonRow) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = parse_json(line)
        except ValueError as error:
            raise RunError(f"{self.path}:{number}: the row is damaged ({error}); --fresh measures anew") from error
        if not isinstance(row, dict) or not ("about" in row or {"length", "preset", "mode"} <= set(row)):
            raise RunError(f"{self.path}:{number}: no row of a profile; --fresh measures anew")
        return row


def _names(row: JsonRow, cell: Cell) -> bool:
    return (row.get("length"), row.get("preset"), row.get("mode")) == (cell.length, cell.preset, cell.mode)


def missing(journal: Journal, cells: Sequence[Cell], repetitions: int) -> list[Cell]:
    """The cells that have fewer rows than wanted and were not left out."""
    return [cell for cell in cells if len(journal.of(cell)) < repetitions and journal.skipped(cell) is None]
