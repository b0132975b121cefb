"""The writer of a run folder; nothing else writes into one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from erecap.errors import RunError
from erecap.files import write_atomic, write_json
from erecap.generation import JsonRow
from erecap.rollout.jobs import Job, Played

EPISODES = "episodes.jsonl"
REPLANS = "replans.jsonl"
HEAD = "run.json"
SAMPLES = "samples"


def encode_row(row: JsonRow) -> bytes:
    """A row as one line of UTF-8. Raises ValueError if a number in it is not finite."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    return text.encode("utf-8", errors="replace") + b"\n"


def sample_path(folder: Path, job: Job) -> Path:
    """The file of a job's recorded episode."""
    return folder / SAMPLES / f"{job.suite}--{job.mode}--{job.episode}.json"


def unwritable(folder: Path, error: OSError) -> RunError:
    """The error of a run folder on a full disk, say."""
    return RunError(
        f"{folder}: cannot be written: {error.strerror}; the episodes that it has are whole, and the same command goes "
        "on from there"
    )


class RunWriter:
    """Appends to the row files of a run, and rewrites its head.

    Opened by the process that owns the run, after `erecap.rollout.run_folder.resume.repair`.
    """

    def __init__(self, folder: Path, head: dict[str, Any]) -> None:
        """Raises RunError if the folder cannot be written to."""
        self.folder = folder
        self.head = head
        with self._told():
            (folder / SAMPLES).mkdir(parents=True, exist_ok=True)
            self._episodes = open(folder / EPISODES, "ab", buffering=0)
            self._replans = open(folder / REPLANS, "ab", buffering=0)

    def save_head(self, **changes: Any) -> None:
        """Set keys of `run.json` and write it. Raises as `append`."""
        self.head.update(changes)
        with self._told():
            write_json(self.folder / HEAD, self.head)

    def append(self, played: Played) -> None:
        """Write the result of one job. The episode's row goes last: it is what makes the episode count.

        Raises:
            RunError: the folder cannot be written to; what was there before is whole.
        """
        with self._told():
            self._append(played)

    def _append(self, played: Played) -> None:
        if played.sample is not None:
            text = json.dumps(played.sample, ensure_ascii=False, allow_nan=False, indent=1)
            write_atomic(sample_path(self.folder, played.job), text.encode("utf-8", errors="replace"))
        _append(self._replans.fileno(), map(encode_row, played.replans))
        _append(self._episodes.fileno(), [encode_row(played.episode)])

    def close(self) -> None:
        """Close the row files."""
        self._episodes.close()
        self._replans.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unwritable(self.folder, error) from error


def _append(descriptor: int, lines: Iterable[bytes]) -> None:
    data = memoryview(b"".join(lines))
    whole = os.fstat(descriptor).st_size
    try:
        while data:
            # A write may be short, on a full disk for one, where the next one then says so.
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, whole)  # needs no room, and leaves no half of a row
        raise
