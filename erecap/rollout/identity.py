"""What decides how an episode goes, as short hashes: the configuration, the model, its adapter, the pruner."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from erecap.config.modes import Mode, parse_mode
from erecap.config.run import RunConfig
from erecap.config.suite import Suite

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
    """What decides how an episode goes: not how many are played, nor on how many processes."""
    parts: dict[str, Any] = {
        "suite": suite.model_dump(mode="json", exclude={"episodes"}),
        "mode": str(mode),
        "planner": config.planner.model_dump(mode="json"),
    }
    if mode.needs_model:
        parts |= {"dtype": config.dtype, "seed": config.seed}
    if mode.session:
        schedule = None if config.schedule is None else config.schedule.model_dump(mode="json")
        parts |= {"decode_weights": config.decode_weights, "schedule": schedule}
    if mode.kind == "prune":
        parts["prune"] = config.prune.model_dump(mode="json")
    if mode.kind not in UNBUDGETED:
        parts["budget"] = {
            # Settings of the automatic budget say nothing where they are left out.
            key: value
            for key, value in config.budget.model_dump(mode="json").items()
            if value is not None or key not in ("memory_gb", "pays")
        }
    learned = mode.kind == "erecap" or mode.scorer == "learned"
    known = weights if mode.needs_model else {}
    return Identity(
        digest_of(parts)[:12], known.get("model"), known.get("adapter"), known.get("pruner") if learned else None
    )


def weights_of(config: RunConfig) -> dict[str, str | None]:
    """Hashes of the model, its adapter and the pruner, as far as the modes need them."""
    from erecap.models import describe_adapter, fingerprint, locate

    if not any(parse_mode(mode).needs_model for mode in config.modes):
        return {}
    adapter = describe_adapter(config.adapter)["hash"] if config.adapter is not None else None
    pruner = None
    if config.pruner is not None:
        from erecap.tokens.pruner_files import describe_pruner

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
