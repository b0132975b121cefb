"""The language-model planner: it renders the context as a chat, and parses the answer as a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from erecap.config.run import PLAN_TOKENS
from erecap.context import Context, Situation
from erecap.context.prompt import NOTHING_DONE
from erecap.context.render import render
from erecap.errors import ConfigError
from erecap.generation import AllowedTokens, Generation, Message
from erecap.planners.grammar.grammar import PlanGrammar
from erecap.planners.grammar.pattern import plan_pattern
from erecap.planners.parser import parse_plan
from erecap.planners.stuck import least_tried
from erecap.protocols import LanguageModel, PatternModel, Plan, ReadAhead, ReadingModel


class LLMPlanner:
    """Asks a language model for the next commands.

    Args:
        model: any `LanguageModel`, wrapped or not.
        max_steps: the longest plan, in commands; at least 1.
        max_new_tokens: the longest answer, in tokens; at least 1.
        constrained: allow only admissible commands first, and only known commands after. This needs the
            model's tokenizer (`model.tokenizer`), or a model that takes a regular expression (`PatternModel`); another
            one writes freely, and `planner.constrained` is False.
        temperature: 0 is greedy.
        top_p: share of probability that is sampled from, at a temperature above 0.
        seed: for sampling.
        deadline_ms: time that a call may take; complete steps that were written by then are the plan.
        stuck_after: after so many commands in a row that told nothing new, a plan must begin with one of those that
            were tried least (see `least_tried`); None: never.

    Raises:
        ConfigError: a limit below 1, or `stuck_after` where decoding is not constrained.
        ModelError: `constrained`, and the tokenizer cannot write plans.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        max_steps: int = 5,
        max_new_tokens: int = PLAN_TOKENS,
        constrained: bool = True,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        deadline_ms: float | None = None,
        stuck_after: int | None = None,
    ) -> None:
        limits = (("max_steps", max_steps), ("max_new_tokens", max_new_tokens), ("stuck_after", stuck_after))
        for name, value in limits:
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be 1 or more")
        self.model = model
        self.max_steps = max_steps
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.seed = seed
        self.deadline_ms = deadline_ms
        self.stuck_after = stuck_after
        tokenizer = model.tokenizer if constrained else None
        self._grammar = None if tokenizer is None else PlanGrammar(tokenizer, max_steps)
        self._takes_pattern = constrained and isinstance(model, PatternModel) and model.takes_pattern
        if stuck_after is not None and not self.constrained:
            lacks = "a model with a tokenizer" if constrained else "constrained"
            raise ConfigError(f"stuck_after limits what is decoded; allowed: with {lacks}")

    @property
    def constrained(self) -> bool:
        """True if the model's choice of tokens is limited to commands."""
        return self._grammar is not None or self._takes_pattern

    def messages(self, context: Context) -> list[Message]:
        """The chat that the model is shown: the rendered context, with a user message at its end."""
        messages = render(context, max_steps=self.max_steps).messages
        if messages[-1]["role"] == "assistant":
            messages.append({"role": "user", "content": NOTHING_DONE})
        return messages

    def plan(self, context: Context) -> Plan:
        """The model's next commands. A text that cannot be read gives a plan with a `problem`, not an exception.

        Raises:
            BudgetError: system and goal do not fit the model's window.
            ModelError: the model cannot be used.
        """
        situation = context.situation
        if not situation.skills:
            return Plan((), "", "no command is admissible now")
        allowed: AllowedTokens | None = None
        if self.stuck_after is not None:
            situation = replace(situation, skills=least_tried(context.records, situation.skills, self.stuck_after))
        if self._grammar is not None:
            allowed = self._grammar.allowed(situation, self.max_new_tokens)
            if allowed is None:
                return Plan((), "", f"no admissible command fits into {self.max_new_tokens} new tokens")
        return self._ask(context, situation, allowed)

    def _ask(self, context: Context, situation: Situation, allowed: AllowedTokens | None, **more: Any) -> Plan:
        """The plan of one call of the model; `more` are further arguments of the call."""
        if self.model.takes_old_plan:
            more |= {"old_plan": "\n".join(context.remaining) or None, "trigger": context.trigger}
        if self._takes_pattern:
            more["pattern"] = plan_pattern(situation, self.max_steps)
        generation = self.model.generate(
            self.messages(context),
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            allowed_tokens=allowed,
            deadline_ms=self.deadline_ms,
            **more,
        )
        if generation.finish_reason == "deferred":
            return Plan(context.remaining, "", None, generation)
        return self._read(generation, situation)

    def read_ahead(self, context: Context) -> ReadAhead | None:
        """Let the model read what is new, before it is asked for a plan; None where it cannot.

        Raises:
            BudgetError: system and goal do not fit the model's window or its budget.
        """
        if not isinstance(self.model, ReadingModel):
            return None
        stored = self.model.stored_tokens
        return ReadAhead(self.model.read(self.messages(context)), stored)

    def _read(self, generation: Generation, situation: Situation) -> Plan:
        text = generation.text
        # The grammar closes the plan before the limit of tokens; a free writer may run into it.
        whole = ("stop", "length") if self._grammar is not None else ("stop",)
        if generation.finish_reason not in whole:
            # The last line may have been cut: "go to cabinet 1" of "go to cabinet 12". Only whole lines
            # count.
            text = text.rpartition("\n")[0]
            if not text.strip():
                problem = f"cut before the first step was complete ({generation.finish_reason})"
                return Plan((), generation.text, problem, generation)
        plan = parse_plan(text, situation, self.max_steps)
        return Plan(plan.steps, generation.text, plan.problem, generation)
