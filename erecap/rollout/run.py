"""Play a run: the episodes that its folder lacks, and nothing twice."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from erecap.config.load import load_suites
from erecap.config.run import RunConfig
from erecap.config.suite import Suite
from erecap.files import portable
from erecap.generation import JsonRow
from erecap.planners.cooperative.agents import team_settings
from erecap.rollout.components import OpenComponents, RealComponents
from erecap.rollout.executors.serial import Executor
from erecap.rollout.executors.shared_model import executor_of
from erecap.rollout.jobs import Job, all_jobs, row_key
from erecap.rollout.progress import RunProgress
from erecap.rollout.run_folder.busy import BusyBeside
from erecap.rollout.run_folder.interrupt import Interrupts
from erecap.rollout.run_folder.lock import owned
from erecap.rollout.run_folder.machine import git_revision, machine, versions
from erecap.rollout.run_folder.resume import erase, has_rows, read_head, repair, require_same, require_same_model
from erecap.rollout.run_folder.writer import RunWriter

FORMAT = 1


@dataclass(frozen=True)
class RunResult:
    """The end of a call of `run`."""

    folder: Path
    status: Literal["finished", "interrupted"]
    episodes: int  # with a row, from this call or earlier ones
    total: int
    played: int  # in this call
    failed: int = 0  # of `episodes`, with an error instead of an end


def run(
    config: RunConfig,
    out: Path,
    *,
    suites: Mapping[str, Suite] | None = None,
    fresh: bool = False,
    open_components: OpenComponents = RealComponents,
    console: Console | None = None,
) -> RunResult:
    """Play every episode of `config` that has no row in the folder `out` yet.

    Args:
        config: what to play.
        out: the run folder; made if need be.
        suites: the run's suites by name; None: those that `config.suites` names.
        fresh: delete the rows of an earlier run in `out` first.
        open_components: opens environments, model and planners in each process that plays.
        console: where progress is shown; None: stderr.

    Returns:
        The result; "interrupted" after SIGINT or SIGTERM, with every finished episode in the folder.

    Raises:
        RunError: the folder holds another configuration's run, is damaged, is in use, or workers keep dying.
        EnvironmentUnavailable, ModelError, ConfigError: what the run needs is missing or does not fit.
    """
    suites = suites if suites is not None else load_suites(config)
    console = console or Console(markup=False, emoji=False, stderr=True)
    head = new_head(config, suites)
    with owned(out), Interrupts() as interrupts:
        old = None
        if fresh:
            _check_erasable(out)
            erase(out)
        else:
            old = read_head(out)
        # A run that has no row yet, as one that was refused, holds no other run up.
        if old is not None and has_rows(out):
            require_same(out, old, head)
            # What was recorded at the start stays: when it began, and the model that it began with.
            head = {**head, **{key: old[key] for key in ("created", "model") if key in old}}
        done = repair(out)
        jobs = all_jobs(suites, config.modes, config.samples)
        finished = {row_key(row) for row in done}
        missing = [job for job in jobs if job.key not in finished]
        if not missing and old is not None and old.get("status") == "finished":
            return RunResult(out, "finished", len(jobs), len(jobs), 0, _failed(done))
        with closing(RunWriter(out, head)) as writer:
            return _play_missing(config, suites, missing, done, writer, interrupts, open_components, console)


def _play_missing(
    config: RunConfig,
    suites: Mapping[str, Suite],
    missing: list[Job],
    done: list[JsonRow],
    writer: RunWriter,
    interrupts: Interrupts,
    open_components: OpenComponents,
    console: Console,
) -> RunResult:
    total = len(done) + len(missing)
    rows = list(done)
    status: Literal["finished", "interrupted"] = "interrupted"
    executor: Executor = executor_of(config)(config, suites, open_components)
    try:
        with closing(executor), RunProgress(console, config.modes, total, done, missing) as progress:
            writer.save_head(status="running")
            if done:
                progress.say(f"{writer.folder}: going on after {len(done)} of {total} episodes")
            if missing:
                executor.prepare([config.mode(name) for name in config.modes], progress.say)
                _record_machine(writer, executor)
            beside = BusyBeside()
            for result in executor.play(missing, progress.playing):
                with interrupts.held():
                    writer.append(result)
                    rows.append(result.episode)
                progress.played(result.episode)
            if missing and config.executor == "serial":  # workers would count as other programs
                writer.save_head(machine={**writer.head["machine"], "busy_beside": _rounded(beside.cores())})
            status = "finished"
    except KeyboardInterrupt:
        pass  # the rows are whole; the status says the rest
    finally:
        with interrupts.held():
            writer.save_head(status=status)
    return RunResult(writer.folder, status, len(rows), total, len(rows) - len(done), _failed(rows))


def _failed(rows: list[JsonRow]) -> int:
    return sum(row.get("error") is not None for row in rows)


def new_head(config: RunConfig, suites: Mapping[str, Suite]) -> dict[str, Any]:
    """`run.json` of a run that begins now."""
    recorded = config.model_dump(mode="json")
    recorded["suites"] = list(suites)  # by name; they are written out below
    team = team_settings(config.planner)
    return {
        "format": FORMAT,
        "name": config.name,
        "status": "running",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": portable(recorded),
        "suites": {name: portable(suite.model_dump(mode="json")) for name, suite in suites.items()},
        **({} if team is None else {"team": team.model_dump(mode="json")}),
        "versions": versions(),
        "machine": machine(None),
        "model": None,
        "git": git_revision(),
        "seed": config.seed,
    }


def _record_machine(writer: RunWriter, executor: Executor) -> None:
    facts, threads = executor.facts()
    before = writer.head.get("model")
    require_same_model(writer.folder, before, facts)
    writer.save_head(model=facts if facts is not None else before, machine=machine(threads))


def _rounded(cores: float | None) -> float | None:
    return None if cores is None else round(cores, 2)


def _check_erasable(folder: Path) -> None:
    if not (folder / "run.json").exists():
        read_head(folder)  # refuses a folder that holds something else
