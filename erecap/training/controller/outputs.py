"""The outputs of a training or a test: checkpoint, episodes, result, report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from erecap.files import write_atomic, write_json
from erecap.generation import JsonRow
from erecap.rollout.run_folder.writer import encode_row
from erecap.scheduling.actions import Action, make_actions
from erecap.scheduling.checkpoint import TrainedController
from erecap.training.controller.evaluation import Tested
from erecap.training.controller.report import verdict, write_report
from erecap.training.controller.settings import TrainSettings
from erecap.training.controller.table import HEAD, Table
from erecap.training.controller.world import TableWorld

EPISODES, DONE = "episodes.jsonl", "result.json"


@dataclass(frozen=True)
class ControllerRun:
    """A finished training or test."""

    folder: Path
    test: JsonRow
    words: str  # the result in a sentence


def write_outputs(folder: Path, world: TableWorld, train: TrainSettings, tested: Tested) -> ControllerRun:
    """Write episodes, report, plots and, last, the result: a folder without it was left half-way."""
    about = about_run(world, train)
    write_atomic(folder / EPISODES, b"".join(encode_row(row) for row in episode_rows(world, tested)))
    write_report(folder, about, world, tested)
    write_json(folder / DONE, {"about": about, "test": tested.test, "figures": tested.figures})
    return ControllerRun(folder, tested.test, verdict(tested.test))


def make_world(table: Table, train: TrainSettings) -> TableWorld:
    """The world of a table, with the SLOs of the settings, or those that follow from the table."""
    actions = make_actions(table.head["actions"], HEAD)
    slos = train.slo_ms or (_usual_slo(table, actions, train.slo_factor),)
    return TableWorld(table, actions, slos, train.reward)


def _usual_slo(table: Table, actions: Sequence[Action], factor: float) -> float:
    """`factor` times the median call of training prompts without levers, under the first load."""
    plain = next((action.name for action in actions if not action.levers), actions[0].name)
    load = table.loads[0]
    times = [
        row.cells[plain].call_ms
        for (prompt, under), row in table.times.items()
        if under == load and not table.prompts[prompt].held_out
    ]
    return round(factor * statistics.median(times), 1)


def trained_controller(world: TableWorld, train: TrainSettings, tested: Tested, mode: str) -> TrainedController:
    """The checkpoint of a training; `mode`: whose sessions were measured."""
    table = world.table
    return TrainedController(
        learner=tested.learned.learner,
        actions=world.actions,
        normaliser=tested.learned.normaliser,
        settings=train.learner,
        slo_ms=world.slo_ms,
        base=table.head["base"],
        fallback=tested.learned.fallback,
        folders=table.head["folders"],
        reward=asdict(world.weights),
        mode=mode,
        found={
            "steps": train.steps, "stay": train.stay, "prompts": table.head["prompts"], "loads": list(table.loads),
            "machine": table.head["machine"], "pruner": table.head["mode"]["pruner"],
        },
        test={**tested.test, "reward": tested.figures["controller"]["reward"]},
    )  # fmt: skip


def about_run(world: TableWorld, train: TrainSettings) -> JsonRow:
    """The settings of a training as its report and its result state them."""
    table = world.table
    facts: Mapping[str, Any] = table.head["machine"]
    return {
        "method": train.method,
        "base": table.head["base"],
        "dtype": table.head["dtype"],
        "machine": f"{facts.get('cpu')}, {facts.get('cores')} cores, {facts.get('threads')} threads",
        "slo_ms": list(world.slo_ms),
        "actions": table.head["actions"],
        "loads": list(table.loads),
        "repeats": table.head["repeats"],
        "steps": train.steps,
        "stay": train.stay,
        "passes": train.passes,
        "reward": asdict(world.weights),
        "learner": asdict(train.learner),
    }


def episode_rows(world: TableWorld, tested: Tested) -> list[JsonRow]:
    """One row for each test episode of each policy."""
    return [
        {
            "policy": policy,
            "episode": number,
            "conversation": world.table.prompts[steps[0].call.prompt].conversation,
            "slo_ms": steps[0].call.slo_ms,
            "reward": round(sum(step.outcome.reward for step in steps), 4),
            "steps": [
                {
                    "prompt": step.call.prompt,
                    "load": step.call.load,
                    "action": world.actions[step.action].name,
                    **{key: value if isinstance(value, bool) else round(value, 4)
                       for key, value in asdict(step.outcome).items()},
                }
                for step in steps
            ],
        }
        for policy, episodes in tested.played.items()
        for number, steps in enumerate(episodes)
    ]  # fmt: skip
