"""The folder that `erecap collect` fills: its head, its rows in order of the jobs, and going on after a kill."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from erecap.config.run import RunConfig
from erecap.config.suite import Suite
from erecap.errors import RunError
from erecap.files import portable, write_json
from erecap.planners.cooperative.agents import load_roster
from erecap.rollout.jobs import Job
from erecap.rollout.run_folder.lock import LOCK
from erecap.rollout.run_folder.machine import git_revision, versions
from erecap.rollout.run_folder.resume import require_same
from erecap.rollout.run_folder.writer import encode_row
from erecap.training.collect.acting_model import describe_planner
from erecap.training.collect.episode import Recipe
from erecap.training.collect.trajectories import EPISODES, FORMAT, META, Trajectory, parse_row, read_meta


def new_meta(recipe: Recipe, suites: Mapping[str, Suite], planner: RunConfig | None) -> dict[str, Any]:
    """`meta.json` of a collection that begins now.

    Raises:
        ModelError: the planner's adapter is not there.
        ConfigError: the agents file cannot be used.
    """
    # Folders from before there were teams go on.
    options = recipe.model_dump(mode="json", exclude={"seed", *(("agents",) if recipe.agents is None else ())})
    return {
        "format": FORMAT,
        "status": "running",
        "suites": {name: portable(suite.model_dump(mode="json")) for name, suite in suites.items()},
        **({} if recipe.agents is None else {"team": load_roster(recipe.agents).settings.model_dump(mode="json")}),
        "seed": recipe.seed,
        "options": portable({**options, "planner": describe_planner(planner) if planner else None}),
        "versions": versions(),
        "revision": git_revision(),
        "model": None,
        "counts": {},
    }


def read_started(folder: Path, meta: dict[str, Any]) -> dict[str, Any] | None:
    """`meta.json` of a collection that was started with the same settings; None if none was started.

    Raises:
        RunError: the folder holds something else, or rows of other settings; the first that differs is named.
        ConfigError: `meta.json` is damaged, or of another format.
    """
    if not (folder / META).exists():
        strange = sorted(item.name for item in folder.iterdir() if item.name != LOCK and item.suffix != ".part")
        if strange:
            raise RunError(f"{folder}: holds {strange[0]!r} but no {META}; choose another --out")
        return None
    old = read_meta(folder)
    require_same(folder, _comparable(old), _comparable(meta))
    return old


def erase(folder: Path) -> None:
    """Delete what a collection wrote, and nothing else. A damaged `meta.json` goes too, but not another program's.

    Raises:
        RunError: `meta.json` was not written by a collection.
    """
    path = folder / META
    if path.exists() and b"erecap-trajectories" not in path.read_bytes():
        raise RunError(f"{path}: was not written by `erecap collect`; choose another --out")
    (folder / EPISODES).unlink(missing_ok=True)
    (folder / META).unlink(missing_ok=True)


def read_done(folder: Path, jobs: Sequence[Job]) -> Iterator[tuple[Trajectory, ...]]:
    """The rows that are there already, by episode; those of a last one that was cut short are removed.

    Raises:
        RunError: the rows are not those of the first jobs.
        ConfigError: a row is damaged, which no kill of ours can cause.
    """
    path = folder / EPISODES
    if not path.exists():
        return
    _drop_torn_row(path)
    done = whole = at = 0  # episodes; bytes of their rows; bytes read
    rows: tuple[Trajectory, ...] = ()
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            row = parse_row(line, f"{path}:{number}")
            job = jobs[done] if done < len(jobs) else None
            if job is None or (row.suite, row.episode) != (job.suite, job.episode):
                due = f"episode {job.episode} of {job.suite} is due" if job else "no row is due"
                raise RunError(f"{path}:{number}: holds episode {row.episode} of {row.suite}, where {due}")
            rows, at = (*rows, row), at + len(line)
            if len(rows) == row.agents:
                yield rows
                rows, done, whole = (), done + 1, at
    if rows:
        os.truncate(path, whole)


class TrajectoryWriter:
    """Appends rows, each whole and on disk before the next, and rewrites `meta.json`."""

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder = folder
        self.meta = meta
        self._rows = open(folder / EPISODES, "ab", buffering=0)

    def save_meta(self, **changes: Any) -> None:
        """Set keys of `meta.json` and write it."""
        self.meta.update(changes)
        write_json(self.folder / META, self.meta)

    def append(self, rows: Sequence[Trajectory]) -> None:
        """Write the rows of one episode."""
        data = memoryview(b"".join(encode_row(row.model_dump(mode="json")) for row in rows))
        while data:
            data = data[self._rows.write(data) :]  # a write may be short, on a full disk for one
        os.fsync(self._rows.fileno())

    def close(self) -> None:
        """Close the row file."""
        self._rows.close()


def _comparable(meta: dict[str, Any]) -> dict[str, Any]:
    """The settings that must stay. More episodes may be asked for later: their rows follow those that are there."""
    options = {key: value for key, value in meta.get("options", {}).items() if key != "episodes"}
    if options.get("agents"):
        options["agents"] = Path(options["agents"]).name  # what it says counts, not where it lies
    suites = {
        name: {key: value for key, value in suite.items() if key != "episodes"}
        for name, suite in meta.get("suites", {}).items()
    }
    team = {"team": meta["team"]} if "team" in meta else {}
    return {"config": {"seed": meta.get("seed"), **options}, "suites": suites, **team}


def _drop_torn_row(path: Path) -> None:
    with open(path, "rb+") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            file.truncate(whole)
