"""Loads runs and suites: file, overrides, checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from erecap.config.overrides import apply_overrides
from erecap.config.run import RunConfig
from erecap.config.server_url import without_password
from erecap.config.source import is_path, read_named
from erecap.config.suite import Suite
from erecap.errors import ConfigError
from erecap.registries import env_entry, import_or_refuse
from erecap.validation import one_line

RUNS = "erecap.configs"
SUITES = "erecap.tasks"

M = TypeVar("M", bound=BaseModel)


def load_run(path_or_name: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """A run configuration, checked together with every suite that it names.

    Args:
        path_or_name: a packaged name such as "demo", or the path of a YAML file.
        overrides: `key=value` with dots, such as "prune.keep=0.5"; the value is YAML.

    Returns:
        The configuration. Paths of suites and of an agents file in it are absolute: those of the file are relative to
        the file, those of an override to the working folder.

    Raises:
        ConfigError: one line that names file, key, what was got and what is allowed.
    """
    name = str(path_or_name)
    source, values = read_named("run", name, RUNS)
    if is_path(name):
        values = _with_absolute_paths(values, Path(source).absolute().parent)
    values = _with_absolute_paths(apply_overrides(values, overrides), Path.cwd())
    if values["suites"] is None:
        del values["suites"]
    config = _checked(_blame(source, overrides), RunConfig, values)
    load_suites(config)
    return config


def load_suite(name_or_path: str | Path) -> Suite:
    """A task suite, its options checked by the environment that it names.

    Raises:
        ConfigError: one line that names file, key, what was got and what is allowed.
    """
    source, values = read_named("suite", str(name_or_path), SUITES)
    suite = _checked(source, Suite, values)
    try:
        options = env_entry(suite.env).options
        model = import_or_refuse(options, f"environment {suite.env!r}: its options {options}")
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    checked = _checked(source, model, suite.options, "options.")
    # As checked, but only what the suite says: some options are refused beside others even at their default.
    return suite.model_copy(update={"options": checked.model_dump(mode="json", exclude_unset=True)})


def load_suites(config: RunConfig) -> dict[str, Suite]:
    """The suites of a run by name, in its order, with the run's episodes and horizon where it sets them.

    Raises:
        ConfigError: as `load_suite`, or two suites of one name.
    """
    suites: dict[str, Suite] = {}
    for name in config.suites:
        suite = load_suite(name)
        if suite.name in suites:
            raise ConfigError(f"{name}: name: two suites of this run are called {suite.name!r}; allowed: one")
        changes = {"episodes": config.episodes, "horizon": config.horizon}
        suites[suite.name] = suite.model_copy(update={k: v for k, v in changes.items() if v is not None})
    return suites


def _checked(source: str, model: type[M], values: dict[str, Any], prefix: str = "") -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(one_line(source, error, model, prefix)) from error


def _blame(source: str, overrides: Sequence[str]) -> str:
    return without_password(f"{source} with {' '.join(overrides)}") if overrides else source


def _with_absolute_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values with paths of suites and of an agents file made absolute; what is no text is left to the checks."""
    values = {**values, "suites": _absolute(values.get("suites"), folder)}
    planner = values.get("planner")
    if isinstance(planner, dict):
        agents = planner.get("agents")
        if isinstance(agents, str) and is_path(agents):
            values["planner"] = {**planner, "agents": str(folder / Path(agents).expanduser())}
    return values


def _absolute(suites: Any, folder: Path) -> Any:
    """Paths among suite names made absolute; anything that is not a list of text is left to the checks."""
    if isinstance(suites, str):
        suites = [part.strip() for part in suites.split(",")]
    if not isinstance(suites, list):
        return suites
    return [
        str(folder / Path(item).expanduser()) if isinstance(item, str) and is_path(item) else item for item in suites
    ]
