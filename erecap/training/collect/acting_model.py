"""The model that acts in a collection with a planner: a run configuration, an adapter's folder, or a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erecap.config.load import RUNS, load_run
from erecap.config.run import RunConfig
from erecap.config.source import packaged_names
from erecap.errors import ConfigError, ModelError
from erecap.models.adapters import CARD, CONFIG, WEIGHTS, locate_adapter
from erecap.models.inspection import read_json
from erecap.models.locating import locate

# What of a run configuration decides a model's plans, beside its weights.
_SETTINGS = ("model", "adapter", "layers", "dtype", "device", "decode_weights")
_PLANNER_SETTINGS = ("name", "max_new_tokens", "constrained", "period", "max_invalid", "stuck_after")


def planner_config(name: str) -> RunConfig:
    """The run configuration behind `--planner`.

    Args:
        name: a run configuration (a packaged name, or a path that ends in .yaml), the folder of an adapter that
            `erecap train planner` made, or a model's name or folder.

    Raises:
        ConfigError: the run configuration is not usable.
        ModelError: nothing of that name, or an adapter without its card.
    """
    if name.endswith((".yaml", ".yml")) or name in packaged_names(RUNS):
        return load_run(name)
    values: dict[str, Any] = {"name": "collect", "suites": ["collect"], "modes": ["reuse"], "model": name}
    folder = _adapter(name)
    if folder is not None:
        base = read_json(folder / CARD).get("base")
        if not isinstance(base, dict) or not isinstance(base.get("name"), str):
            raise ConfigError(f"{folder / CARD}: base.name: missing; it says which model the adapter was trained on")
        values |= {"model": base["name"], "adapter": str(folder.absolute())}
    else:
        locate(name)
    return RunConfig.model_validate(values)


def _adapter(name: str) -> Path | None:
    try:
        folder = locate_adapter(name)
    except ModelError:
        return None  # then it must be a model
    return folder if (folder / CONFIG).is_file() else None


def describe_planner(config: RunConfig) -> dict[str, Any]:
    """The planner that acts, as `meta.json` describes it: everything that decides its plans.

    Raises:
        ModelError: its adapter is not there.
    """
    values = config.model_dump(mode="json")
    described = {key: values[key] for key in _SETTINGS if key in values}
    described |= {key: values["planner"][key] for key in _PLANNER_SETTINGS if key in values["planner"]}
    if described.get("adapter"):
        card = read_json(locate_adapter(described["adapter"]) / CARD)
        files = card.get("files")
        described["adapter_sha256"] = files.get(WEIGHTS) if isinstance(files, dict) else None
    return described
