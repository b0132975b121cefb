"""A layer plan on disk: `plan.safetensors` with everything that counts, and `card.json` for people."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from erecap.errors import ModelError
from erecap.files import write_atomic, write_json
from erecap.layers.plan import Base, LayerPlan
from erecap.models.inspection import read_json
from erecap.models.trained_folder import describe_trained, find_trained
from erecap.models.wheels import sha256
from erecap.untrusted import parse_json, read_tensors
from erecap.validation import one_line

FORMAT = "erecap-layers-1"
PLAN = "plan.safetensors"
CARD = "card.json"
_STRICT = ConfigDict(extra="forbid", strict=True)


class _Base(BaseModel):
    model_config = _STRICT
    name: str = Field(description="name of the base, for people")
    hash: str = Field(pattern=r"^sha256:[0-9a-f]{64}$", description="fingerprint of the base")
    adapter: str | None = Field(default=None, description="hash of the adapter in it")


class _Plan(BaseModel):
    """The JSON text in the metadata of a plan's file."""

    model_config = _STRICT
    layers: int = Field(ge=1, le=100_000, description="decoder layers of the base")
    blocks: list[int] = Field(default=[], description="layers that are out")
    attention: list[int] = Field(default=[], description="layers without attention")
    mlp: list[int] = Field(default=[], description="layers without MLP")
    heads: dict[str, list[int]] = Field(default={}, description="query heads that are out, by layer")
    channels: dict[str, list[int]] = Field(default={}, description="MLP channels that are out, by layer")
    base: _Base = Field(description="the model that the plan is for")
    found: dict[str, Any] = Field(default={}, description="how the plan was found")
    test: dict[str, Any] = Field(default={}, description="figures of its test")


def save_plan(folder: Path, plan: LayerPlan) -> None:
    """Write `plan` into `folder`.

    Raises:
        ValueError: a plan without a base, which could be applied to any model; or a figure that is not finite.
        OSError: it cannot be written.
    """
    from safetensors.torch import save

    if plan.base is None:
        raise ValueError("a plan without its base is not saved; give LayerPlan(base=...)")
    about = {"base": vars(plan.base), "found": dict(plan.found), "test": dict(plan.test)}
    text = json.dumps(plan.structure() | about, allow_nan=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in plan.tuned.items()}
    write_atomic(folder / PLAN, save(tensors, metadata={"plan": text}))  # one entry: the order of several changes
    files = {PLAN: sha256(folder / PLAN)}
    write_json(folder / CARD, {"format": FORMAT, "out": plan.words(), **about, "files": files})


def find_plan(name: str | Path) -> Path:
    """The folder of a plan: a path, or the name of one among the checkpoints, where models lie too.

    Raises:
        ConfigError: there is no such folder.
    """
    return find_trained(name, "layer plan")


def describe_plan(name: str | Path) -> dict[str, str]:
    """Name and hash of a plan, for `run.json`. Raises ModelError or ConfigError where it cannot be read."""
    return describe_trained(find_plan(name), PLAN)


def load_plan(name: str | Path) -> LayerPlan:
    """Read a plan.

    Args:
        name: a folder, or the name of a checkpoint.

    Raises:
        ConfigError: no such folder.
        ModelError: a file is missing or damaged, or the plan cannot be meant (see `LayerPlan`).
    """
    folder = find_plan(name)
    path = folder / PLAN
    card = read_json(folder / CARD)
    if card.get("format") != FORMAT or not isinstance(card.get("files"), dict):
        raise ModelError(f"{folder / CARD}: not the card of a layer plan ({FORMAT})")
    tensors, metadata = read_tensors(path)
    if card["files"].get(PLAN) != sha256(path):
        raise ModelError(f"{path} is damaged: its SHA-256 is not the one in {CARD}")
    if "plan" not in metadata:
        raise ModelError(f"{path}: not a layer plan ({FORMAT})")
    try:
        stated = _Plan.model_validate(parse_json(metadata["plan"]))
        return LayerPlan(
            stated.layers,
            tuple(stated.blocks),
            tuple(stated.attention),
            tuple(stated.mlp),
            _by_layer(stated.heads),
            _by_layer(stated.channels),
            tensors,
            Base(**stated.base.model_dump()),
            stated.found,
            stated.test,
        )
    except ValidationError as error:
        raise ModelError(one_line(str(path), error, _Plan)) from error
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error


def _by_layer(slices: Mapping[str, list[int]]) -> dict[int, tuple[int, ...]]:
    wrong = next((layer for layer in slices if re.fullmatch("0|[1-9][0-9]{0,8}", layer) is None), None)
    if wrong is not None:  # with 03 beside 3, one would replace the other
        raise ValueError(f"got layer {wrong[:20]!r}; allowed: a number, with no zeros before it")
    return {int(layer): tuple(numbers) for layer, numbers in slices.items()}
