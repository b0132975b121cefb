"""A planner that asks the expert at every call, notes its plan as the label, and lets it or somebody else act."""

from __future__ import annotations

import random
from dataclasses import dataclass

from erecap.context import Context, Situation
from erecap.context.render import render
from erecap.errors import GameError
from erecap.planners.expert import ExpertPlanner
from erecap.protocols import Plan, Planner
from erecap.rollout.observed import clean
from erecap.training.collect.trajectories import ChatMessage, Target

# In a perturbed episode. With plans of a few commands, one detour in five calls leaves most of the way the expert's.
DETOUR_PROBABILITY = 0.2
# One of the first calls always takes a detour, for an episode of three calls would often be left without any.
SURE_DETOUR_WITHIN = 3
MOST_DETOUR_STEPS = 2


@dataclass(frozen=True)
class _Label:
    record: int  # where in the context the plan of this call comes to stand
    plan: str


class Detours:
    """The detours of one perturbed episode.

    Args:
        chances: source of all chances of the episode.
    """

    def __init__(self, chances: random.Random) -> None:
        self._chances = chances
        self._sure = chances.randrange(SURE_DETOUR_WITHIN)
        self._calls = 0

    def steps(self, situation: Situation, wanted: str) -> tuple[str, ...]:
        """The detour to take at this call instead of `wanted`; () for none."""
        number, self._calls = self._calls, self._calls + 1
        # Drawn at each call, taken or not, so that the sure one does not shift the others.
        strays = self._chances.random() < DETOUR_PROBABILITY
        return detour(situation, wanted, self._chances) if strays or number == self._sure else ()


class CollectingPlanner:
    """Acts for one episode, and records the expert's plan at every call.

    Args:
        max_steps: the longest plan, in commands.
        chances: source of all chances of the episode.
        perturbed: some of the acting plans are detours: one or two random commands that are admissible.
        model: acts instead of the expert; None: the expert acts.
        beta: with a model, the probability that the expert acts, drawn anew for each call (DAgger's beta; Ross et
            al. 2011, arXiv:1011.0686).
    """

    def __init__(
        self,
        max_steps: int,
        chances: random.Random,
        *,
        perturbed: bool = False,
        model: Planner | None = None,
        beta: float = 0.0,
    ) -> None:
        self.context: Context | None = None  # of the episode, once its first plan was asked for
        self._expert = ExpertPlanner(max_steps)
        self._chances = chances
        self._detours = Detours(chances) if perturbed else None
        self._model = model
        self._beta = beta
        self._labels: list[_Label] = []

    def plan(self, context: Context) -> Plan:
        """The plan to carry out; the expert's is noted.

        Raises:
            GameError: the expert knows no way on. That ends the episode: nothing after it could be labelled.
            BudgetError, ModelError: from the model.
        """
        self.context = context
        best = self._expert.plan(context)
        if not best.steps:
            raise GameError(best.problem or "the environment's expert gives no actions here")
        self._labels.append(_Label(len(context.records), clean(best.text).strip()))
        if self._model is not None:
            return best if self._chances.random() < self._beta else self._model.plan(context)
        steps = self._detours.steps(context.situation, best.steps[0]) if self._detours is not None else ()
        return Plan(steps, "\n".join(steps)) if steps else best

    def transcripts(self) -> list[tuple[str, list[ChatMessage], list[Target]]]:
        """The chat of the episode up to now, and the expert's plan for each call that has an answer in it.

        A call whose answer was empty has none, and so no target. There is one chat, and it is nobody's by name.
        """
        if self.context is None:
            return [("", [], [])]
        rendered = render(self.context, max_steps=self._expert.max_steps)
        messages = [
            ChatMessage.model_validate({"role": turn["role"], "content": turn["content"]}) for turn in rendered.messages
        ]
        records = self.context.records
        targets = [
            Target(message=rendered.spans[label.record].message, plan=label.plan)
            for label in self._labels
            if label.record < len(records) and records[label.record].kind == "plan"
        ]
        return [("", messages, targets)]


def detour(situation: Situation, wanted: str, chances: random.Random) -> tuple[str, ...]:
    """One or two random commands that are admissible now, none of them `wanted`; () if there is no other.

    The verb is drawn first, with the root of its number of commands as weight: rooms have many places to go to, and a
    detour should also take, open or put something.
    """
    verbs: dict[str, list[str]] = {}
    for command in sorted(set(situation.skills) - {wanted}):
        verbs.setdefault(command.split(" ", 1)[0], []).append(command)
    steps: list[str] = []
    for _ in range(chances.randint(1, MOST_DETOUR_STEPS)):
        if verbs:
            weights = [len(commands) ** 0.5 for commands in verbs.values()]
            verb = chances.choices(list(verbs), weights)[0]
            steps.append(verbs[verb].pop(chances.randrange(len(verbs[verb]))))
            if not verbs[verb]:
                del verbs[verb]
    return tuple(steps)
