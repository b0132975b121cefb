"""Collects trajectories: plays the episodes whose rows are missing, and writes them in order."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console

from erecap.config.run import COOPERATIVE, PlannerSettings, RunConfig
from erecap.config.suite import Suite
from erecap.errors import ConfigError
from erecap.planners.cooperative.agents import DEFAULT_TEAM, load_roster
from erecap.rollout.components import OpenComponents
from erecap.rollout.executors.serial import Executor
from erecap.rollout.executors.shared_model import executor_of
from erecap.rollout.jobs import Job, episode_seed
from erecap.rollout.progress import RunProgress
from erecap.rollout.run_folder.interrupt import Interrupts
from erecap.rollout.run_folder.lock import owned
from erecap.rollout.run_folder.resume import require_same_model
from erecap.training.collect.counts import Tally
from erecap.training.collect.episode import EXPERT, PLANNER, CollectComponents, Recipe, collect_job
from erecap.training.collect.folder import TrajectoryWriter, erase, new_meta, read_done, read_started
from erecap.training.collect.rows import ordered_rows, shown, token_counter


@dataclass(frozen=True)
class CollectResult:
    """The end of a call of `collect`."""

    folder: Path
    status: Literal["finished", "interrupted"]
    rows: int  # from this call or earlier ones
    total: int
    played: int  # in this call
    tally: Tally


def collect(
    recipe: Recipe,
    suites: Mapping[str, Suite],
    out: Path,
    *,
    planner: RunConfig | None = None,
    workers: int = 1,
    batch: int = 1,
    fresh: bool = False,
    open_components: OpenComponents = CollectComponents,
    console: Console | None = None,
) -> CollectResult:
    """Play every episode that has no row in the folder `out` yet.

    Rows stand in the order of episode numbers, suites taking turns, however many processes play: a folder that was
    left half-way holds the beginning of the whole one, byte for byte.

    Args:
        recipe: how many episodes, and how they are played.
        suites: by name.
        out: the trajectory folder; made if need be.
        planner: whose model acts, with its `planner` settings; None: the expert acts.
        workers: processes that play.
        batch: with a model, episodes that one process plays at a time, in shared forward calls.
        fresh: delete the rows of an earlier collection in `out` first.
        open_components: opens environments and planners in each process that plays.
        console: where progress is shown; None: stderr.

    Raises:
        ConfigError: settings that contradict each other, or a damaged row.
        RunError: the folder holds another collection or something else, is in use, or workers keep dying.
        EnvironmentUnavailable, ModelError: what is to be played needs something that is missing.
    """
    _check(recipe, suites, planner)
    recipe, planner = _cooperating(recipe, planner)
    if batch > 1 and (workers > 1 or planner is None):
        without = f"{workers} workers" if workers > 1 else "no planner, so that there are no forward calls to share"
        raise ConfigError(f"batch: got {batch} with {without}; allowed: 1, or a planner and one worker")
    console = console or Console(markup=False, emoji=False, stderr=True)
    suites = {name: suite.model_copy(update=_episodes(recipe)) for name, suite in suites.items()}
    meta = new_meta(recipe, suites, planner)
    jobs = _jobs(recipe, suites, PLANNER if planner else EXPERT)
    with owned(out), Interrupts() as interrupts:
        old = None
        if fresh:
            erase(out)
        old = read_started(out, meta)
        if old is not None:
            # What was recorded at the start stays.
            meta = {**meta, **{key: old[key] for key in ("versions", "revision", "model") if key in old}}
        tally, done = Tally(), []
        for rows in read_done(out, jobs):
            for row in rows:
                tally.add(row)
            done.append(shown(rows[0]))
        if len(done) == len(jobs) and old is not None and old.get("status") == "finished":
            return CollectResult(out, "finished", len(jobs), len(jobs), 0, tally)
        config = _config(recipe, suites, planner, workers, batch)
        executor: Executor = executor_of(config)(config, suites, open_components, partial(collect_job, recipe))
        played = 0
        status: Literal["finished", "interrupted"] = "interrupted"
        with closing(TrajectoryWriter(out, meta)) as writer:
            writer.save_meta(status="running")
            try:
                missing = jobs[len(done) :]
                with closing(executor), RunProgress(console, [], len(jobs), done, missing) as progress:
                    if done:
                        progress.say(f"{out}: going on after {len(done)} of {len(jobs)} episodes")
                    count = token_counter(recipe)
                    executor.prepare([config.mode(name) for name in config.modes], progress.say)
                    _record_model(writer, executor)
                    for rows in ordered_rows(executor.play(missing, progress.playing), missing, recipe, count):
                        with interrupts.held():
                            writer.append(rows)
                            for row in rows:
                                tally.add(row)
                            played += 1
                        progress.played(shown(rows[0]))
                    status = "finished"
            except KeyboardInterrupt:
                pass  # the rows are whole; the status says the rest
            finally:
                with interrupts.held():
                    writer.save_meta(status=status, counts=tally.counts())
        return CollectResult(out, status, len(done) + played, len(jobs), played, tally)


def _cooperating(recipe: Recipe, planner: RunConfig | None) -> tuple[Recipe, RunConfig | None]:
    """Recipe and planner with the team that either of them names.

    Raises:
        ConfigError: they name two, the agents file is not usable, or limits what its agents may.
    """
    settings = planner.planner if planner else None
    if recipe.agents is None and (settings is None or settings.name != COOPERATIVE):
        return recipe, planner
    named = (settings.agents or DEFAULT_TEAM) if settings and settings.name == COOPERATIVE else None
    agents = recipe.agents if recipe.agents is not None else named or DEFAULT_TEAM
    if named not in (None, agents):
        raise ConfigError(f"agents: got {agents!r}, but the planner's team is {named!r}; allowed: one of them")
    roster = load_roster(agents)
    limited = next((agent.name for agent in roster.settings.agents or () if agent.may is not None), None)
    if limited is not None:
        why = "the environment's expert, whose answers are kept, does not keep to it"
        raise ConfigError(f"{roster.source}: agent {limited!r}: may: {why}; allowed where chats are collected: no may")
    if planner is not None and settings is not None and named is None:
        # Of a planner alone, its longest plan and its way out of loops say nothing about a team.
        kept = settings.model_dump(exclude={"name", "max_new_tokens", "stuck_after"})
        team = PlannerSettings.model_validate({**kept, "name": COOPERATIVE, "agents": agents})
        planner = planner.model_copy(update={"planner": team})
    return recipe.model_copy(update={"agents": agents}), planner


def _check(recipe: Recipe, suites: Mapping[str, Suite], planner: RunConfig | None) -> None:
    if not suites:
        raise ConfigError("no suite is named; at least one is needed")
    if planner is None and recipe.beta:
        raise ConfigError("beta: says how often the expert acts in place of a model; give a planner, or leave it out")
    if planner is not None and planner.planner.plans == EXPERT:
        raise ConfigError("planner.plans: got expert; allowed where trajectories are collected: model, whose plans act")
    if planner is not None and recipe.perturb:
        raise ConfigError(f"perturb: got {recipe.perturb}; allowed with a planner: 0, since its own errors are detours")
    if recipe.max_tokens is not None and recipe.tokenizer is None:
        raise ConfigError("max_tokens: tokens are counted by a model's tokenizer; name the model, too")


def _episodes(recipe: Recipe) -> dict[str, int]:
    return {"episodes": recipe.first + recipe.episodes}


def _jobs(recipe: Recipe, suites: Mapping[str, Suite], mode: str) -> list[Job]:
    return [
        Job(name, mode, episode, episode_seed(suite.seed, episode), sample=False)
        for episode in range(recipe.first, recipe.first + recipe.episodes)
        for name, suite in suites.items()
    ]


def _config(
    recipe: Recipe, suites: Mapping[str, Suite], planner: RunConfig | None, workers: int, batch: int
) -> RunConfig:
    """The run that the executors are told of."""
    base = planner or RunConfig(name="collect", suites=list(suites), modes=[EXPERT])
    settings = base.planner if planner else PlannerSettings()
    changes = {
        "name": "collect",
        "suites": list(suites),
        "modes": [PLANNER if planner else EXPERT],
        # Transcripts tell neither times nor what else was measured, and every call is made.
        "schedule": None,
        "clock": None,
        "reread": None,
        "samples": 0,
        "executor": "process" if workers > 1 else "serial",
        "workers": workers,
        "batch": batch,
        "planner": settings.model_copy(update={"max_steps": recipe.max_steps}),
    }
    return base.model_copy(update=changes)


def _record_model(writer: TrajectoryWriter, executor: Executor) -> None:
    facts, _ = executor.facts()
    require_same_model(writer.folder, writer.meta.get("model"), facts)
    writer.save_meta(model=facts)
