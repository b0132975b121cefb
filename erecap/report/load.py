"""Read a run folder, and refuse damage with its file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from erecap.config.modes import BUDGETED_MODES, SESSION_MODES
from erecap.errors import RunError
from erecap.report.rows import EpisodeRow, ReplanRow, RunHead, Sample

RUN_FORMAT = 1
Row = TypeVar("Row", EpisodeRow, ReplanRow)


@dataclass(frozen=True)
class Run:
    """A run as read: rows of finished episodes only, in the order in which they were written."""

    folder: Path
    head: RunHead
    episodes: list[EpisodeRow]
    replans: list[ReplanRow]
    samples: list[Sample]
    orphan_replans: int  # calls left out because their episode has no row (it was cut short)
    torn_rows: int  # half-written last lines left out; only a run that was cut short may have them

    @property
    def modes(self) -> list[str]:
        """Names of the modes in the order of the configuration; others that have rows come last."""
        configured = self.head.config.get("modes", [])
        played = dict.fromkeys(row.mode for row in self.episodes)
        return [*configured, *(mode for mode in played if mode not in configured)]

    def keeps_session(self, mode: str) -> bool:
        """Return True if a mode keeps keys and values between calls, by its name or by the parts in `run.json`."""
        parts = self._parts(mode)
        return mode in SESSION_MODES if parts is None else parts.get("kv", "reread") != "reread"

    def keeps_budget(self, mode: str) -> bool:
        """Return True if the run's budget limits the mode."""
        parts = self._parts(mode)
        return mode in BUDGETED_MODES if parts is None else isinstance(parts.get("kv"), dict) or bool(parts.get("text"))

    def kv_tokens(self, mode: str) -> int | str | None:
        """The budget of a mode, tokens or `auto`: its own or the run's; None: no budget, or the run does not say."""
        if not self.keeps_budget(mode):
            return None
        kv = (self._parts(mode) or {}).get("kv")
        own = kv.get("kv_tokens") if isinstance(kv, dict) else None
        found: int | str | None = self.head.config.get("budget", {}).get("kv_tokens") if own is None else own
        return found

    def _parts(self, mode: str) -> dict[str, Any] | None:
        """The parts of a mode that the run has composed; None for a preset."""
        found: dict[str, Any] | None = self.head.config.get("compositions", {}).get(mode)
        return found

    @property
    def suites(self) -> list[str]:
        """Names of the suites in the order of `run.json`; others that have rows come last."""
        played = dict.fromkeys(row.suite for row in self.episodes)
        return [*self.head.suites, *(suite for suite in played if suite not in self.head.suites)]


def load_run_folder(folder: Path) -> Run:
    """Read and check the run in `folder`.

    Replanning calls without an episode row are counted and left out: their episode was cut short and will
    be played again. The same goes for a half-written last line, unless the run says that it finished.

    Raises RunError if the folder or a file of it is missing, a row is damaged, or a row occurs twice.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such run folder")
    head = _read_head(folder / "run.json")
    tolerate_torn = head.status != "finished"
    episode_rows, torn_episodes = _read_rows(folder / "episodes.jsonl", EpisodeRow, tolerate_torn)
    replan_rows, torn_replans = _read_rows(folder / "replans.jsonl", ReplanRow, tolerate_torn)

    finished: set[tuple[str, str, int]] = set()
    for line, episode in episode_rows:
        if episode.key in finished:
            suite, mode, number = episode.key
            raise RunError(
                f"{folder / 'episodes.jsonl'}:{line}: episode {number} of {suite} in mode {mode} occurs twice"
            )
        finished.add(episode.key)
    seen: set[tuple[tuple[str, str, int], int]] = set()
    replans: list[ReplanRow] = []
    for line, replan in replan_rows:
        if replan.key not in finished:
            continue
        if (replan.key, replan.replan) in seen:
            suite, mode, number = replan.key
            raise RunError(
                f"{folder / 'replans.jsonl'}:{line}: replan {replan.replan} of episode {number} of {suite} "
                f"in mode {mode} occurs twice"
            )
        seen.add((replan.key, replan.replan))
        replans.append(replan)
    _check_layers(folder, head, replan_rows)
    return Run(
        folder=folder,
        head=head,
        episodes=[row for _, row in episode_rows],
        replans=replans,
        samples=[sample for sample in _read_samples(folder / "samples") if sample.key in finished],
        orphan_replans=len(replan_rows) - len(replans),
        torn_rows=torn_episodes + torn_replans,
    )


def _read_head(path: Path) -> RunHead:
    try:
        head = RunHead.model_validate_json(_read_bytes(path))
    except ValidationError as error:
        raise RunError(f"{path}: {_first_problem(error)}") from error
    if head.format != RUN_FORMAT:
        raise RunError(f"{path}: run format {head.format} is unknown; allowed is {RUN_FORMAT}")
    return head


def _read_rows(path: Path, kind: type[Row], tolerate_torn: bool) -> tuple[list[tuple[int, Row]], int]:
    """Rows with their line numbers, and how many half-written last lines were left out (0 or 1).

    A missing file is an empty one: a run that just started has not written a row.
    """
    if not path.exists():
        return [], 0
    # Bytes, because a row may break off within a character.
    lines = _read_bytes(path).split(b"\n")
    torn = lines.pop()  # what follows the last newline: nothing where every row was written whole
    rows = [(number, _read_row(path, number, line, kind)) for number, line in enumerate(lines, start=1)]
    if not torn:
        return rows, 0
    if not tolerate_torn:
        raise RunError(f"{path}:{len(lines) + 1}: the row breaks off, although the run says it finished")
    return rows, 1


def _read_row(path: Path, number: int, line: bytes, kind: type[Row]) -> Row:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        raise RunError(f"{path}:{number}: {_first_problem(error)}") from error


def _read_samples(folder: Path) -> Iterator[Sample]:
    if not folder.is_dir():
        return
    for path in sorted(folder.glob("*.json")):
        try:
            yield Sample.model_validate_json(_read_bytes(path))
        except ValidationError as error:
            raise RunError(f"{path}: {_first_problem(error)}") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RunError(f"{path}: file is missing; a run folder has one") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error


def _first_problem(error: ValidationError) -> str:
    """The first thing that pydantic found, in one line: which key, what is wrong, what was got."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    # Where the row is no JSON or lacks a key, the input is the whole row and says nothing.
    whole = problem["type"] in ("json_invalid", "missing")
    got = "" if whole else json.dumps(problem["input"], default=str, ensure_ascii=False)
    if len(got) > 60:
        got = got[:57] + "..."
    return f"{where + ': ' if where else ''}{problem['msg']}{f' (got {got})' if got else ''}"


def _check_layers(folder: Path, head: RunHead, rows: list[tuple[int, ReplanRow]]) -> None:
    if head.model is None:
        return
    for line, row in rows:
        if row.controller is not None:  # its actions may run other layers
            continue
        layers = head.model.layers_of(row.mode)
        if row.kept_per_layer and len(row.kept_per_layer) != layers:
            raise RunError(
                f"{folder / 'replans.jsonl'}:{line}: kept_per_layer has {len(row.kept_per_layer)} entries, "
                f"but the model has {layers} layers"
            )
