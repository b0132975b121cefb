"""The table that a controller learns from, on disk: what every action costs and changes on every prompt, by load."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from erecap.errors import RunError
from erecap.files import write_atomic, write_json
from erecap.generation import JsonRow
from erecap.scheduling.hardware import Hardware
from erecap.untrusted import read_json
from erecap.validation import one_line

FORMAT = "erecap-controller-table-1"
HEAD, ROWS = "table.json", "table.jsonl"
# A table may go on with another of these: they change no cell.
_FREE = ("machine",)
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Agreement(BaseModel):
    """An action beside the dense planner on one reference plan, teacher-forced."""

    model_config = _STRICT
    share: float = Field(ge=0, le=1)  # of the plan's tokens, its end included, for which both choose the same
    whole: bool  # for all of them


class PromptRow(BaseModel):
    """One prompt: its counts, and how each action agrees with the dense planner."""

    model_config = _STRICT
    prompt: str
    number: int = Field(default=0, ge=0)  # in the order of the sources; rows are measured in another
    conversation: str
    held_out: bool
    prompt_tokens: int = Field(ge=1)
    new_tokens: int = Field(ge=1)
    plan_tokens: int = Field(ge=1)
    plan_loss: float | None = Field(ge=0)  # of the plan before this one, in nats; None: there is none
    agreement: dict[str, Agreement]


class Cell(BaseModel):
    """Milliseconds of one action on one prompt under one load."""

    model_config = _STRICT
    reread_ms: float = Field(gt=0)  # to read the history in a new session, where switching to the action needs it
    edit_ms: float = Field(ge=0)  # to change an open session
    call_ms: float = Field(gt=0)  # of the call itself, with the reference plan as its answer


class TimesRow(BaseModel):
    """One prompt under one load."""

    model_config = _STRICT
    prompt: str
    load: str
    hardware: dict[str, float | None]
    cells: dict[str, Cell]

    def state(self) -> Hardware:
        """The machine's state, as it was read before the cells were measured."""
        return Hardware(**self.hardware)


@dataclass(frozen=True)
class Table:
    """A whole table."""

    head: JsonRow
    prompts: Mapping[str, PromptRow]  # by name, in order
    times: Mapping[tuple[str, str], TimesRow]  # by prompt and load

    @property
    def actions(self) -> tuple[str, ...]:
        """Names of the actions."""
        return tuple(self.head["actions"])

    @property
    def loads(self) -> tuple[str, ...]:
        """Names of the loads."""
        return tuple(self.head["loads"])


class TableFolder:
    """The files of a table that is being measured; rows are appended whole.

    Args:
        folder: made if need be.
        head: of the table: `base`, `prompts` (their digest), `actions`, `folders`, `loads` and all else that cells
            depend on.

    Raises:
        RunError: the folder holds another table, or a damaged row.
    """

    def __init__(self, folder: Path, head: JsonRow) -> None:
        self.folder = folder
        head = {"format": FORMAT, **head}
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / HEAD).exists():
            old = read_head(folder)
            for key in head.keys() | old.keys():
                if key not in _FREE and old.get(key) != head.get(key):
                    raise RunError(f"{folder / HEAD}: the table was measured with another {key}; choose another folder")
            head = old
        else:
            write_json(folder / HEAD, head)
        self.head = head
        self._repair()
        self.prompts: dict[str, PromptRow] = {}
        self.times: dict[tuple[str, str], TimesRow] = {}
        for row in _rows(folder / ROWS):
            self._note(row)

    def add(self, row: PromptRow | TimesRow) -> None:
        """Append a row; it is on the disk when this returns."""
        with (self.folder / ROWS).open("ab") as file:
            file.write(json.dumps(row.model_dump(mode="json"), allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._note(row)

    def _note(self, row: PromptRow | TimesRow) -> None:
        if isinstance(row, PromptRow):
            self.prompts[row.prompt] = row
        else:
            self.times[row.prompt, row.load] = row

    def _repair(self) -> None:
        """Cut off a last row that was not written whole."""
        path = self.folder / ROWS
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_atomic(path, whole)


def read_head(folder: Path) -> JsonRow:
    """`table.json` of a folder. Raises RunError where it is missing or damaged."""
    path = folder / HEAD
    try:
        head = read_json(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"{path}: cannot be read: {why}") from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise RunError(f"{path}: not the head of a controller's table ({FORMAT})")
    return head


def read_table(folder: Path) -> Table:
    """A table that was measured whole.

    Raises:
        RunError: a file is missing or damaged, or cells are missing.
    """
    head = read_head(folder)
    prompts: dict[str, PromptRow] = {}
    times: dict[tuple[str, str], TimesRow] = {}
    for row in _rows(folder / ROWS):
        if isinstance(row, PromptRow):
            prompts[row.prompt] = row
        else:
            times[row.prompt, row.load] = row
    wanted = {(name, load) for name in prompts for load in head["loads"]}
    missing = sorted(wanted - times.keys())
    if not prompts or missing or len(prompts) < head["count"]:
        raise RunError(f"{folder / ROWS}: the table is not measured to its end; the same command goes on")
    for name, found in (
        *((name, set(row.agreement)) for name, row in prompts.items()),
        *((name, set(cells.cells)) for (name, _), cells in times.items()),
    ):
        if found != set(head["actions"]):
            raise RunError(f"{folder / ROWS}: the row of {name} has other actions than {HEAD}")
    ordered = sorted(prompts.values(), key=lambda row: row.number)
    return Table(head, {row.prompt: row for row in ordered}, times)


def _rows(path: Path) -> Iterator[PromptRow | TimesRow]:
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        kind: type[PromptRow | TimesRow] = TimesRow if b'"cells"' in line else PromptRow
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            raise RunError(one_line(f"{path}:{number}", error, kind)) from error


def hardware_row(hardware: Hardware) -> dict[str, float | None]:
    """A reading as a row has it."""
    return {name: None if value is None else round(value, 4) for name, value in asdict(hardware).items()}


def summary(table: Table) -> list[JsonRow]:
    """Medians of each action under each load: milliseconds of the call, of reading again, and agreement."""
    import statistics

    def middle(values: Sequence[float]) -> float:
        return round(statistics.median(values), 3)

    rows: list[dict[str, Any]] = []
    for action in table.actions:
        agreement = [row.agreement[action] for row in table.prompts.values()]
        row: dict[str, Any] = {
            "action": action,
            "agreement": round(statistics.fmean(one.share for one in agreement), 4),
            "whole_plans": round(statistics.fmean(one.whole for one in agreement), 4),
        }
        for load in table.loads:
            cells = [row.cells[action] for (_, under), row in table.times.items() if under == load]
            row[f"{load}_call_ms"] = middle([cell.call_ms for cell in cells])
            row[f"{load}_edit_ms"] = middle([cell.edit_ms for cell in cells])
            row[f"{load}_reread_ms"] = middle([cell.reread_ms for cell in cells])
        rows.append(row)
    return rows
