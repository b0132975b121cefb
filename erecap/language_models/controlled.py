"""A language model whose session follows a controller: before each call it chooses an action, which is applied."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erecap.config.controller import ControllerSettings
from erecap.config.modes import Mode
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError, ModelError
from erecap.generation import Control, Generation, Message
from erecap.language_models.lever_session import LeverSession, Switch
from erecap.language_models.opened import OpenedModel
from erecap.models.trained_folder import find_trained
from erecap.scheduling.actions import Action, action_of, read_actions
from erecap.scheduling.checkpoint import POLICY, TrainedController, load_controller
from erecap.scheduling.controllers import Choice
from erecap.scheduling.features import ControllerState
from erecap.scheduling.hardware import HardwareMonitor
from erecap.scheduling.levers import LEVERS
from erecap.session.looking_ahead import tokens_of_call


@dataclass(frozen=True, eq=False)
class Chooser:
    """The part of a run's controller that decides: a trained one, or one action in every call."""

    trained: TrainedController | None
    forced: Action | None
    slo_ms: float | None  # None where an action is forced, which needs none

    @property
    def actions(self) -> tuple[Action, ...]:
        """The actions that it may choose."""
        if self.forced is not None:
            return (self.forced,)
        assert self.trained is not None, "the settings name one of the two"
        return self.trained.actions


def open_chooser(settings: ControllerSettings) -> Chooser:
    """Load what a run's settings name.

    Raises:
        ConfigError: no such folder, file or action.
        ModelError: a damaged checkpoint.
    """
    if settings.checkpoint is None:
        path = None if settings.actions is None else Path(settings.actions).expanduser()
        source = "controller.fixed"
        return Chooser(None, action_of(read_actions(path), str(settings.fixed), source), settings.slo_ms)
    trained = load_controller(find_controller(settings.checkpoint))
    forced = None if settings.fixed is None else action_of(trained.actions, settings.fixed, "controller.fixed")
    return Chooser(trained, forced, settings.slo_ms or trained.slo_ms[0])


def find_controller(name: str) -> Path:
    """The folder of a controller: a path, or the name of one among the checkpoints.

    Raises:
        ConfigError: there is none.
    """
    return find_trained(name, "controller")


def refuse_unservable(chooser: Chooser, mode: Mode, opened: OpenedModel) -> None:
    """Refuse a controller that a mode's sessions cannot follow.

    Args:
        mode: with the run's layer plan, where it has none of its own.

    Raises:
        ConfigError: the first action that cannot be served.
        ModelError: the controller was trained on another model, or without the mode's layer plan, or a plan of its
            actions has changed since.
    """
    for action in chooser.actions:
        for name, value in action.levers.items():
            problem = LEVERS[name].problem(value, mode)
            if problem is not None:
                raise ConfigError(f"controller: mode {mode} cannot have {name} of action {action.name}: {problem}")
    trained = chooser.trained
    if trained is None:
        return
    if opened.plan_hash is not None:
        raise ModelError(
            f"controller: it was trained on the whole model, mode {mode} has a layer plan; force an action"
        )
    for part, found in (("hash", opened.fingerprint), ("adapter", opened.adapter_hash)):
        if trained.base[part] != found:
            raise ModelError(
                f"controller: it was trained on {trained.base['name']} with {part} {str(trained.base[part])[:19]}, "
                f"this model has {str(found)[:19]}; train one on this model"
            )
    for place, digest in folder_digests(chooser.actions).items():
        if trained.folders.get(place) != digest:
            raise ModelError(f"controller: the folder of {place} holds another plan than in training; train again")


def describe_controller(settings: ControllerSettings) -> dict[str, str]:
    """Name and hash of what a run's settings name, by its content.

    Raises:
        ConfigError, ModelError: it cannot be read.
    """
    chooser = open_chooser(settings)
    if settings.checkpoint is not None:
        folder = find_controller(settings.checkpoint)
        digest, name = hashlib.sha256((folder / POLICY).read_bytes()), folder.resolve().name
    else:
        action = chooser.actions[0]
        stated = {"action": action.name, "levers": dict(action.levers), "folders": folder_digests(chooser.actions)}
        digest, name = hashlib.sha256(json.dumps(stated, sort_keys=True).encode()), f"action {action.name}"
    return {"name": name, "hash": f"sha256:{digest.hexdigest()}"}


def folder_digests(actions: Sequence[Action]) -> dict[str, str]:
    """Hashes of the folders that levers of the actions name, by `action/lever`.

    Raises:
        ConfigError, ModelError: there is no such folder, or it cannot be read.
    """
    found = {
        f"{action.name}/{name}": LEVERS[name].digest(value)
        for action in actions
        for name, value in action.levers.items()
    }
    return {place: digest for place, digest in found.items() if digest is not None}


