"""Training of a policy on a table, and its test beside the baselines. Training and test share one reward."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from erecap.errors import ConfigError
from erecap.generation import JsonRow
from erecap.report.stats import Interval, bootstrap_mean
from erecap.scheduling.controllers import Controller, FixedController, Learner, RandomController, make_controller
from erecap.scheduling.features import Normaliser, feature_names, features
from erecap.scheduling.off_policy import Logged, OffPolicyEstimate, off_policy
from erecap.training.controller.settings import TrainSettings
from erecap.training.controller.world import Call, Outcome, TableWorld

DRAWS = 2000  # states from which the normaliser is taken


@dataclass(frozen=True)
class Step:
    """One decision in a test."""

    call: Call
    action: int
    outcome: Outcome


@dataclass(frozen=True)
class Learned:
    """A learner with the form of its states, and the rewards of its training in order."""

    learner: Learner
    normaliser: Normaliser
    hardware: bool
    curve: list[float]
    fallback: int  # the action in states far from those of training

    def choose(self, row: np.ndarray) -> int:
        """The action for features `(features,)`, as `TrainedController.decide`: without exploration."""
        if self.normaliser.outside(row) is not None:
            return self.fallback
        self.learner.observe(self.normaliser(row))
        return self.learner.decide(explore=False).action


def learn(
    world: TableWorld, settings: TrainSettings, method: str, *, fallback: int = 0, hardware: bool = True
) -> Learned:
    """Train a learner on the training split.

    Args:
        fallback: number of the best fixed action.
        hardware: False: without the machine's state.

    Raises:
        ConfigError: one action only.
    """
    names = [action.name for action in world.actions]
    if len(names) < 2:
        raise ConfigError("actions: got one; allowed: two or more, for there is nothing to decide")
    seed = settings.learner.seed
    normaliser = _normaliser(world, settings, hardware)
    learner = make_controller(method, len(feature_names(names, hardware)), len(names), settings.learner)
    curve: list[float] = []
    for calls in world.endless(settings.stay, seed):
        learner.begin()
        previous: int | None = None
        for call in calls:
            learner.progress(len(curve) / settings.steps)
            learner.observe(normaliser(features(world.state(call, previous), names, hardware)))
            action = learner.decide(explore=True).action
            value = world.outcome(call, previous, action).reward
            learner.learn(value)
            curve.append(value)
            previous = action
        learner.end()
        if len(curve) >= settings.steps:
            break
    return Learned(learner, normaliser, hardware, curve, fallback)


def _normaliser(world: TableWorld, settings: TrainSettings, hardware: bool) -> Normaliser:
    """Of states under random actions."""
    draw = random.Random(settings.learner.seed + 1)
    names = [action.name for action in world.actions]
    rows: list[np.ndarray] = []
    for calls in world.endless(settings.stay, settings.learner.seed + 1):
        previous: int | None = None
        for call in calls:
            rows.append(features(world.state(call, previous), names, hardware))
            previous = draw.randrange(len(names))
        if len(rows) >= DRAWS:
            return Normaliser.of(np.stack(rows))
    raise AssertionError("schedules do not end")


def play(
    world: TableWorld,
    schedules: Iterable[Sequence[Call]],
    controller: Controller,
) -> list[list[Step]]:
    """Let a controller that looks at no state decide in schedules: a fixed action, or random ones."""
    return _played(world, schedules, lambda call, previous: controller.decide(explore=False).action)


def play_learned(world: TableWorld, schedules: Iterable[Sequence[Call]], learned: Learned) -> list[list[Step]]:
    """Let a learned policy decide in schedules, without exploration and without learning."""
    names = [action.name for action in world.actions]

    def choose(call: Call, previous: int | None) -> int:
        return learned.choose(features(world.state(call, previous), names, learned.hardware))

    return _played(world, schedules, choose)


def _played(
    world: TableWorld, schedules: Iterable[Sequence[Call]], choose: Callable[[Call, int | None], int]
) -> list[list[Step]]:
    episodes = []
    for calls in schedules:
        previous: int | None = None
        steps = []
        for call in calls:
            action = choose(call, previous)
            steps.append(Step(call, action, world.outcome(call, previous, action)))
            previous = action
        episodes.append(steps)
    return episodes


def play_oracle(world: TableWorld, schedules: Iterable[Sequence[Call]]) -> list[list[Step]]:
    """The best actions of each schedule, known beforehand: an upper bound."""
    episodes = []
    for calls in schedules:
        previous, steps = None, []
        for call, action in zip(calls, world.best(calls), strict=True):
            steps.append(Step(call, action, world.outcome(call, previous, action)))
            previous = action
        episodes.append(steps)
    return episodes


def outside_share(world: TableWorld, episodes: Iterable[Sequence[Step]], learned: Learned) -> float:
    """Share of a policy's decisions in states far from those of training, where it takes the best fixed action."""
    names = [action.name for action in world.actions]
    found = []
    for steps in episodes:
        before = [None, *(step.action for step in steps[:-1])]
        for step, previous in zip(steps, before, strict=True):
            row = features(world.state(step.call, previous), names, learned.hardware)
            found.append(learned.normaliser.outside(row) is not None)
    return statistics.fmean(found)


