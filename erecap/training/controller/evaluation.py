"""The test of a controller: its figures beside random, the best fixed action, an oracle, and other methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from erecap.generation import JsonRow
from erecap.scheduling.controllers import METHODS, FixedController
from erecap.training.controller.settings import TrainSettings
from erecap.training.controller.train import (
    Learned,
    Step,
    best_fixed,
    describe,
    estimate,
    learn,
    outside_share,
    paired,
    play,
    play_learned,
    play_oracle,
    random_play,
)
from erecap.training.controller.world import Call, TableWorld

CONTROLLER, BEST_FIXED, RANDOM, ORACLE, BLIND = "controller", "best fixed", "random", "oracle", "without hardware"


@dataclass(frozen=True)
class Tested:
    """A trained controller and its test.

    Attributes:
        learned: the controller.
        fixed: number of the best fixed action, chosen on the training split.
        played: episodes on the held-out split, by policy.
        figures: of each policy; `test` has the paired intervals and the off-policy estimate.
    """

    learned: Learned
    fixed: int
    played: dict[str, list[list[Step]]]
    figures: dict[str, JsonRow]
    test: JsonRow


def train_and_test(world: TableWorld, settings: TrainSettings, say: Callable[[str], None]) -> Tested:
    """Train the chosen method, the others and the same without the machine's state; test all on held-out prompts."""
    seed = settings.learner.seed
    training = world.schedules(False, settings.stay, settings.passes, seed + 2)
    schedules = world.schedules(True, settings.stay, settings.passes, seed + 3)
    say(f"training {settings.method}: {settings.steps:,} decisions")
    fixed = best_fixed(world, training)
    learned = learn(world, settings, settings.method, fallback=fixed)
    say("training the same without the machine's state, and the other methods")
    others = {
        BLIND: play_learned(world, schedules, learn(world, settings, settings.method, fallback=fixed, hardware=False))
    }
    for method in METHODS:
        if method != settings.method:
            others[method] = play_learned(world, schedules, learn(world, settings, method, fallback=fixed))
    return _tested(world, schedules, learned, fixed, others, seed)


def judge_learned(world: TableWorld, settings: TrainSettings, learned: Learned, seed: int) -> Tested:
    """Test a controller that was trained before on the held-out prompts of a table.

    Args:
        seed: of the schedules.
    """
    fixed = best_fixed(world, world.schedules(False, settings.stay, settings.passes, seed + 2))
    schedules = world.schedules(True, settings.stay, settings.passes, seed + 3)
    return _tested(world, schedules, learned, fixed, {}, seed)


def _tested(
    world: TableWorld,
    schedules: Sequence[Sequence[Call]],
    learned: Learned,
    fixed: int,
    others: Mapping[str, list[list[Step]]],
    seed: int,
) -> Tested:
    """The test of a controller beside the baselines and `others`, on the same schedules."""
    played = {
        CONTROLLER: play_learned(world, schedules, learned),
        BEST_FIXED: play(world, schedules, FixedController(fixed)),
        RANDOM: random_play(world, schedules, seed + 4),
        ORACLE: play_oracle(world, schedules),
        **others,
    }
    for number, action in enumerate(world.actions):
        played[f"fixed {action.name}"] = play(world, schedules, FixedController(number))
    figures = {name: describe(world, steps) for name, steps in played.items()}
    return Tested(learned, fixed, played, figures, _test(world, schedules, learned, fixed, played, seed))


def _test(
    world: TableWorld,
    schedules: Sequence[Sequence[Call]],
    learned: Learned,
    fixed: int,
    played: dict[str, list[list[Step]]],
    seed: int,
) -> JsonRow:

    def minus(ours: str, theirs: str) -> JsonRow:
        return {key: round(value, 4) for key, value in asdict(paired(played[ours], played[theirs], seed)).items()}

    against = {name: minus(CONTROLLER, name) for name in (BEST_FIXED, RANDOM, BLIND, ORACLE) if name in played}
    found, truth = estimate(world, schedules, learned, seed + 5)
    return {
        "prompts": len({call.prompt for calls in schedules for call in calls}),
        "episodes": len(schedules),
        "decisions": sum(map(len, schedules)),
        "best_fixed": world.actions[fixed].name,
        "minus": against,
        "beats_best_fixed": against[BEST_FIXED]["low"] > 0,
        "bound": minus(ORACLE, BEST_FIXED),  # the most that any controller could gain over it
        "outside": round(outside_share(world, played[CONTROLLER], learned), 4),
        "off_policy": {key: None if value is None else round(value, 4) for key, value in asdict(found).items()},
        "off_policy_truth": round(truth, 4),
    }