class ControlledSessions:
    """A language model for one episode after another, each with a conversation that a controller steers.

    Exploration is off. A switch of its session's levers is part of the call's time, and so is reading again where a
    switch needs it.

    Args:
        opened: with the mode's own layer plan.
        own: arguments of a `ReplanSession` as the mode has them.
        monitor: reads the machine's state; None: of the model's device.
    """

    takes_old_plan = False

    def __init__(
        self,
        opened: OpenedModel,
        own: Mapping[str, Any],
        chooser: Chooser,
        *,
        monitor: HardwareMonitor | None = None,
    ) -> None:
        self.tokenizer = opened.tokenizer
        self.trace = False
        self._chooser, self._opened, self._own = chooser, opened, own
        self._monitor = monitor or HardwareMonitor(str(opened.model.device))
        self._open = LeverSession(opened, own)
        self.reset()

    def reset(self) -> None:
        """Begin an episode: nothing of the last one is remembered."""
        self._open.close()
        self._action: Action | None = None
        self._read: list[Message] = []  # what the session has read, its last answer aside
        self._loss: float | None = None
        if self._chooser.trained is not None:
            self._chooser.trained.learner.begin()

    def try_actions(self) -> None:
        """Make a session for each action, so that what cannot be served is said before anything is played.

        Raises:
            ConfigError, ModelError, ValueError: as `LeverSession.apply`.
        """
        for action in self._chooser.actions:
            LeverSession(self._opened, self._own).apply(action.levers, ())

    @property
    def stored_tokens(self) -> int:
        """Tokens stored for the next call, in the layer that stores most."""
        session = self._open.session
        return 0 if session is None else session.engine.stored().most

    def read(self, messages: Sequence[Message]) -> int:
        """As `ReplanSession.read`, with the levers that are in force."""
        if self._open.session is None:
            self._open.apply({}, ())
        assert self._open.session is not None, "it was just made"
        read = self._open.session.read(messages)
        self._read = list(messages)
        return read

    def generate(self, messages: Sequence[Message], **options: Any) -> Generation:
        """Choose an action, bring it into force, and answer as `ReplanSession.generate`.

        Raises:
            BudgetError: as `ReplanSession.generate`.
        """
        action, reason = self._chosen(messages)
        switched = self._action is not None and action.name != self._action.name
        switch = self._open.apply(action.levers, self._known(messages))
        session = self._open.session
        assert session is not None, "an action was brought into force"
        answer = session.generate(messages, trace=self.trace, **options)
        self._action, self._read = action, list(messages)
        self._loss = session.plan_loss
        return _with_switch(answer, switch, Control(action.name, reason, switched, switch.reread_tokens, switch.ms))

    def _known(self, messages: Sequence[Message]) -> list[Message]:
        """The messages that a new session reads before the call: those before the newest one, if any were read."""
        if self._open.session is None or not self._read:
            return []
        same = 0
        while same < min(len(self._read), len(messages)) and _text(self._read[same]) == _text(messages[same]):
            same += 1
        # The answer behind them, as the chat has it, was read as well.
        if same < len(messages) - 1 and messages[same]["role"] == "assistant":
            same += 1
        return list(messages[:same])

    def _chosen(self, messages: Sequence[Message]) -> tuple[Action, str]:
        chooser = self._chooser
        if chooser.forced is not None:
            return chooser.forced, "forced by the run"
        assert chooser.trained is not None, "the settings name one of the two"
        state = self._state(messages)
        choice = chooser.trained.decide(state)
        return chooser.trained.actions[choice.action], _reason(chooser.trained, choice, state)

    def _state(self, messages: Sequence[Message]) -> ControllerState:
        session = self._open.session
        if session is None:
            prompt = new = len(render_prompt(messages, self.tokenizer).input_ids)
        else:
            prompt, new = tokens_of_call(session, messages)
        return ControllerState(
            prompt_tokens=prompt,
            new_tokens=new,
            stored_tokens=self.stored_tokens,
            evicted_tokens=0 if session is None else session.evicted_tokens,
            slo_ms=self._chooser.slo_ms or 0.0,
            plan_loss=self._loss,
            hardware=self._monitor.read(),
            previous=None if self._action is None else self._action.name,
        )


def _text(message: Message) -> tuple[str, str]:
    """A message as the model reads it; what it protects changes from call to call."""
    return message["role"], message["content"]


def _with_switch(answer: Generation, switch: Switch, control: Control) -> Generation:
    """The answer with the time of the switch in its total, and tokens read again counted as new."""
    usage, timing = answer.usage, answer.timing
    again = min(switch.reread_tokens, usage.reused_tokens)
    return replace(
        answer,
        control=control,
        usage=replace(usage, new_tokens=usage.new_tokens + again, reused_tokens=usage.reused_tokens - again),
        timing=replace(timing, total_ms=timing.total_ms + switch.ms),
    )


def _reason(trained: TrainedController, choice: Choice, state: ControllerState) -> str:
    """The reason of a decision in one sentence, with the figures that it hangs on."""
    chosen = trained.names[choice.action]
    if choice.outside is not None:
        return f"{choice.outside} is outside of what was trained, so {chosen} is taken, the best fixed action"
    others = [(value, name) for value, name in zip(choice.values, trained.names, strict=True) if name != chosen]
    best, name = max(others)
    said = f"{chosen} is valued at {choice.values[choice.action]:.3f}, {name} at {best:.3f}"
    hardware = state.hardware
    if trained.hardware and hardware.cpu_others is not None:
        said += f"; other programs take {hardware.cpu_others:.0%} of the processor"
    if trained.hardware and hardware.memory_free is not None:
        said += f", {hardware.memory_free:.0%} of the memory is free"
    return said
