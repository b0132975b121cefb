"""The test of a controller on the table of another run, which brings other prompts, loads or hours of the day."""

from __future__ import annotations

from pathlib import Path

from erecap.errors import ConfigError, RunError
from erecap.scheduling.checkpoint import TrainedController
from erecap.scheduling.reward import RewardWeights
from erecap.training.controller.evaluation import judge_learned
from erecap.training.controller.outputs import DONE, ControllerRun, make_world, write_outputs
from erecap.training.controller.settings import TrainSettings
from erecap.training.controller.table import read_table
from erecap.training.controller.train import Learned


def judge_controller(
    trained: TrainedController, table: Path, out: Path, *, passes: int = 20, seed: int = 0
) -> ControllerRun:
    """Test a controller on the held-out prompts of a table, without exploration, by the reward that it was trained by.

    Args:
        table: folder of a run of `erecap train controller`.
        out: a new folder for report, plots and episodes.

    Raises:
        ConfigError: a folder that holds a result already, or a table of other actions or of another model.
        RunError: a table that is damaged or not whole.
    """
    if (out / DONE).exists():
        raise ConfigError(f"--out: {out} holds a result already; choose another folder")
    found = read_table(table)
    stated = {action.name: dict(action.levers) for action in trained.actions}
    if found.head["actions"] != stated or list(found.actions) != list(stated):
        raise ConfigError(f"{table}: its actions are not the controller's; allowed: a table of the same actions")
    if found.head["base"] != dict(trained.base) or found.head["folders"] != dict(trained.folders):
        raise RunError(f"{table}: it was measured on another model or with other layer plans than the controller's")
    settings = TrainSettings(
        method=trained.learner.method,
        steps=1,
        slo_ms=trained.slo_ms,
        passes=passes,
        reward=RewardWeights(**trained.reward),
        learner=trained.settings,
    )
    world = make_world(found, settings)
    learned = Learned(trained.learner, trained.normaliser, trained.hardware, [], trained.fallback)
    out.mkdir(parents=True, exist_ok=True)
    return write_outputs(out, world, settings, judge_learned(world, settings, learned, seed))
