"""Identity of an episode as short hashes: the configuration, the model, its adapter, the pruner."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from erecap.config.controller import ControllerSettings
from erecap.config.modes import Mode, is_url
from erecap.config.run import RunConfig
from erecap.config.suite import Suite
from erecap.envs import options_class
from erecap.errors import ConfigError
from erecap.generation import JsonRow
from erecap.planners.cooperative.agents import TeamSettings, team_settings
from erecap.rollout.run_folder import reference_values as reference

IDENTITY = ("config", "model", "adapter", "pruner")


@dataclass(frozen=True)
class Identity:
    """Hashes of an episode's configuration and weights: beginnings of SHA-256 in hexadecimal; None: no such part."""

    config: str
    model: str | None
    adapter: str | None
    pruner: str | None

    def fields(self) -> dict[str, str | None]:
        """The identity as the fields of a row."""
        return {field: getattr(self, field) for field in IDENTITY}


def budget_of(config: RunConfig, mode: str) -> int | str | None:
    """The budget, `kv_tokens` or `auto`, of a mode that keeps within it; None for the others."""
    known = config.mode(mode)
    if not known.budgeted:
        return None
    return config.budget.kv_tokens if known.own_kv_tokens is None else known.own_kv_tokens


def identity_of(config: RunConfig, suite: Suite, mode: Mode, weights: Mapping[str, str | None]) -> Identity:
    """The identity of a configuration, whatever the number of episodes and processes.

    Of the settings, only those count that differ from `erecap.rollout.run_folder.reference_values`.
    """
    parts: dict[str, Any] = {
        "suite": _suite_parts(suite),
        "mode": str(mode) if mode.preset else _mode_parts(mode),
        "planner": differing(config.planner, reference.PLANNER, reference.PLANNER_LEFT_OUT),
    }
    team = team_settings(config.planner)
    if team is not None:
        parts["team"] = _team_parts(team)
    if mode.needs_model:
        # What a mode of parts says of decoding itself is among its parts.
        apart = () if mode.session and mode.decode.weights is None else reference.RUN_OF_SESSIONS
        parts |= differing(config, reference.RUN, (*reference.RUN_LEFT_OUT, *apart))
    if config.clock is not None:
        parts["clock"] = differing(config.clock, reference.CLOCK, reference.CLOCK_LEFT_OUT)
    if mode.session and config.schedule is not None:
        parts["schedule"] = differing(config.schedule, reference.SCHEDULE)
    if mode.prune is not None:
        parts["prune"] = differing(config.prune, reference.PRUNE)
    if mode.budgeted and mode.own_kv_tokens is None:  # a budget of its own is among its parts
        parts["budget"] = differing(config.budget, reference.BUDGET)
    known = weights if mode.needs_model else {}
    plan = config.plan_of(mode)
    if plan is not None:  # wherever it lies; without one, nothing is hashed that was not hashed before
        parts["layers"] = known.get(_layers(plan))
    controller = config.controller_of(mode)
    if controller is not None:
        stated = differing(controller, reference.CONTROLLER, reference.CONTROLLER_LEFT_OUT)
        parts["controller"] = {**stated, "hash": known.get(_controller(controller))}
    pruner = known.get("pruner") if mode.takes_run_pruner else None
    if mode.own_pruner is not None:
        pruner = known.get(_own(mode.own_pruner))
    return Identity(digest_of(parts)[:12], known.get("model"), known.get("adapter"), pruner)


def _mode_parts(mode: Mode) -> JsonRow:
    parts = mode.parts()
    for beside in ("layers", "controller"):  # their hashes stand beside
        parts.pop(beside, None)
    if mode.own_pruner is not None:
        parts["kv"]["evict"] = "own"  # wherever it lies; its hash stands beside
    if mode.decode.exit is not None and mode.decode.exit.predictor is not None:
        parts["decode"]["exit"]["predictor"] = _exits(mode.decode.exit.predictor)  # wherever it lies
    return parts


def _team_parts(team: TeamSettings) -> JsonRow:
    parts = differing(team, reference.TEAM)
    if team.agents is not None:
        parts["agents"] = [differing(agent, reference.AGENT) for agent in team.agents]
    return parts


def _suite_parts(suite: Suite) -> JsonRow:
    known = reference.OPTIONS.get(suite.env)
    if known is None:
        options = to_jsonable_python(suite.options)
    else:
        left_out = reference.OPTIONS_LEFT_OUT.get(suite.env, ())
        options = differing(options_class(suite.env).model_validate(suite.options), known, left_out)
    return {
        **differing(suite, reference.SUITE, reference.SUITE_LEFT_OUT),
        "options": options,
        "disturbances": differing(suite.disturbances, reference.DISTURBANCES),
    }


def differing(settings: BaseModel, values: Mapping[str, Any], left_out: Collection[str] = ()) -> JsonRow:
    """Return the settings that differ from their reference values, as JSON values by name.

    Settings without a reference value are compared with the default of their class, and always returned where there is
    none.

    Args:
        settings: the model whose fields are compared.
        values: a table of `erecap.rollout.run_folder.reference_values`.
        left_out: fields that are not looked at.
    """
    stated = settings.model_dump(mode="json", exclude=set(left_out))
    fields = type(settings).model_fields
    return {name: value for name, value in stated.items() if _differs(value, name, fields[name], values)}


def _differs(value: Any, name: str, field: FieldInfo, values: Mapping[str, Any]) -> bool:
    if name in values:
        return bool(value != values[name])
    return field.is_required() or bool(value != to_jsonable_python(field.get_default(call_default_factory=True)))


def weights_of(config: RunConfig) -> dict[str, str | None]:
    """Hashes of the model, its adapter and the pruners, as far as the modes need them."""
    from erecap.models import describe_adapter, fingerprint, locate

    modes = [config.mode(name) for name in config.modes]
    if not any(mode.needs_model for mode in modes):
        return {}
    if is_url(config.model):
        raise ConfigError("model: a server says nothing of its weights, which committed rows name; name a model")
    adapter = describe_adapter(config.adapter)["hash"] if config.adapter is not None else None
    found = {
        "model": _short(fingerprint(locate(config.model))),
        "adapter": _short(adapter) if adapter is not None else None,
        "pruner": _pruner(config.pruner) if config.pruner is not None else None,
    }
    own = {mode.own_pruner for mode in modes if mode.own_pruner is not None}
    found |= {_own(name): _pruner(name) for name in own}
    found |= {_layers(name): _plan(name) for name in config.plans() if name is not None}
    controllers = {controller for mode in modes if (controller := config.controller_of(mode)) is not None}
    if controllers:
        from erecap.language_models.controlled import describe_controller

        found |= {_controller(one): _short(describe_controller(one)["hash"]) for one in controllers}
    return found


def _own(name: str) -> str:
    """The key of a pruner that a mode names itself."""
    return f"pruner {name}"


def _layers(name: str) -> str:
    """The key of a layer plan."""
    return f"layers {name}"


def _controller(settings: ControllerSettings) -> str:
    """The key of a controller."""
    return f"controller {settings.model_dump_json()}"


def _plan(name: str) -> str:
    from erecap.layers.files import describe_plan

    return _short(describe_plan(name)["hash"])


def _exits(name: str) -> str:
    from erecap.decoding.exits.files import describe_exits

    return _short(describe_exits(name)["hash"])


def _pruner(name: str) -> str:
    from erecap.tokens.scoring.pruner_files import describe_pruner

    return _short(describe_pruner(name)["hash"])


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
