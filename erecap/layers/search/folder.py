"""The result of a search on disk: a head, a row a step, tuned weights beside them; any prefix becomes a plan."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from erecap.errors import ConfigError, RunError
from erecap.files import naming, write_atomic
from erecap.layers.plan import Base, LayerPlan
from erecap.layers.search.latencies import Latencies
from erecap.layers.search.steps import Step, Sublayer, plan_of_steps
from erecap.models.wheels import sha256
from erecap.untrusted import parse_json
from erecap.validation import one_line

FORMAT = "erecap-layer-search-1"
NAME = "search.jsonl"
MEASURED = "latencies"  # of the head: kept from the first run, as no two measurements agree
_STRICT = ConfigDict(extra="forbid", strict=True)


class _Base(BaseModel):
    model_config = _STRICT
    name: str
    hash: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    adapter: str | None


class _Head(BaseModel):
    """The first row: settings that the steps depend on."""

    model_config = _STRICT
    format: str
    base: _Base
    layers: int = Field(ge=1, le=100_000)
    dtype: str
    method: str
    options: dict[str, Any]
    seed: int
    calibration: dict[str, Any]
    held_out: dict[str, Any]
    evaluate_every: int
    latencies: dict[str, Any]


class _Tuned(BaseModel):
    model_config = _STRICT
    file: str = Field(pattern=r"^step-[0-9]{3,6}\.safetensors$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Row(BaseModel):
    """One step; step 0 is the dense model."""

    model_config = _STRICT
    step: int = Field(ge=0)
    removed: list[str] = []
    score: float | None = Field(default=None, allow_inf_nan=False)
    evaluations: int = 0
    passes: float = 0.0
    seconds: float = 0.0
    predicted: dict[str, float] = {}
    evaluation: dict[str, int | float] | None = None
    tuned: _Tuned | None = None
    notes: dict[str, Any] = {}


class SearchFolder:
    """Rows of a search in `folder/search.jsonl`. A last line that was cut short goes, and its step is made again.

    Args:
        folder: may hold a search already; it is read.
        fresh: delete that search first.
        anew: words that tell how to start anew, for messages.

    Attributes:
        head: None before `begin` where there is none.
        rows: of the steps, the dense model's first.

    Raises:
        RunError: rows of another format, or damaged ones; file, line and key are named.
    """

    def __init__(self, folder: Path, *, fresh: bool = False, anew: str = "--fresh starts anew") -> None:
        self.folder, self.path, self.anew = folder, folder / NAME, anew
        if fresh:
            self.path.unlink(missing_ok=True)
            for path in folder.glob("step-*.safetensors"):
                path.unlink()
        self.head: dict[str, Any] | None = None
        self.rows: list[Row] = []
        self.latencies: dict[str, Latencies] = {}
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        self._cut = len(whole) < len(content)
        for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
            self._take(number, line)

    @classmethod
    def open(cls, folder: Path) -> SearchFolder:
        """A folder that has to hold a search.

        Raises:
            ConfigError: it holds none.
            RunError: as the class.
        """
        found = cls(folder, anew="`erecap layers find --fresh` starts anew")
        if found.head is None:
            raise ConfigError(f"{folder}: holds no {NAME}; `erecap layers find` makes such a folder")
        return found

    def begin(self, head: Mapping[str, Any], measure: Callable[[], dict[str, Latencies]]) -> bool:
        """Start a search, or go on with the one that lies here; latencies are measured only at the start.

        A search without a step is started again with another head; its latencies stay if they are of the same model.

        Args:
            head: all of it but format and latencies.

        Returns:
            True if a search lies here already.

        Raises:
            RunError: the search that lies here has steps and another head; the key is named.
        """
        wanted = json.loads(json.dumps({"format": FORMAT, **head}))
        other = (
            [] if self.head is None else [key for key in wanted if not same_setting(key, self.head[key], wanted[key])]
        )
        if self.head is not None and other and len(self.rows) > 1:
            mine, given = _apart(self.head[other[0]], wanted[other[0]])
            raise RunError(
                f"{self.path}: searched with {other[0]} {mine}, here it is {given}; "
                f"another --out keeps both, {self.anew}"
            )
        if self.head is not None and not other:
            if self._cut:
                write_atomic(
                    self.path, b"".join(self.path.read_bytes().splitlines(keepends=True)[: 1 + len(self.rows)])
                )
            return True
        if self.head is None or {"base", "dtype"} & {*other}:
            self.latencies = measure()
        self.rows = []
        self.head = {**wanted, MEASURED: {phase: one.as_dict() for phase, one in self.latencies.items()}}
        write_atomic(self.path, _line(self.head))
        return False

    def add(self, row: Row, tuned: Mapping[str, torch.Tensor] | None = None) -> None:
        """Keep a row and its tuned weights: both are on the disk when this returns."""
        if tuned:
            from safetensors.torch import save

            name = f"step-{row.step:03d}.safetensors"
            tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tuned.items()}
            write_atomic(self.folder / name, save(tensors))
            row = row.model_copy(update={"tuned": _Tuned(file=name, sha256=sha256(self.folder / name))})
        with naming(self.path), self.path.open("ab") as file:
            file.write(_line(row.model_dump(exclude_defaults=True) | {"step": row.step}).encode())
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)

    def steps(self, count: int | None = None) -> list[Step]:
        """The first `count` steps with their tuned weights; None: all.

        Raises:
            ConfigError: there are fewer.
            RunError: weights that are missing or damaged.
        """
        made = len(self.rows) - 1
        if count is not None and made < 1:
            raise ConfigError(f"{self.folder}: holds no step yet; `erecap layers find` goes on there")
        if count is not None and not 0 <= count <= made:
            raise ConfigError(f"--steps: got {count}; allowed: 1 to {made}, the steps in {self.folder}")
        rows = self.rows[1:] if count is None else self.rows[1 : count + 1]
        return [
            Step(
                tuple(map(Sublayer.parse, row.removed)), row.score or 0.0, self._weights(row), row.notes,
                row.evaluations, row.passes, row.seconds,
            )
            for row in rows
        ]  # fmt: skip

    def steps_for(self, phase: str, speed_up: float) -> int:
        """The fewest steps whose predicted speed-up is `speed_up` or more.

        Raises:
            ConfigError: none of the steps has it, no latencies of `phase` were measured, or a speed-up out of range.
        """
        if not speed_up > 1:
            raise ConfigError(f"--speed-up: got {speed_up:g}; allowed: above 1")
        if phase not in self.latencies:
            raise ConfigError(f"{self.folder}: holds no latencies of {phase}")
        found = [(row.step, row.predicted[phase]) for row in self.rows if phase in row.predicted]
        if not found:
            raise ConfigError(f"{self.folder}: holds no step yet; `erecap layers find` goes on there")
        if not any(predicted >= speed_up for _, predicted in found):
            best = max(predicted for _, predicted in found)
            raise ConfigError(f"--speed-up: got {speed_up:g}; the steps in {self.folder} reach {best:.3f} of {phase}")
        return next(step for step, predicted in found if predicted >= speed_up)

    def plan(self, count: int) -> LayerPlan:
        """The plan of the first `count` steps, with its origin and the figures of its row.

        Raises:
            ConfigError, RunError: as `steps`; no step, which is no plan.
        """
        head, steps = self.head, self.steps(count)
        assert head is not None, "a folder that was opened holds a search"
        if not steps:
            raise ConfigError("--steps: got 0, which leaves nothing out; allowed: 1 or more")
        row, dense = self.rows[count], self.rows[0]
        found = {
            "method": head["method"],
            "steps": count,
            "options": head["options"],
            "seed": head["seed"],
            "calibration": head["calibration"],
            "predicted": row.predicted,
        }
        test = {}
        if row.evaluation is not None and dense.evaluation is not None:
            test = {**row.evaluation, "dense_perplexity": dense.evaluation["perplexity"]}
        try:
            return plan_of_steps(head["layers"], steps, base=Base(**head["base"]), found=found, test=test)
        except ValueError as error:
            raise RunError(f"{self.path}: {error}") from error

    def _take(self, number: int, line: bytes) -> None:
        where = f"{self.path}:{number}"
        try:
            value = parse_json(line)
            json.dumps(value, allow_nan=False)  # numbers that are not finite are damage, too
            if number == 1:
                if not isinstance(value, dict) or value.get("format") != FORMAT:
                    raise RunError(f"{self.path}: not a search for layer plans in format {FORMAT}; {self.anew}")
                self.head = _Head.model_validate(value).model_dump()
                try:
                    self.latencies = {phase: Latencies.parse(one) for phase, one in self.head[MEASURED].items()}
                except RunError as error:
                    raise RunError(f"{where}: {error}; {self.anew}") from error
                return
            row = Row.model_validate(value)
            if row.step != len(self.rows):
                raise ValueError(f"step {row.step} stands where step {len(self.rows)} is due")
            for name in row.removed:
                Sublayer.parse(name)
            for field, keys in (("predicted", self.latencies), ("evaluation", ("perplexity", "agreement"))):
                figures = getattr(row, field)
                lacking = [] if figures is None else [key for key in keys if key not in figures]
                if lacking:
                    raise ValueError(f"{field}: {lacking[0]} is missing")
        except ValidationError as error:
            model = _Head if number == 1 else Row
            raise RunError(f"{one_line(where, error, model)}; {self.anew}") from error
        except ValueError as error:
            raise RunError(f"{where}: the row is damaged ({error}); {self.anew}") from error
        self.rows.append(row)

    def _weights(self, row: Row) -> dict[str, torch.Tensor]:
        if row.tuned is None:
            return {}
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder / row.tuned.file
        try:
            if sha256(path) != row.tuned.sha256:
                raise RunError(f"{path} is damaged: its SHA-256 is not the one in {NAME}; {self.anew}")
            return dict(load_file(path))
        except FileNotFoundError:
            raise RunError(f"{path} is missing; {self.anew}") from None
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path} is damaged: {error}; {self.anew}") from error


def same_setting(key: str, one: Any, other: Any) -> bool:
    """Return True for equal values of a head; a base is known by its weights, whatever name it was opened by."""
    if key == "base":
        return all(one[part] == other[part] for part in ("hash", "adapter"))
    return bool(one == other)


def _apart(one: Any, other: Any) -> tuple[str, str]:
    """Two values of a head in words; of mappings what differs."""
    if isinstance(one, dict) and isinstance(other, dict):
        same = [key for key in one if key in other and one[key] == other[key]]
        one, other = ({key: value for key, value in part.items() if key not in same} for part in (one, other))
    return _short(one), _short(other)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 90 else f"{text[:87]}..."


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
