"""Measuring a table: each prompt under each load with each action, by the sessions that a run would use."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from erecap.errors import BudgetError, ConfigError
from erecap.language_models.lever_session import LeverSession
from erecap.language_models.opened import OpenedModel
from erecap.scheduling.actions import Action
from erecap.scheduling.hardware import HardwareMonitor
from erecap.scheduling.levers import LEVERS
from erecap.session.looking_ahead import tokens_of_call
from erecap.session.teacher_forcing import plan_choices, plan_loss
from erecap.training.controller.loads import LoadGenerator
from erecap.training.controller.prompts import Prompt, Prompts
from erecap.training.controller.table import Agreement, Cell, PromptRow, TableFolder, TimesRow, hardware_row

Say = Callable[[str], None]
ORDER = 0  # seed of the order in which prompts are measured


class TableMaker:
    """Measures what is missing of a table.

    A cell's call answers with the reference plan, forced token by token: so all actions decode the same text. What the
    model would have said is compared apart from that, teacher-forced as well, with the dense planner.

    Args:
        opened: the model.
        own: arguments of a `ReplanSession` as the mode has them.
    """

    def __init__(self, opened: OpenedModel, own: Mapping[str, Any], actions: Sequence[Action]) -> None:
        self._opened, self._own, self._actions = opened, dict(own), actions
        self._monitor = HardwareMonitor(str(opened.model.device))
        # Actions that differ only in what an open session can change share the session that reads the history.
        self._groups: dict[str, tuple[dict[str, Any], list[Action]]] = {}
        for action in actions:
            lasting = {name: value for name, value in action.levers.items() if LEVERS[name].rereads(None, value, False)}
            self._groups.setdefault(json.dumps(lasting, sort_keys=True), (lasting, []))[1].append(action)

    def measure(self, table: TableFolder, prompts: Prompts, loads: LoadGenerator, repeats: int, say: Say) -> None:
        """Measure the rows that `table` lacks.

        Raises:
            ConfigError: an action that a prompt cannot have, or a prompt that does not fit the window.
            RunError: a load's process ended by itself.
        """
        self._warm_up(prompts.all[0])
        names = table.head["loads"]
        held = {prompt.name for prompt in prompts.held_out}
        # In a drawn order, so that what changes in an hour does not part training from test.
        order = random.Random(ORDER).sample(list(enumerate(prompts.all)), len(prompts.all))
        for count, (number, prompt) in enumerate(order):
            due = [load for load in names if (prompt.name, load) not in table.times]
            if prompt.name in table.prompts and not due:
                continue
            if prompt.name not in table.prompts:
                row = self._compared(prompt, prompt.name in held)
                table.add(row.model_copy(update={"number": number}))
            first = count % len(due) if due else 0
            for load in (*due[first:], *due[:first]):  # taking turns, so that a slow minute hits all loads
                with loads.under(load):
                    table.add(self._timed(prompt, load, repeats))
            say(f"measured {count + 1} of {len(prompts.all)} prompts")

    def _warm_up(self, prompt: Prompt) -> None:
        """Make what is made once: models with layer plans, packed weights."""
        for lasting, _ in self._groups.values():
            lever = LeverSession(self._opened, self._own)
            lever.apply(lasting, ())
            assert lever.session is not None, "levers make a session"
            lever.session.generate(prompt.messages[:2][-1:], max_new_tokens=2)

    def _compared(self, prompt: Prompt, held_out: bool) -> PromptRow:
        """Counts of a prompt, and the agreement of each action with the dense planner."""
        dense = LeverSession(self._opened, self._own)
        dense.apply({}, ())
        assert dense.session is not None, "levers make a session"
        loss = self._loss_before(dense, prompt)
        if prompt.history:
            dense.session.read(prompt.history)
        prompt_tokens, new = tokens_of_call(dense.session, prompt.messages)
        plan_tokens = len(self._opened.tokenizer(prompt.plan, add_special_tokens=False)["input_ids"])
        if prompt_tokens + plan_tokens >= dense.session.engine.window or dense.evicted:
            raise ConfigError(
                f"prompt {prompt.name}: its {prompt_tokens:,} tokens do not fit the model's window with its plan; "
                "leave it out"
            )
        wanted = self._choices(Action("dense"), dense, prompt)
        found: dict[str, Agreement] = {}
        for lasting, actions in self._groups.values():
            base = dense
            if lasting:
                base = LeverSession(self._opened, self._own)
                base.apply(lasting, prompt.history)
            for action in actions:
                chosen = self._choices(action, base, prompt) if action.levers else wanted
                same = [a == b for a, b in zip(chosen, wanted, strict=True)]
                found[action.name] = Agreement(share=sum(same) / len(same), whole=all(same))
        return PromptRow(
            prompt=prompt.name,
            conversation=prompt.conversation,
            held_out=held_out,
            prompt_tokens=prompt_tokens,
            new_tokens=new,
            plan_tokens=plan_tokens,
            plan_loss=loss,
            agreement=found,
        )

    def _loss_before(self, dense: LeverSession, prompt: Prompt) -> float | None:
        """Loss of the plan before, as a run has it from decoding that plan."""
        last = max((number for number, one in enumerate(prompt.messages) if one["role"] == "assistant"), default=0)
        before = prompt.messages[:last]
        if not before or before[-1]["role"] != "user" or not prompt.messages[last]["content"].strip():
            return None
        assert dense.session is not None, "levers make a session"
        return plan_loss(dense.session, before, prompt.messages[last]["content"])

    def _timed(self, prompt: Prompt, load: str, repeats: int) -> TimesRow:
        """Times of each action; the machine's state is read when the history was read first, before any call."""
        self._monitor.read()
        bases: list[tuple[LeverSession, float, list[Action]]] = []
        hardware = None
        for lasting, actions in self._groups.values():
            base = LeverSession(self._opened, self._own)
            switch = base.apply(lasting, prompt.history)
            bases.append((base, switch.ms, actions))
            if hardware is None:
                hardware = self._monitor.read()
        assert hardware is not None, "there is an action"
        order = [(base, reread, action) for base, reread, actions in bases for action in actions]
        edits: dict[str, list[float]] = {}
        calls: dict[str, list[float]] = {}
        room = len(self._opened.tokenizer(prompt.plan, add_special_tokens=False)["input_ids"]) + 1
        for repeat in range(repeats):
            first = repeat % len(order)
            for base, _, action in (*order[first:], *order[:first]):
                edit, call = self._call(action, base, prompt, room)
                edits.setdefault(action.name, []).append(edit)
                calls.setdefault(action.name, []).append(call)
        cells = {
            action.name: Cell(
                reread_ms=round(reread, 3),
                edit_ms=round(statistics.median(edits[action.name]), 3),
                call_ms=round(statistics.median(calls[action.name]), 3),
            )
            for _, reread, action in order
        }
        return TimesRow(prompt=prompt.name, load=load, hardware=hardware_row(hardware), cells=cells)

    def _call(self, action: Action, base: LeverSession, prompt: Prompt, room: int) -> tuple[float, float]:
        """Milliseconds of changing a session that has read the history, and of the call."""
        lever = base.fork()
        try:
            edit = lever.apply(action.levers, prompt.history).ms
            assert lever.session is not None, "it was forked"
            answer = lever.session.generate(prompt.messages, max_new_tokens=room, force=prompt.plan)
        except BudgetError as error:
            raise self._impossible(action, prompt, error) from error
        return edit, answer.timing.total_ms

    def _choices(self, action: Action, base: LeverSession, prompt: Prompt) -> list[int]:
        """The choices of an action at each token of the reference plan, see `plan_choices`."""
        lever = base.fork()
        try:
            lever.apply(action.levers, prompt.history)
            assert lever.session is not None, "it was forked"
            chosen = plan_choices(lever.session, prompt.messages, prompt.plan)
        except BudgetError as error:
            raise self._impossible(action, prompt, error) from error
        assert chosen is not None, "the chat fits the window"
        return chosen

    @staticmethod
    def _impossible(action: Action, prompt: Prompt, error: BudgetError) -> ConfigError:
        return ConfigError(f"action {action.name}: prompt {prompt.name} cannot have it: {error}")
