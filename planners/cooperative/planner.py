"""The planner `cooperative`: one of several takes its turn at each call, in a conversation of its own."""

from __future__ import annotations

from typing import Any

from erecap.config.run import TEAM_TOKENS, PlannerSettings
from erecap.context import Context
from erecap.errors import ConfigError
from erecap.planners.cooperative.agents import DEFAULT_TEAM, Roster, load_roster
from erecap.planners.cooperative.answer import Answer, parse_answer
from erecap.planners.cooperative.expert import expert_answer
from erecap.planners.cooperative.grammar import AnswerGrammar
from erecap.planners.cooperative.team import Team, Turn
from erecap.protocols import ForkingModel, LanguageModel, Plan, ReadAhead, ReadingModel


class CooperativePlanner:
    """Asks the planners of a team in turn, and merges their plans.

    All conversations begin with the same messages, which the model reads once and stores once (`ForkingModel.fork`).

    Args:
        model: a language model that forks; None: the environment's expert answers for all of them.
        roster: who they are.
        max_steps: most commands of one answer; at least 1.
        max_new_tokens: the longest answer, in tokens.
        constrained: decode under the grammar of an answer, which needs the model's tokenizer.

    Raises:
        ConfigError: a limit below 1, or a model that does not fork.
        ModelError: `constrained`, and the tokenizer cannot write plans.
    """

    def __init__(
        self,
        model: LanguageModel | None,
        roster: Roster,
        *,
        max_steps: int = 5,
        max_new_tokens: int = TEAM_TOKENS,
        constrained: bool = True,
    ) -> None:
        for name, value in (("max_steps", max_steps), ("max_new_tokens", max_new_tokens)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be 1 or more")
        if model is not None and not isinstance(model, ForkingModel):
            raise ConfigError(
                f"planner cooperative: a {type(model).__name__} holds one conversation; allowed: a model with `fork`"
            )
        self.model, self.roster = model, roster
        self.max_steps, self.max_new_tokens = max_steps, max_new_tokens
        self.team: Team | None = None  # of the episode that is played
        self._models: dict[str, ForkingModel] = {}  # by agent
        tokenizer = model.tokenizer if constrained and model is not None else None
        self._grammar = None if tokenizer is None else AnswerGrammar(tokenizer, max_steps)

    def plan(self, context: Context) -> Plan:
        """The next commands of the robot whose turn it is.

        Raises:
            BudgetError: the shared beginning does not fit the model's window.
            ConfigError: the agents file does not fit the episode.
            ModelError: the model cannot be used.
        """
        turn = self.begin_turn(context, patient=self.model is not None)
        if isinstance(turn, Plan):
            return turn
        return self.ask_model(turn) if self.model is not None else self.ask_expert(turn)

    def begin_turn(self, context: Context, *, patient: bool = False) -> Turn | Plan:
        """The question of this turn, and to whom; or a plan that needs no question.

        Args:
            patient: see `Team.turn`.
        """
        if self.team is None or self.team.context is not context:
            self.team, self._models = Team(self.roster, context, self.max_steps), {}
        turn = self.team.turn(patient=patient)
        if isinstance(turn, Turn) and not turn.situation.skills:
            return self.team.plan(turn.agent.name, problem="no command is admissible now")
        return turn

    def expert_answer(self, turn: Turn) -> Answer | str:
        """The answer that the environment's expert would give, or why it gives none."""
        team = self._team()
        untold = {subject: seen.text for subject, seen in team.views[turn.agent.name].untold.items()}
        return expert_answer(turn, team.merger, untold, team.context.goal, self.max_steps, self.roster.settings.wait)

    def ask_expert(self, turn: Turn) -> Plan:
        """The plan of the environment's expert."""
        return self.concluded(turn, self.expert_answer(turn))

    def concluded(self, turn: Turn, answer: Answer | str) -> Plan:
        """The plan of an answer that no model has written."""
        text = "" if isinstance(answer, str) else answer.text()
        return self._team().conclude(turn, text, answer, None)

    def ask_model(self, turn: Turn) -> Plan:
        """The plan of the language model; unreadable text gives one with a problem."""
        team, model = self._team(), self._model_of(turn.agent.name)
        allowed = None
        if self._grammar is not None:
            allowed = self._grammar.allowed(turn.facts, turn.contested, turn.offered, self.max_new_tokens)
            if allowed is None:
                problem = f"no answer with an admissible command fits into {self.max_new_tokens} new tokens"
                return team.plan(turn.agent.name, problem=problem)
        more: dict[str, Any] = {"trigger": team.context.trigger} if model.takes_old_plan else {}
        generation = model.generate(turn.messages, max_new_tokens=self.max_new_tokens, allowed_tokens=allowed, **more)
        if generation.finish_reason not in ("stop", "length"):
            problem = f"no whole answer ({generation.finish_reason})"
            return team.conclude(turn, generation.text, problem, generation)
        answer = parse_answer(generation.text, turn.facts, turn.contested, turn.situation, self.max_steps)
        return team.conclude(turn, generation.text, answer, generation)

    def read_ahead(self, context: Context) -> ReadAhead | None:
        """Let a planner read what its robot saw since; None where its model cannot, or nothing is new.

        Raises:
            BudgetError: its chat does not fit the model's window or its budget.
        """
        news = self.team.news() if self.team is not None and self.team.context is context else None
        model = self._models.get(news[0]) if news is not None else None
        if news is None or not isinstance(model, ReadingModel):
            return None
        stored = model.stored_tokens
        return ReadAhead(model.read(news[1]), stored)

    def _model_of(self, agent: str) -> ForkingModel:
        assert isinstance(self.model, ForkingModel), "asked only where there is a model"
        if agent not in self._models:
            self._models[agent] = self.model.fork(self._team().shared)
        return self._models[agent]

    def _team(self) -> Team:
        assert self.team is not None, "made when the first turn began"
        return self.team


def make_cooperative_planner(settings: PlannerSettings, model: LanguageModel | None) -> CooperativePlanner:
    """The planner `cooperative` of a run; in the mode `expert` the environment's expert answers.

    Raises:
        ConfigError: the agents file cannot be used.
    """
    return CooperativePlanner(
        model,
        load_roster(settings.agents or DEFAULT_TEAM),
        max_steps=settings.max_steps,
        max_new_tokens=settings.max_new_tokens,
        constrained=settings.constrained,
    )
