"""What decides how an episode goes, as short hashes: the configuration, the model, its adapter, the pruner."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from erecap.config.modes import Mode
from erecap.config.run import RunConfig
from erecap.config.suite import Suite

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


def budget_of(config: RunConfig, mode: str) -> int | None:
    """`kv_tokens` of the modes that keep within it; None for the others."""
    return config.budget.kv_tokens if config.mode(mode).budgeted else None


def identity_of(config: RunConfig, suite: Suite, mode: Mode, weights: Mapping[str, str | None]) -> Identity:
    """What decides how an episode goes: not how many are played, nor on how many processes."""
    parts: dict[str, Any] = {
        "suite": suite.model_dump(mode="json", exclude={"episodes"}),
        "mode": str(mode) if mode.preset else mode.parts(),
        "planner": config.planner.model_dump(mode="json"),
    }
    if mode.needs_model:
        parts |= {"dtype": config.dtype, "seed": config.seed}
    if mode.session:
        schedule = None if config.schedule is None else config.schedule.model_dump(mode="json")
        parts |= {"decode_weights": mode.decode.weights or config.decode_weights, "schedule": schedule}
    if mode.prune is not None:
        parts["prune"] = config.prune.model_dump(mode="json")
    if mode.budgeted:
        parts["budget"] = config.budget.model_dump(mode="json")
    known = weights if mode.needs_model else {}
    pruner = known.get("pruner") if mode.takes_run_pruner else None
    if mode.own_pruner is not None:
        pruner = known.get(_own(mode.own_pruner))
    return Identity(digest_of(parts)[:12], known.get("model"), known.get("adapter"), pruner)


def weights_of(config: RunConfig) -> dict[str, str | None]:
    """Hashes of the model, its adapter and the pruners, as far as the modes need them."""
    from erecap.models import describe_adapter, fingerprint, locate

    modes = [config.mode(name) for name in config.modes]
    if not any(mode.needs_model for mode in modes):
        return {}
    adapter = describe_adapter(config.adapter)["hash"] if config.adapter is not None else None
    found = {
        "model": _short(fingerprint(locate(config.model))),
        "adapter": _short(adapter) if adapter is not None else None,
        "pruner": _pruner(config.pruner) if config.pruner is not None else None,
    }
    own = {mode.own_pruner for mode in modes if mode.own_pruner is not None}
    return found | {_own(name): _pruner(name) for name in own}


def _own(name: str) -> str:
    """The key of a pruner that a mode names itself."""
    return f"pruner {name}"


def _pruner(name: str) -> str:
    from erecap.tokens.scoring.pruner_files import describe_pruner

    return _short(describe_pruner(name)["hash"])


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
