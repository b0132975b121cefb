"""What decides how an episode goes, as short hashes: the configuration, the model, its adapter, the pruner."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from erecap.config.modes import Mode, parse_mode
from erecap.config.run import RunConfig
from erecap.config.suite import Suite
from erecap.envs import options_class
from erecap.generation import JsonRow
from erecap.rollout.run_folder import reference_values as reference

UNBUDGETED = ("full", "reuse", "expert", "prune")
IDENTITY = ("config", "model", "adapter", "pruner")


@dataclass(frozen=True)
class Identity:
    """What an episode was played with: hexadecimal beginnings of SHA-256 hashes; None where there is none."""

    config: str
    model: str | None
    adapter: str | None
    pruner: str | None

    def fields(self) -> dict[str, str | None]:
        """As they stand in a row."""
        return {field: getattr(self, field) for field in IDENTITY}


def budget_of(config: RunConfig, mode: str) -> int | str | None:
    """`kv_tokens`, or `auto`, of the modes that keep within it; None for the others."""
    return None if parse_mode(mode).kind in UNBUDGETED else config.budget.kv_tokens


def identity_of(config: RunConfig, suite: Suite, mode: Mode, weights: Mapping[str, str | None]) -> Identity:
    """What decides how an episode goes: not how many are played, nor on how many processes.

    Of the settings, only those count that differ from `erecap.rollout.run_folder.reference_values`.
    """
    parts: dict[str, Any] = {
        "suite": _suite_parts(suite),
        "mode": str(mode),
        "planner": differing(config.planner, reference.PLANNER),
    }
    if mode.needs_model:
        apart = () if mode.session else reference.RUN_OF_SESSIONS
        parts |= differing(config, reference.RUN, (*reference.RUN_LEFT_OUT, *apart))
    if mode.session and config.schedule is not None:
        parts["schedule"] = differing(config.schedule, reference.SCHEDULE)
    if mode.kind == "prune":
        parts["prune"] = differing(config.prune, reference.PRUNE)
    if mode.kind not in UNBUDGETED:
        parts["budget"] = differing(config.budget, reference.BUDGET)
    learned = mode.kind == "erecap" or mode.scorer == "learned"
    known = weights if mode.needs_model else {}
    return Identity(
        digest_of(parts)[:12], known.get("model"), known.get("adapter"), known.get("pruner") if learned else None
    )


def _suite_parts(suite: Suite) -> JsonRow:
    known = reference.OPTIONS.get(suite.env)
    if known is None:
        options = to_jsonable_python(suite.options)
    else:
        options = differing(options_class(suite.env).model_validate(suite.options), known)
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
    """Hashes of the model, its adapter and the pruner, as far as the modes need them."""
    from erecap.models import describe_adapter, fingerprint, locate

    if not any(parse_mode(mode).needs_model for mode in config.modes):
        return {}
    adapter = describe_adapter(config.adapter)["hash"] if config.adapter is not None else None
    pruner = None
    if config.pruner is not None:
        from erecap.tokens.scoring.pruner_files import describe_pruner

        pruner = describe_pruner(config.pruner)["hash"]
    return {
        "model": _short(fingerprint(locate(config.model))),
        "adapter": _short(adapter) if adapter is not None else None,
        "pruner": _short(pruner) if pruner is not None else None,
    }


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
