"""The record of trials on disk: a head that says what the rows hold for, and one row a stage set, appended whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from erecap.errors import RunError
from erecap.files import write_atomic
from erecap.tuning.agreement import Answers
from erecap.tuning.candidates import Stages
from erecap.untrusted import parse_json

FORMAT = "erecap-stages-1"
NAME = "stages.jsonl"
Part = Literal["search", "held-out"]


class Record:
    """Answers by stage set, kept in `folder/stages.jsonl`; what lies there is read, and not asked for again.

    A last line that was cut short goes, and that set is tried again.

    Args:
        folder: made if it is missing.
        head: settings that the answers depend on: model, scorer, keep ratio, text, ...
        fresh: delete the rows of earlier runs.

    Raises:
        RunError: rows of another head, of another format, or damaged ones; file, line and key are named.
    """

    def __init__(self, folder: Path, head: dict[str, Any], *, fresh: bool = False) -> None:
        self.path = folder / NAME
        self._answers: dict[tuple[str, Stages], Answers] = {}
        wanted = json.loads(json.dumps({"format": FORMAT, **head}))
        lines = [] if fresh or not self.path.exists() else self.path.read_bytes().split(b"\n")
        whole = lines[:-1]
        for number, line in enumerate(whole, start=1):
            self._take(number, line, wanted)
        if not whole:
            write_atomic(self.path, _line(wanted))
        elif lines[-1]:
            write_atomic(self.path, b"\n".join(whole) + b"\n")

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, part: Part, stages: Stages) -> Answers | None:
        """The results of `stages` on the samples of `part`, if they were tried."""
        return self._answers.get((part, stages))

    def add(self, part: Part, stages: Stages, answers: Answers) -> None:
        """Keep the answers: the row is on the disk when this returns."""
        row = {"part": part, "stages": list(stages), **vars(answers)}
        with self.path.open("ab") as file:
            file.write(_line(row).encode())
            file.flush()
            os.fsync(file.fileno())
        self._answers[part, stages] = answers

    def of(self, part: Part) -> dict[Stages, Answers]:
        """All stage sets that were tried on the samples of `part`, in order of trial."""
        return {stages: answers for (own, stages), answers in self._answers.items() if own == part}

    def _take(self, number: int, line: bytes, wanted: dict[str, Any]) -> None:
        try:
            row = parse_json(line)
            if number == 1:
                self._same(row, wanted)
                return
            answers = Answers(
                [[int(count) for count in counts] for counts in row["kept"]],
                [int(count) for count in row["same"]],
                [int(count) for count in row["tokens"]],
            )
            part, stages = row["part"], tuple(int(layer) for layer in row["stages"])
            if not len(answers.kept) == len(answers.same) == len(answers.tokens) > 0 or not sum(answers.tokens):
                raise ValueError("counts of different lengths")
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.path}:{number}: the row is damaged ({error}); --fresh starts anew") from error
        self._answers[part, stages] = answers

    def _same(self, found: Any, wanted: dict[str, Any]) -> None:
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise RunError(f"{self.path}: not a record of stage sets in format {FORMAT}; --fresh starts anew")
        for key in sorted(found.keys() | wanted.keys()):
            if found.get(key) != wanted.get(key):
                raise RunError(
                    f"{self.path}: tried with {key} {found.get(key)!r}, here it is {wanted.get(key)!r}; "
                    "--fresh starts anew, another --out keeps both"
                )


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
