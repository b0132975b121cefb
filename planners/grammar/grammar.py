"""The grammar of a plan as tokens: the tokens that a model may write next.

    plan = skill (newline command){0, max_steps - 1} end-of-turn

A skill is a command that is admissible now; a command is a template filled with names seen so far. The budget
of tokens is part of the grammar. A token is allowed only if its step can still be completed and the turn ended.
So no plan is cut in the middle of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from erecap.context import Situation
from erecap.generation import AllowedTokens
from erecap.planners.grammar.command_tokens import CommandTokens
from erecap.planners.grammar.filled import FilledTemplates
from erecap.planners.grammar.trie import Node, Trie


class PlanGrammar:
    """Makes `AllowedTokens` for the situations of one model's episodes; tokens and tries are kept between
    calls.

    Args:
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        max_steps: the longest plan, in commands; at least 1.

    Raises:
        ModelError: the tokenizer cannot write plans; see `CommandTokens`.
    """

    def __init__(self, tokenizer: Any, max_steps: int = 5) -> None:
        self.max_steps = max_steps
        self._tokens = CommandTokens(tokenizer)
        self._later = FilledTemplates(self._tokens.later)

    def allowed(self, situation: Situation, max_new_tokens: int) -> AllowedTokens | None:
        """The tokens that may be written now, for `transformers`' `prefix_allowed_tokens_fn` and the like.

        The first call for new names tokenises their commands; after that a call takes a few milliseconds.

        Returns:
            A function from the ids generated so far to the ids allowed next, never empty; or None if no
            admissible command fits into `max_new_tokens` with the end of the turn.
        """
        first = Trie(self._tokens.first(situation.skills).values())
        if first.root.shortest + 1 > max_new_tokens:
            return None
        later = self._later.trie(situation.templates, situation.entities)
        return _Allowed(first.root, later.root, self._tokens.newline, self._tokens.ends, self.max_steps, max_new_tokens)


@dataclass(frozen=True)
class _Allowed:
    """Ids generated so far -> ids allowed next. Depends on its argument alone."""

    first: Node
    later: Node
    newline: int
    ends: frozenset[int]
    max_steps: int
    max_new_tokens: int

    def __call__(self, generated: Sequence[int]) -> list[int]:
        ends = sorted(self.ends)
        node, steps = self.first, 1
        for token in generated:
            token = int(token)
            child = node.children.get(token)
            if child is not None:
                node = child
            elif node.terminal and token == self.newline and steps < self.max_steps:
                node, steps = self.later, steps + 1
            else:
                return ends  # the turn was ended before; nothing else may follow
        # Tokens left after the one chosen now. What completes the step must leave one of them to end the
        # turn.
        left = self.max_new_tokens - len(generated) - 1
        allowed = [token for token, child in node.children.items() if child.shortest < left]
        if node.terminal:
            if steps < self.max_steps and self.later.shortest < left:
                allowed.append(self.newline)
            allowed.extend(ends)
        return allowed or ends
