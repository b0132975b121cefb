"""A trained controller on disk: `policy.safetensors` with all that counts, and `card.json` for people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from erecap.errors import ConfigError, ModelError
from erecap.files import write_atomic, write_json
from erecap.scheduling.actions import Action, make_actions
from erecap.scheduling.controllers import Choice, Learner, LearnerSettings, make_controller
from erecap.scheduling.features import ControllerState, Normaliser, feature_names, features
from erecap.untrusted import parse_json, read_json, read_tensors
from erecap.validation import one_line

FORMAT: Final = "erecap-controller-1"
POLICY = "policy.safetensors"
CARD = "card.json"
_HASH = r"^sha256:[0-9a-f]{64}$"
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Base(BaseModel):
    model_config = _STRICT
    name: str = Field(description="name of the base, for people")
    hash: str = Field(pattern=_HASH, description="fingerprint of the base")
    adapter: str | None = Field(default=None, description="hash of the adapter in it")


class _Card(BaseModel):
    """The JSON text in the metadata of a policy's file."""

    model_config = _STRICT
    format: Literal["erecap-controller-1"] = Field(description="of the file")
    method: str = Field(description="dqn, bandit or linucb")
    actions: dict[str, dict[str, Any]] = Field(min_length=2, description="levers of each action, by its name")
    folders: dict[str, str] = Field(default={}, description="hashes of the folders that levers name")
    features: list[str] = Field(min_length=1, description="names of the features, in order")
    hardware: bool = Field(description="the machine's state is among them")
    mean: list[float] = Field(description="of each feature in training")
    deviation: list[float] = Field(description="of each feature in training")
    learner: dict[str, Any] = Field(description="settings of learning, the seed among them")
    fallback: str = Field(description="action where the state is outside of what was trained")
    slo_ms: list[float] = Field(min_length=1, description="latencies that it was trained for")
    reward: dict[str, float] = Field(description="weights of the reward")
    base: _Base = Field(description="the model that it was trained on")
    mode: str = Field(default="", description="parts of the mode that it was trained in, for people")
    found: dict[str, Any] = Field(default={}, description="how it was trained")
    test: dict[str, Any] = Field(default={}, description="figures of its test")


