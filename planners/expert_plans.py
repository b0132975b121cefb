"""A planner of the expert's plans that takes the time of a language model: it reads and decodes as the model would."""

from __future__ import annotations

from collections.abc import Sequence

from erecap.context import Context
from erecap.generation import AllowedTokens
from erecap.planners.llm import LLMPlanner
from erecap.protocols import Plan


class ExpertPlansPlanner(LLMPlanner):
    """Plays the plans of the environment's expert, and pays for them as for plans of the model.

    The model is shown the same growing chat as in `LLMPlanner`, and decodes the expert's plan under the same grammar,
    as if it had chosen its tokens. So tokens read and decoded, forward passes and milliseconds are those of its mode,
    and the success that goes with them is that of equal plans. It says nothing about the model's own plans.

    The environment must be made with `expert=True`. The model must take `force`, as those of
    `erecap.language_models.build` do. Steps that the grammar does not know, or that do not fit `max_new_tokens`, are
    left out from the first of them on.

    Args: those of `LLMPlanner`.
    """

    def plan(self, context: Context) -> Plan:
        """The expert's next commands, decoded by the model."""
        situation = context.situation
        steps = situation.expert_actions[: self.max_steps]
        if not steps:
            return Plan((), "", "the environment's expert gives no actions here")
        allowed = None if self._grammar is None else self._grammar.allowed(situation, self.max_new_tokens)
        count = next((n for n in range(len(steps), 0, -1) if self._fits(steps[:n], allowed)), 0)
        if not count:
            return Plan((), "", f"the expert's first command cannot be written in a plan: {steps[0]!a}")
        return self._ask(context, situation, allowed, force="\n".join(steps[:count]))

    def _fits(self, steps: Sequence[str], allowed: AllowedTokens | None) -> bool:
        """True if a plan can be decoded token by token, with an end behind it."""
        if self.model.tokenizer is None:
            return True
        ids = self.model.tokenizer("\n".join(steps), add_special_tokens=False)["input_ids"]
        if len(ids) + 1 > self.max_new_tokens:
            return False
        return allowed is None or all(token in allowed(ids[:place]) for place, token in enumerate(ids))
