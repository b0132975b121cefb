"""Cooperating planners that note the expert's answer at every call, and let it or somebody else answer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from erecap.context import Context
from erecap.errors import GameError
from erecap.planners.cooperative.agents import Roster
from erecap.planners.cooperative.answer import Answer
from erecap.planners.cooperative.planner import CooperativePlanner
from erecap.planners.cooperative.team import Turn
from erecap.protocols import Plan
from erecap.training.collect.planner import Detours
from erecap.training.collect.trajectories import ChatMessage, Target

Transcript = tuple[str, list[ChatMessage], list[Target]]  # agent, its chat, the expert's answers


class CollectingTeam:
    """Acts for one episode, and records the expert's answer at every call of every planner.

    Args:
        roster: who the planners are.
        max_steps: most commands of one answer.
        chances: source of all chances of the episode.
        perturbed: some of the acting answers plan detours: one or two random commands that are admissible.
        model: its language model answers instead of the expert; None: the expert answers.
        beta: with a model, the probability that the expert answers, drawn anew for each call.
    """

    def __init__(
        self,
        roster: Roster,
        max_steps: int,
        chances: random.Random,
        *,
        perturbed: bool = False,
        model: CooperativePlanner | None = None,
        beta: float = 0.0,
    ) -> None:
        self.context: Context | None = None  # of the episode, once its first plan was asked for
        self._planner = model or CooperativePlanner(None, roster, max_steps=max_steps)
        self._asks, self._beta, self._chances = model is not None, beta, chances
        self._detours = Detours(chances) if perturbed else None
        self._labels: dict[str, list[tuple[int, str]]] = {}  # by agent: where its answer comes to stand, the expert's

    def plan(self, context: Context) -> Plan:
        """The plan to carry out; the expert's answer is noted.

        Raises:
            GameError: the expert knows no way on.
            BudgetError, ModelError: from the model.
        """
        self.context = context
        turn = self._planner.begin_turn(context)
        if isinstance(turn, Plan):
            return turn
        best = self._planner.expert_answer(turn)
        if isinstance(best, str):
            raise GameError(best)
        self._note(turn, best)
        if self._asks:
            expert = self._chances.random() < self._beta
            return self._planner.concluded(turn, best) if expert else self._planner.ask_model(turn)
        steps = self._detours.steps(turn.situation, best.patches[0]) if self._detours is not None else ()
        return self._planner.concluded(turn, replace(best, patches=steps) if steps else best)

    def transcripts(self) -> Iterator[Transcript]:
        """The chat of each planner up to now, with the expert's answer for each call that was answered."""
        team = self._planner.team
        if self.context is None or team is None:
            return
        team.take_in()
        for agent in team.agents:
            view = team.views[agent.name]
            rendered, records = view.rendered(), view.context.records
            messages = [
                ChatMessage.model_validate({"role": turn["role"], "content": turn["content"]})
                for turn in rendered.messages
            ]
            labels = self._labels.get(agent.name, [])
            targets = [
                Target(message=rendered.spans[record].message, plan=answer)
                for record, answer in labels
                if record < len(records) and records[record].kind == "plan"
            ]
            yield agent.name, messages, targets

    def _note(self, turn: Turn, best: Answer) -> None:
        assert self._planner.team is not None, "made when the first turn began"
        view = self._planner.team.views[turn.agent.name]
        self._labels.setdefault(turn.agent.name, []).append((len(view.context.records), best.text()))