@dataclass(eq=False)
class TrainedController:
    """A learner with all that it takes to ask it.

    Attributes:
        base: `name`, `hash` and `adapter` of the model that it was trained on.
        folders: hash of each folder that a lever of an action names, by `action/lever`.
        slo_ms: latencies that it was trained for.
        fallback: number of the action that is taken in states far from those of training: the best fixed one.
        test: figures of the test that it went through.
    """

    learner: Learner
    actions: tuple[Action, ...]
    normaliser: Normaliser
    settings: LearnerSettings
    slo_ms: tuple[float, ...]
    base: Mapping[str, str | None]
    fallback: int = 0
    hardware: bool = True
    folders: Mapping[str, str] = field(default_factory=dict)
    reward: Mapping[str, float] = field(default_factory=dict)
    mode: str = ""
    found: Mapping[str, Any] = field(default_factory=dict)
    test: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the actions."""
        return tuple(action.name for action in self.actions)

    def decide(self, state: ControllerState) -> Choice:
        """The action in a state, without exploration; the best fixed one where nothing was learned of such states.

        Raises:
            ModelError: values that are not finite.
        """
        row = features(state, self.names, self.hardware)
        outside = self.normaliser.outside(row)
        if outside is not None:
            return Choice(self.fallback, outside=feature_names(self.names, self.hardware)[outside])
        self.learner.observe(self.normaliser(row))
        choice = self.learner.decide(explore=False)
        if not all(abs(value) < float("inf") for value in choice.values):
            raise ModelError(f"the controller's values are not finite: {choice.values}")
        return choice


def save_controller(folder: Path, trained: TrainedController) -> None:
    """Write a controller into `folder`.

    Raises:
        ValueError: a figure that is not finite.
        OSError: it cannot be written.
    """
    from safetensors.torch import save

    stated: dict[str, Any] = {
        "format": FORMAT,
        "method": trained.learner.method,
        "actions": {action.name: dict(action.levers) for action in trained.actions},
        "folders": dict(trained.folders),
        "features": list(feature_names(trained.names, trained.hardware)),
        "hardware": trained.hardware,
        "mean": list(trained.normaliser.mean),
        "deviation": list(trained.normaliser.deviation),
        "learner": asdict(trained.settings),
        "fallback": trained.names[trained.fallback],
        "slo_ms": list(trained.slo_ms),
        "reward": dict(trained.reward),
        "base": dict(trained.base),
        "mode": trained.mode,
        "found": dict(trained.found),
        "test": dict(trained.test),
    }
    text = json.dumps(stated, allow_nan=False)
    tensors = {name: tensor.contiguous() for name, tensor in trained.learner.tensors().items()}
    # One entry alone: several are written in an order that changes, and the same policy is to be the same file.
    content = save(tensors, metadata={"controller": text})
    write_atomic(folder / POLICY, content)
    write_json(folder / CARD, {**stated, "files": {POLICY: hashlib.sha256(content).hexdigest()}})


def load_controller(folder: Path) -> TrainedController:
    """Read a controller.

    Raises:
        ConfigError: no such folder, or an action with a lever that is not known here.
        ModelError: a file is missing or damaged, features that this version does not make, or tensors of another shape.
    """
    if not folder.is_dir():
        raise ConfigError(f"controller {folder}: no such folder")
    path = folder / POLICY
    tensors, metadata = read_tensors(path)
    try:
        card = read_json(folder / CARD)
        files = card["files"] if card["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        files = None
    if not isinstance(files, dict) or "controller" not in metadata:
        raise ModelError(f"{folder}: not a controller ({FORMAT}), or its {CARD} is missing or damaged")
    if files.get(POLICY) != hashlib.sha256(path.read_bytes()).hexdigest():
        raise ModelError(f"{path} is damaged: its SHA-256 is not the one in {CARD}")
    try:
        stated = _Card.model_validate(parse_json(metadata["controller"]))
        settings = LearnerSettings(**stated.learner)
        actions = make_actions(stated.actions, str(folder))
        expected = feature_names(tuple(stated.actions), stated.hardware)
        _check_features(stated, expected)
        learner = make_controller(stated.method, len(expected), len(actions), settings)
        learner.load(tensors)
        if stated.fallback not in stated.actions:
            raise ValueError(f"fallback: got {stated.fallback!r}; allowed: {', '.join(stated.actions)}")
    except ValidationError as error:
        raise ModelError(one_line(str(path), error, _Card)) from error
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path}: {error}") from error
    return TrainedController(
        learner=learner,
        actions=actions,
        normaliser=Normaliser(tuple(stated.mean), tuple(stated.deviation)),
        settings=settings,
        slo_ms=tuple(stated.slo_ms),
        base=stated.base.model_dump(),
        fallback=list(stated.actions).index(stated.fallback),
        hardware=stated.hardware,
        folders=stated.folders,
        reward=stated.reward,
        mode=stated.mode,
        found=stated.found,
        test=stated.test,
    )


def _check_features(stated: _Card, expected: tuple[str, ...]) -> None:
    found = tuple(stated.features)
    if found != expected:
        differs = next((pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]), None)
        got = f"{differs[0]!r} where {differs[1]!r} is made here" if differs else f"{len(found)}, not {len(expected)}"
        raise ValueError(f"the controller was trained on other features: {got}; train it again")
    if not len(stated.mean) == len(stated.deviation) == len(expected):
        raise ValueError(f"mean and deviation must have {len(expected)} numbers, one for each feature")
    if not all(value >= 0 for value in stated.deviation) or not all(value > 0 for value in stated.slo_ms):
        raise ValueError("deviation must be 0 or more, and slo_ms above 0")
