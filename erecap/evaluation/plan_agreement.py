"""Plan agreement of a session under a budget with the unpruned model: teacher-forced, on the expert's plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from erecap.config.modes import parse_mode
from erecap.config.run import RunConfig
from erecap.config.suite import Suite
from erecap.context import Context
from erecap.context.prompt import NOTHING_DONE
from erecap.context.render import render
from erecap.errors import ConfigError, RunError
from erecap.files import write_atomic
from erecap.generation import JsonRow
from erecap.planners.expert import ExpertPlanner
from erecap.protocols import LanguageModel, Plan
from erecap.rollout.components import RealComponents
from erecap.rollout.episode import play
from erecap.rollout.jobs import all_jobs
from erecap.rollout.run_folder.identity import identity_of, weights_of
from erecap.rollout.run_folder.interrupt import Interrupts
from erecap.rollout.run_folder.lock import writing
from erecap.rollout.run_folder.writer import encode_row
from erecap.untrusted import parse_json

MODES = ("reuse", "erecap")

if TYPE_CHECKING:
    from erecap.session.session import ReplanSession


@dataclass
class Counts:
    """Tokens compared in an episode."""

    plans: int = 0
    plan_tokens: int = 0
    agreed: int = 0
    skipped: int = 0  # calls whose chat outgrew the window


class SeveralCompared:
    """The expert's plans, each of them compared token by token between an unpruned session and several others.

    Args:
        unpruned: a session that has read nothing yet.
        others: such sessions by name.
        max_steps: the longest plan, in commands.
    """

    def __init__(self, unpruned: ReplanSession, others: Mapping[str, ReplanSession], max_steps: int) -> None:
        self._expert = ExpertPlanner(max_steps=max_steps)
        self._unpruned, self._others = unpruned, others
        self._max_steps = max_steps
        self.by_name = {name: Counts() for name in others}

    def plan(self, context: Context) -> Plan:
        """The expert's plan."""
        from erecap.session.teacher_forcing import plan_choices

        plan = self._expert.plan(context)
        if plan.steps:
            messages = render(context, max_steps=self._max_steps).messages
            if messages[-1]["role"] == "assistant":
                messages.append({"role": "user", "content": NOTHING_DONE})
            ours = plan_choices(self._unpruned, messages, plan.text)
            for name, side in self._others.items():
                theirs, counts = plan_choices(side, messages, plan.text), self.by_name[name]
                if ours is None or theirs is None:
                    counts.skipped += 1
                else:
                    counts.plans += 1
                    counts.plan_tokens += len(ours)
                    counts.agreed += sum(a == b for a, b in zip(ours, theirs, strict=True))
        return plan


class ComparingPlanner(SeveralCompared):
    """As `SeveralCompared`, of one session under a budget.

    Args:
        unpruned, pruned: sessions that have read nothing yet.
        max_steps: the longest plan, in commands.
    """

    def __init__(self, unpruned: ReplanSession, pruned: ReplanSession, max_steps: int) -> None:
        super().__init__(unpruned, {"pruned": pruned}, max_steps)

    @property
    def counts(self) -> Counts:
        """The tokens compared."""
        return self.by_name["pruned"]


def measure_agreement(
    path: Path, config: RunConfig, suite: Suite, say: Callable[[str], None] = lambda _: None, *, fresh: bool = False
) -> int:
    """Compare the plans of every episode of `suite` that the file `path` lacks, and add a row for each.

    Several processes may add to one file.

    Args:
        config: its model, adapter, pruner and budget are compared with its model and adapter unpruned.
        say: told what was found, episode by episode.
        fresh: drop the rows of this suite and budget first.

    Returns:
        Rows added.

    Raises:
        RunError: a damaged row, or one of this suite and budget that was measured with something else.
        ConfigError: the run has no budget in tokens.
        KeyboardInterrupt: after SIGINT or SIGTERM; every finished episode has its row.
    """
    budget = config.budget.kv_tokens
    if not isinstance(budget, int):
        got = "null" if budget is None else budget
        raise ConfigError(f"budget.kv_tokens: agreement is measured at a budget in tokens; got {got}")
    config = config.model_copy(update={"modes": list(MODES), "samples": 0})
    identity = identity_of(config, suite, parse_mode("erecap"), weights_of(config)).fields()
    with writing(path.parent):
        kept, done = rows_done(path, suite.name, budget, identity, fresh)
        if fresh:
            write_atomic(path, b"".join(map(encode_row, kept)))
    jobs = [job for job in all_jobs({suite.name: suite}, ["reuse"], 0) if job.episode not in done]
    if not jobs:
        return 0
    components = RealComponents(config, {suite.name: suite})
    try:
        # Also where signals were ignored when the process began, as by `nohup ... &`.
        with Interrupts() as interrupts:
            components.prepare([parse_mode(mode) for mode in MODES], say)
            env = components.env(suite, expert=True)
            for job in jobs:
                unpruned, pruned = (session_of(components.language_model(parse_mode(mode))) for mode in MODES)
                planner = ComparingPlanner(unpruned, pruned, config.planner.max_steps)
                played = play(job, suite, env, planner, config.planner)
                counts = planner.counts
                row = {"suite": suite.name, "budget": budget, "episode": job.episode, **vars(counts), **identity}
                row["end"] = played.episode["end"]
                with interrupts.held():
                    add_row(path, row, identity)
                share = 100 * counts.agreed / max(1, counts.plan_tokens)
                say(f"agreement, episode {job.episode} of {suite.name}: {share:.1f} % of {counts.plan_tokens} tokens")
    finally:
        components.close()
    return len(jobs)


def add_row(path: Path, row: JsonRow, identity: JsonRow) -> None:
    """Add a row to those that the file has now, unless another process has measured the same episode meanwhile."""
    with writing(path.parent):
        kept, done = rows_done(path, row["suite"], row["budget"], identity, False)
        if row["episode"] not in done:
            write_atomic(path, b"".join(map(encode_row, [*kept, row])))


def session_of(model: LanguageModel) -> ReplanSession:
    """The session of a language model that keeps one for each episode, for a new episode."""
    from erecap.language_models.per_episode import EpisodeSessions

    assert isinstance(model, EpisodeSessions), "these modes keep a session for each episode"
    return model.session


def rows_done(path: Path, suite: str, budget: int, identity: JsonRow, fresh: bool) -> tuple[list[JsonRow], set[int]]:
    """Rows to keep, and the episodes of this suite and budget among them."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    kept, done = [], set()
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
            own = (row["suite"], row["budget"]) == (suite, budget)
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}:{number}: the row is damaged; restore the file from the repository") from error
        if own and fresh:
            continue
        if own:
            other = next((field for field in identity if row.get(field) != identity[field]), None)
            if other is not None:
                raise RunError(
                    f"{path}:{number}: measured with {other} {row.get(other)}, now it is {identity[other]}; --fresh "
                    "measures anew"
                )
            done.add(row["episode"])
        kept.append(row)
    return kept, done
