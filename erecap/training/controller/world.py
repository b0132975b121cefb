"""A measured table as a world in which policies decide call by call, and their reward is looked up."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from erecap.scheduling.actions import Action
from erecap.scheduling.features import ControllerState
from erecap.scheduling.levers import rereads
from erecap.scheduling.reward import RewardWeights, reward
from erecap.training.controller.table import PromptRow, Table


@dataclass(frozen=True)
class Call:
    """One call of a schedule."""

    prompt: str
    load: str
    slo_ms: float


@dataclass(frozen=True)
class Outcome:
    """The result of an action in a call."""

    reward: float
    latency_ms: float  # with the switch
    switch_ms: float
    agreement: float
    whole: bool


class TableWorld:
    """Outcomes of all actions, from a table.

    An action stays in force until another one is chosen. A switch costs what was measured for it: the change of an open
    session, or reading the conversation again where the levers ask for that. A conversation begins with nothing in
    force: its first action opens the session, whose reading of what came before is not counted.

    Args:
        actions: of the table, in its order.
        slo_ms: the latencies that calls are given; an episode has one of them.
    """

    def __init__(
        self, table: Table, actions: Sequence[Action], slo_ms: Sequence[float], weights: RewardWeights
    ) -> None:
        self.table, self.actions, self.slo_ms, self.weights = table, tuple(actions), tuple(slo_ms), weights

    def conversations(self, held_out: bool) -> list[list[PromptRow]]:
        """Prompts of the training or the test split by conversation, in order."""
        found: dict[str, list[PromptRow]] = {}
        for row in self.table.prompts.values():
            if row.held_out == held_out:
                found.setdefault(row.conversation, []).append(row)
        return list(found.values())

    def schedule(self, conversation: Sequence[PromptRow], stay: float, draw: random.Random) -> list[Call]:
        """The calls of a conversation under loads that last from call to call with probability `stay`."""
        slo, load = draw.choice(self.slo_ms), draw.choice(self.table.loads)
        calls = []
        for row in conversation:
            calls.append(Call(row.prompt, load, slo))
            if draw.random() >= stay:
                load = draw.choice(self.table.loads)
        return calls

    def schedules(self, held_out: bool, stay: float, passes: int, seed: int) -> list[list[Call]]:
        """Schedules of all conversations of a split, `passes` times each. The same seed gives the same."""
        draw = random.Random(seed)
        conversations = self.conversations(held_out)
        return [self.schedule(one, stay, draw) for _ in range(passes) for one in conversations]

    def endless(self, stay: float, seed: int) -> Iterator[list[Call]]:
        """Schedules of training conversations, drawn for ever."""
        draw = random.Random(seed)
        conversations = self.conversations(False)
        while True:
            yield self.schedule(draw.choice(conversations), stay, draw)

    def state(self, call: Call, previous: int | None) -> ControllerState:
        """The state before a call, with action `previous` in force."""
        row = self.table.prompts[call.prompt]
        read = row.prompt_tokens - row.new_tokens
        # Whoever opens a session has read nothing yet, as in a run.
        new = row.prompt_tokens if previous is None else row.new_tokens
        stored = 0 if previous is None else self._stored(previous, read)
        return ControllerState(
            prompt_tokens=row.prompt_tokens,
            new_tokens=new,
            stored_tokens=stored,
            evicted_tokens=0 if previous is None else read - stored,
            slo_ms=call.slo_ms,
            plan_loss=None if previous is None else row.plan_loss,
            hardware=self.table.times[call.prompt, call.load].state(),
            previous=None if previous is None else self.actions[previous].name,
        )

    def outcome(self, call: Call, previous: int | None, action: int) -> Outcome:
        """The result of `action` in a call, with `previous` in force before it; None: it opens the session."""
        chosen = self.actions[action]
        row = self.table.prompts[call.prompt]
        cell = self.table.times[call.prompt, call.load].cells[chosen.name]
        switch = 0.0
        if previous is not None and previous != action:
            read = row.prompt_tokens - row.new_tokens
            evicted = self._stored(previous, read) < read
            anew = rereads(self.actions[previous].levers, chosen.levers, evicted)
            switch = cell.reread_ms + cell.edit_ms if anew else cell.edit_ms
        agreement = row.agreement[chosen.name]
        latency = cell.call_ms + switch
        value = reward(latency, call.slo_ms, agreement.share, agreement.whole, self.weights)
        return Outcome(value, latency, switch, agreement.share, agreement.whole)

    def best(self, calls: Sequence[Call]) -> list[int]:
        """The actions with the highest sum of rewards: what an oracle does that knows all outcomes beforehand."""
        count = len(self.actions)
        # From the last call back: the most that is still to be had with each action in force.
        ahead = [0.0] * count
        chosen: list[list[int]] = []
        for call in reversed(calls[1:]):
            value = [
                [self.outcome(call, previous, action).reward + ahead[action] for action in range(count)]
                for previous in range(count)
            ]
            chosen.append([max(range(count), key=row.__getitem__) for row in value])
            ahead = [max(row) for row in value]
        begin = [self.outcome(calls[0], None, action).reward + ahead[action] for action in range(count)]
        actions = [max(range(count), key=begin.__getitem__)]
        for row in reversed(chosen):
            actions.append(row[actions[-1]])
        return actions

    def _stored(self, action: int, read: int) -> int:
        """Tokens that a session stores after `read` tokens with an action in force."""
        levers: Mapping[str, object] = self.actions[action].levers
        most = levers.get("kv_tokens")
        return min(read, most) if isinstance(most, int) else read
