"""Collection of one episode's transcript. Runs in each process that plays, through the executors of rollouts."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from erecap.config.run import RunConfig
from erecap.config.suite import Seed, Suite
from erecap.errors import GameError
from erecap.planners.cooperative.agents import load_roster
from erecap.planners.cooperative.planner import CooperativePlanner
from erecap.rollout.components import Components, RealComponents
from erecap.rollout.episode import Tick, play
from erecap.rollout.jobs import Job, Played
from erecap.rollout.run_folder.rows import lost_episode
from erecap.training.collect.planner import CollectingPlanner
from erecap.training.collect.team import CollectingTeam
from erecap.training.collect.trajectories import Source, Trajectory

if TYPE_CHECKING:
    import gymnasium as gym

EXPERT, PLANNER = "expert", "reuse"  # modes of the jobs: who acts


class Recipe(BaseModel):
    """Settings that decide the rows of a trajectory folder, beside its suites and the model that acts."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    episodes: int = Field(ge=1, le=100_000, description="Episodes of each suite.")
    first: int = Field(default=0, ge=0, le=100_000, description="Number of the first episode.")
    seed: Seed = Field(default=0, description="Seed of the detours and of who acts; games follow the suite's seed.")
    perturb: float = Field(default=0.0, ge=0, le=1, description="Share of the episodes with detours.")
    beta: float = Field(default=0.0, ge=0, le=1, description="With a model: how often the expert acts.")
    max_steps: int = Field(default=5, ge=1, le=20, description="Most commands in one plan.")
    tokenizer: str | None = Field(default=None, description="Model whose tokenizer counts tokens.")
    max_tokens: int | None = Field(default=None, ge=1, description="Longer episodes are dropped.")
    agents: str | None = Field(default=None, description="Agents file: planners cooperate; null: one plans.")

    def chances(self, suite: str, episode: int) -> random.Random:
        """The chances of one episode, the same in every process."""
        return random.Random(f"collect/{self.seed}/{suite}/{episode}")

    def source(self, job: Job) -> Source:
        """Draw who acts in an episode."""
        if job.mode == PLANNER:
            return "planner"
        return "perturbed" if self.chances(job.suite, job.episode).random() < self.perturb else "expert"


@dataclass(frozen=True)
class Collected(Played):
    """An episode that was played for its transcript."""

    trajectories: tuple[Trajectory, ...] = ()  # one for each planner


class CollectComponents(RealComponents):
    """Components as for a run, except that the expert is asked whoever acts."""

    def env(self, suite: Suite, *, expert: bool) -> gym.Env[str, str]:
        return super().env(suite, expert=True)


def collect_job(
    recipe: Recipe,
    job: Job,
    config: RunConfig,
    suites: Mapping[str, Suite],
    components: Components,
    *,
    contended: bool,
    tick: Tick | None = None,
) -> Played:
    """Play an episode and keep its chat; games that cannot be opened become an error row without one."""
    suite = suites[job.suite]
    chances = recipe.chances(job.suite, job.episode)
    chances.random()  # drawn by `Recipe.source`
    source = recipe.source(job)
    acting = components.planner(config.mode(job.mode), trace=False) if source == "planner" else None
    planner: CollectingPlanner | CollectingTeam
    if recipe.agents is None:
        planner = CollectingPlanner(
            recipe.max_steps, chances, perturbed=source == "perturbed", model=acting, beta=recipe.beta
        )
    else:
        assert acting is None or isinstance(acting, CooperativePlanner), "as the recipe says"
        roster = load_roster(recipe.agents)
        planner = CollectingTeam(
            roster, recipe.max_steps, chances, perturbed=source == "perturbed", model=acting, beta=recipe.beta
        )
    try:
        env = components.env(suite, expert=True)
    except GameError as error:
        return lost_episode(job, suite, f"GameError: {error}", contended)
    played = play(job, suite, env, planner, config.planner, contended=contended, tick=tick)
    chats = list(planner.transcripts())
    trajectories = tuple(
        Trajectory(
            suite=job.suite,
            episode=job.episode,
            seed=job.seed,
            source=source,
            goal=planner.context.records[0].text if planner.context else played.episode["goal"],
            success=played.episode["success"],
            steps=played.episode["steps"],
            max_steps=recipe.max_steps,
            messages=messages,
            targets=targets,
            error=played.episode["error"],
            agent=agent,
            agents=len(chats),
        )
        for agent, messages, targets in chats
    )
    return Collected(job, played.episode, [], None, trajectories)
