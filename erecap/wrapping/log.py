"""The call log of a wrapped planner: the replan rows of a run, without episodes."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from erecap.errors import ConfigError
from erecap.files import write_json
from erecap.generation import JsonRow, Timing, Usage
from erecap.untrusted import read_json
from erecap.wrapping.appending import RowFile

HEAD = "run.json"


class CallLog:
    """Counts calls and, where a folder is given, appends one row a call to `replans.jsonl`.

    Several processes may share a folder: rows are numbered under a lock, by the file as it is then. A row that cannot
    be written (a full disk, a folder that was removed) is lost, with one warning for all of them: the planner's answer
    is there, and is worth more than its row. `lost` counts such rows.

    Args:
        folder: where to write; None only counts. An existing log is continued; a last row that is torn is cut.
        target: the wrapped object's name, for `run.json`.
        mode: the kind of pruning, for the rows.

    Raises:
        ConfigError: a folder that cannot be written, or that holds something else, such as a run.
    """

    def __init__(self, folder: str | Path | None, target: str, mode: str) -> None:
        self.folder = None if folder is None else _checked(folder)
        self.rows = self.lost = 0
        self._mode = mode
        self._lock = threading.Lock()
        if self.folder is None:
            return
        self._calls, self._replays = RowFile(self.folder / "replans.jsonl"), RowFile(self.folder / "shadow.jsonl")
        try:
            self.rows = self._calls.mended()
            self._replays.mended()
            if not (self.folder / HEAD).exists():
                created = datetime.now(UTC).isoformat(timespec="seconds")
                write_json(
                    self.folder / HEAD,
                    {"format": 1, "name": self.folder.name, "status": "running", "created": created, "wrapped": target},
                )
        except OSError as error:
            raise ConfigError(f"log: {folder} cannot be written: {error.strerror or error}") from error

    def note(self, usage: Usage, timing: Timing, decision: str, reason: str, **extra: object) -> int:
        """Append one call; returns its number.

        `decision` is what was done: `pruned`; `read` or `reused`, where all of the prompt was read or only its rest;
        `passed` unchanged; or `failed`, where everything was sent after an error. `reason` says why. Of `extra`,
        `dropped_because` says why a part of the prompt or of what was stored is gone.
        """

        def row(number: int) -> JsonRow:
            return {
                "suite": "wrapped",
                "mode": self._mode,
                "episode": 0,
                "replan": number,
                "step": number,  # a wrapped planner does not tell what was executed between its calls
                "trigger": "call",
                "prompt_tokens": usage.prompt_tokens,
                "new_tokens": usage.new_tokens,
                "reused_tokens": usage.reused_tokens,
                "kept_tokens": usage.kept_tokens,
                "kept_per_layer": list(usage.kept_per_layer),
                "plan_tokens": usage.completion_tokens,
                "kv_bytes": usage.kv_bytes,
                "overflow_messages": usage.overflow_messages,
                "prefill_ms": timing.prefill_ms,
                "prune_ms": timing.prune_ms,
                "decode_ms": timing.decode_ms,
                "total_ms": timing.total_ms,
                "decision": decision,
                "reason": reason,
                "dropped_because": None,
                **extra,
            }

        with self._lock:
            written = None if self.folder is None else self._appended(self._calls, row)
            number = self.rows if written is None else written
            self.rows = number + 1
        return number

    def compare(
        self,
        number: int,
        total_ms: float,
        agrees: bool | None,
        problem: str | None = None,
        unknown: str | None = None,
    ) -> None:
        """Append to `shadow.jsonl` the bare target's result of the call of row `number`.

        Args:
            number: as `note` gave it.
            total_ms: of the bare call.
            agrees: whether it answered the same; None where it failed, and where nobody can say.
            problem: how it failed.
            unknown: why nobody can say.
        """
        row: JsonRow = {"replan": number, "total_ms": total_ms, "agrees": agrees, "problem": problem}
        self._replayed(row if unknown is None else {**row, "unknown": unknown})

    def skip(self, number: int, reason: str) -> None:
        """Append to `shadow.jsonl` the reason why the call of row `number` was not made once more."""
        self._replayed({"replan": number, "total_ms": None, "agrees": None, "problem": None, "skipped": reason})

    def _replayed(self, row: JsonRow) -> None:
        if self.folder is not None:
            self._appended(self._replays, lambda _: row)

    def _appended(self, file: RowFile, row: Callable[[int], JsonRow]) -> int | None:
        """The number of the row in its file; None where it could not be written."""
        try:
            return file.append(row)
        except OSError as error:
            self.lost += 1
            if self.lost == 1:
                warnings.warn(
                    f"the log in {self.folder} cannot be written ({error.strerror or error}); calls go on without it",
                    stacklevel=2,
                )
            return None


def _checked(given: str | Path) -> Path:
    """The folder, which is there afterwards, and holds nothing or such a log.

    Raises:
        ConfigError: it cannot be one, or it is the folder of a run, whose rows ours would ruin.
    """
    if not isinstance(given, str | os.PathLike) or not os.fspath(given):
        raise ConfigError(f"log: got {given!r}; allowed: a folder")
    folder = Path(given)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        head = read_json(folder / HEAD)
    except FileNotFoundError:
        return folder
    except OSError as error:
        raise ConfigError(f"log: {given} cannot be a folder of rows: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"log: {folder / HEAD} is damaged ({error}); give another folder") from error
    if not isinstance(head, dict) or "wrapped" not in head:
        raise ConfigError(f"log: {given} is the folder of a run, not the log of a wrapped planner; give another folder")
    return folder
