"""Numbered runs of a controller's training: measure a table, learn on it, test, report."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from erecap.budget import Budget
from erecap.config.modes import PRESETS
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError, ModelError, RunError
from erecap.files import portable, write_json
from erecap.generation import JsonRow, Message
from erecap.language_models.build import session_options
from erecap.language_models.controlled import folder_digests
from erecap.language_models.lever_session import LeverSession
from erecap.language_models.opened import ModelSettings, OpenedModel, open_model
from erecap.models import locate
from erecap.models.loading import load_tokenizer
from erecap.rollout.run_folder.lock import owned
from erecap.rollout.run_folder.machine import machine
from erecap.scheduling.actions import Action, read_actions
from erecap.scheduling.checkpoint import save_controller
from erecap.scheduling.levers import LEVERS
from erecap.training.controller.evaluation import train_and_test
from erecap.training.controller.loads import LoadGenerator
from erecap.training.controller.measure import TableMaker
from erecap.training.controller.outputs import DONE, ControllerRun, make_world, trained_controller, write_outputs
from erecap.training.controller.prompts import Prompts, load_prompts
from erecap.training.controller.settings import MeasureSettings, TrainSettings
from erecap.training.controller.table import Table, TableFolder, read_table
from erecap.untrusted import read_json

MODE = PRESETS["erecap"]  # whose sessions are measured, without the scheduler
Say = Callable[[str], None]


def train_controller(
    measure: MeasureSettings | None,
    train: TrainSettings,
    out: Path,
    *,
    model: ModelSettings | None = None,
    pruner: str | None = None,
    table: Path | None = None,
    open_it: Callable[[ModelSettings], OpenedModel] = open_model,
    say: Say = lambda line: None,
) -> ControllerRun:
    """Train a controller in the next numbered folder of `out`; one that was left half-way goes on.

    Args:
        measure: what to measure a table on; None: `table` is one.
        model: that the table is measured with.
        pruner: trained pruner that ranks what is evicted; None: recency.
        table: folder of a table that was measured before.
        open_it: opens the model.

    Raises:
        ConfigError: settings, prompts or actions that cannot be used.
        ModelError: the model, the pruner or a layer plan.
        RunError: a table that is damaged or of something else, or a folder in use.
    """
    if (measure is None) == (table is None):
        raise ConfigError("got neither prompts nor a table, or both; allowed: one of them")
    known: Table | None = None
    opened: OpenedModel | None = None
    if table is not None:
        known = read_table(table)
    elif measure is not None:
        assert model is not None, "a table is measured with a model"
        opened = _opened(measure, model, pruner, open_it, say)  # what is wrong is told before a folder is made
    with owned(out):
        folder = _numbered(out, measure)
        say(f"run {folder}")
        if known is None:
            assert measure is not None and opened is not None, "there is a table or something to measure"
            write_json(folder / "run.json", _stated(measure))
            known = measure_table(measure, opened, pruner, folder, say)
        return _trained(known, train, folder, say)


def _stated(measure: MeasureSettings) -> JsonRow:
    stated = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(measure).items()}
    # By their content: a folder that was left half-way does not go on with other actions of the same file.
    actions = {action.name: dict(action.levers) for action in read_actions(measure.actions)}
    more = {"data": [str(source) for source in measure.data], "loads": list(measure.loads), "actions": actions}
    return dict(portable({**stated, **more}))


def _numbered(out: Path, measure: MeasureSettings | None) -> Path:
    """The newest folder if it was left half-way with the same settings, else a new one with the next number."""
    numbers = sorted(int(path.name) for path in out.iterdir() if re.fullmatch(r"\d{3,6}", path.name))
    if numbers and measure is not None:
        newest = out / f"{numbers[-1]:03}"
        if not (newest / DONE).exists() and (newest / "run.json").exists():
            try:
                stated = read_json(newest / "run.json")
            except (OSError, ValueError) as error:
                raise RunError(f"{newest / 'run.json'}: cannot be read: {error}") from error
            if stated == _stated(measure):
                return newest
    folder = out / f"{(numbers[-1] if numbers else 0) + 1:03}"
    folder.mkdir()
    return folder


def own_arguments(opened: OpenedModel, pruner: str | None) -> dict[str, Any]:
    """Arguments of the sessions that are measured: those of the mode `erecap` with the automatic budget."""
    ranking = None if pruner is None else opened.learned_scorer(pruner)
    options = session_options(MODE, budget=Budget.auto(), ranking=ranking)
    return {**options, "prune": None, "scheduler": None, "engine": MODE.engine}


def check_actions(actions: Sequence[Action], source: str) -> dict[str, str]:
    """Hashes of the folders that the actions name, once all of them fit the mode that is measured.

    Args:
        source: who states them, for messages.

    Raises:
        ConfigError, ModelError: one that does not, or a folder that cannot be read.
    """
    found: dict[str, str] = {}
    for action in actions:
        with _naming(source, action):
            for name, value in action.levers.items():
                problem = LEVERS[name].problem(value, MODE)
                if problem is not None:
                    raise ConfigError(f"{name}: {problem}")
            found |= folder_digests([action])
    if len(actions) < 2:
        raise ConfigError(f"actions: got {len(actions)}; allowed: two or more, for there is nothing to decide")
    return found


@contextmanager
def _naming(source: str, action: Action) -> Iterator[None]:
    """Name an action and who states it in an error from inside."""
    try:
        yield
    except (ConfigError, ModelError) as error:
        raise type(error)(f"{source}: action {action.name}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{source}: action {action.name}: {error}") from error


def prompts_of(measure: MeasureSettings, tokenizer: Any) -> Prompts:
    """The prompts that settings name. Raises ConfigError as `load_prompts`."""

    def fits(messages: Sequence[Message]) -> bool:
        if measure.max_tokens is None:
            return True
        return len(render_prompt(messages, tokenizer).input_ids) <= measure.max_tokens

    return load_prompts(
        measure.data,
        limit=measure.limit,
        each=measure.each,
        held_out=measure.held_out,
        seed=measure.seed,
        fits=fits,
    )


def measure_table(measure: MeasureSettings, opened: OpenedModel, pruner: str | None, folder: Path, say: Say) -> Table:
    """Measure what `folder` lacks of a table. Raises as `train_controller`."""
    actions = read_actions(measure.actions)
    folders = check_actions(actions, _source(measure))
    prompts = prompts_of(measure, opened.tokenizer)
    facts = opened.facts
    head: JsonRow = {
        "base": {"name": facts["name"], "hash": opened.fingerprint, "adapter": opened.adapter_hash},
        "dtype": facts["dtype"],
        "mode": {"name": MODE.name, "pruner": pruner and Path(pruner).name},
        "prompts": prompts.digest,
        "count": len(prompts.all),
        "actions": {action.name: dict(action.levers) for action in actions},
        "folders": folders,
        "loads": list(measure.loads),
        "repeats": measure.repeats,
        "machine": machine(_threads()),
    }
    rows = TableFolder(folder, head)
    say(f"{len(prompts.train)} prompts to train on, {len(prompts.held_out)} held out, {len(actions)} actions")
    maker = TableMaker(opened, own_arguments(opened, pruner), actions)
    with LoadGenerator(measure.busy_threads, measure.memory_mb) as loads:
        maker.measure(rows, prompts, loads, measure.repeats, say)
    return read_table(folder)


def _opened(
    measure: MeasureSettings,
    model: ModelSettings,
    pruner: str | None,
    open_it: Callable[[ModelSettings], OpenedModel],
    say: Say,
) -> OpenedModel:
    """The model, once a session of it was made with each action. Raises as `train_controller`."""
    # What is missing or wrong is told before the model is loaded.
    actions, source = read_actions(measure.actions), _source(measure)
    check_actions(actions, source)
    prompts_of(measure, load_tokenizer(locate(model.name)))
    say(f"loading model {model.name}")
    opened = open_it(model)
    own = own_arguments(opened, pruner)
    for action in actions:
        with _naming(source, action):
            LeverSession(opened, own).apply(action.levers, ())
    return opened


def _source(measure: MeasureSettings) -> str:
    return "the default actions" if measure.actions is None else str(measure.actions)


def _trained(table: Table, train: TrainSettings, folder: Path, say: Say) -> ControllerRun:
    world = make_world(table, train)
    tested = train_and_test(world, train, say)
    save_controller(folder, trained_controller(world, train, tested, MODE.name))
    return write_outputs(folder, world, train, tested)


def _threads() -> int:
    import torch

    return torch.get_num_threads()