def best_fixed(world: TableWorld, schedules: Sequence[Sequence[Call]]) -> int:
    """The one action with the highest mean reward in these schedules, which are those of training."""
    values = [mean_reward(play(world, schedules, FixedController(action))) for action in range(len(world.actions))]
    return max(range(len(values)), key=values.__getitem__)


def random_play(world: TableWorld, schedules: Sequence[Sequence[Call]], seed: int) -> list[list[Step]]:
    """A random action in every call."""
    return play(world, schedules, RandomController(len(world.actions), seed))


def mean_reward(episodes: Iterable[Iterable[Step]]) -> float:
    """Mean reward of all steps."""
    return statistics.fmean(step.outcome.reward for steps in episodes for step in steps)


def by_prompt(episodes: Iterable[Iterable[Step]]) -> dict[str, float]:
    """Mean reward of each prompt."""
    found: dict[str, list[float]] = {}
    for steps in episodes:
        for step in steps:
            found.setdefault(step.call.prompt, []).append(step.outcome.reward)
    return {prompt: statistics.fmean(values) for prompt, values in found.items()}


def paired(ours: Iterable[Iterable[Step]], theirs: Iterable[Iterable[Step]], seed: int) -> Interval:
    """Mean of ours minus theirs over prompts, with its interval: a prompt is what is drawn, not one of its visits."""
    first, second = by_prompt(ours), by_prompt(theirs)
    found = bootstrap_mean([first[prompt] - second[prompt] for prompt in sorted(first)], seed=seed)
    assert found is not None, "there is a prompt"
    return found


def describe(world: TableWorld, episodes: Sequence[Sequence[Step]]) -> JsonRow:
    """Figures of a policy: reward, latency, lateness, agreement, switches, use of actions by load."""
    steps = [step for one in episodes for step in one]
    latency = sorted(step.outcome.latency_ms for step in steps)
    use = {
        load: {
            action.name: round(
                sum(step.action == number for step in steps if step.call.load == load)
                / max(1, sum(step.call.load == load for step in steps)),
                4,
            )
            for number, action in enumerate(world.actions)
        }
        for load in world.table.loads
    }
    return {
        "reward": round(statistics.fmean(step.outcome.reward for step in steps), 4),
        "latency_p50_ms": round(float(np.percentile(latency, 50)), 1),
        "latency_p95_ms": round(float(np.percentile(latency, 95)), 1),
        "late": round(statistics.fmean(step.outcome.latency_ms > step.call.slo_ms for step in steps), 4),
        "agreement": round(statistics.fmean(step.outcome.agreement for step in steps), 4),
        "whole_plans": round(statistics.fmean(step.outcome.whole for step in steps), 4),
        "switches": round(statistics.fmean(_switches(world, one) for one in episodes), 2),
        "switch_ms": round(statistics.fmean(step.outcome.switch_ms for step in steps), 1),
        "use": use,
    }


def _switches(world: TableWorld, steps: Sequence[Step]) -> int:
    before = [None, *(step.action for step in steps[:-1])]
    return sum(previous not in (None, step.action) for previous, step in zip(before, steps, strict=True))


def estimate(
    world: TableWorld, schedules: Sequence[Sequence[Call]], learned: Learned, seed: int
) -> tuple[OffPolicyEstimate, float]:
    """Off-policy estimate of a policy from uniformly drawn decisions on `schedules`, and the true value beside it.

    The reward model of the direct and the doubly robust estimate is a ridge regression for each action, fitted to
    uniformly drawn decisions of the training split.
    """
    names = [action.name for action in world.actions]
    count = len(names)

    def log(
        some: Iterable[Sequence[Call]], draw: random.Random
    ) -> tuple[np.ndarray, list[Logged], list[tuple[Call, int | None]]]:
        rows, logged, contexts = [], [], []
        for calls in some:
            previous: int | None = None
            for call in calls:
                rows.append(learned.normaliser(features(world.state(call, previous), names, learned.hardware)))
                contexts.append((call, previous))
                action = draw.randrange(count)
                logged.append(Logged(action, world.outcome(call, previous, action).reward, 1 / count))
                previous = action
        return np.stack(rows), logged, contexts

    training = world.schedules(False, 0.5, 20, seed + 1)
    model = _reward_model(*log(training, random.Random(seed + 1))[:2], count)
    rows, logged, contexts = log(schedules, random.Random(seed))
    chosen = [
        learned.choose(features(world.state(call, previous), names, learned.hardware)) for call, previous in contexts
    ]
    truth = statistics.fmean(
        world.outcome(call, previous, action).reward for (call, previous), action in zip(contexts, chosen, strict=True)
    )
    learned.learner.begin()
    return off_policy(logged, chosen, model(rows)), truth


def _reward_model(rows: np.ndarray, logged: Sequence[Logged], count: int) -> Callable[[np.ndarray], np.ndarray]:
    """Predicted rewards `(n, actions)` of states `(n, features)`."""
    weights = np.zeros((count, rows.shape[1] + 1))
    actions = np.array([one.action for one in logged])
    rewards = np.array([one.reward for one in logged])
    full = np.concatenate([rows, np.ones((len(rows), 1))], axis=1).astype(np.float64)
    for action in range(count):
        own = full[actions == action]
        if len(own):
            square = own.T @ own + np.eye(full.shape[1])
            weights[action] = np.linalg.solve(square, own.T @ rewards[actions == action])
    return lambda some: np.concatenate([some, np.ones((len(some), 1))], axis=1) @ weights.T
