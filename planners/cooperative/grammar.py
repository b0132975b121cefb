"""The grammar of a cooperating planner's answer as tokens.

    answer = {"observations":[NAMES],"conflicts":[NAMES],"plan_patches":[COMMANDS]} end-of-turn

The names are those that may be named now; the first command is admissible now, the later ones are templates filled with
known names. Lists are bounded, and a token is allowed only if the answer can still be completed within the budget of
tokens: an answer is never malformed and never cut.

States take turns: a name or a command is chosen, then the text that follows it: a comma and the next one, or the end of
the list. Quotes belong to the latter, as tokenizers join them with the signs beside them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from erecap.context import Situation
from erecap.generation import AllowedTokens
from erecap.planners.cooperative.answer import KEYS, MOST_NAMES, as_json
from erecap.planners.grammar.command_tokens import CommandTokens
from erecap.planners.grammar.filled import FilledTemplates
from erecap.planners.grammar.trie import FAR, Node, Trie

_TOLD, _LEFT, _PLANNED = KEYS
_NEXT = '","'  # between two entries of a list
_END = '"]}'
_FIRST, _LATER = 'a":["', 'a","'  # what stands before the first entry of a list, and before the others


@dataclass(frozen=True)
class _Texts:
    """A choice of texts, each with the state that follows it; `rest`: fewest tokens from here to the turn's end."""

    choices: Mapping[tuple[int, ...], _Entries | None]  # None: the answer is complete

    @cached_property
    def rest(self) -> float:
        return min((len(ids) + (1 if then is None else then.rest) for ids, then in self.choices.items()), default=FAR)


@dataclass(frozen=True)
class _Entries:
    """A choice of names or commands, and the texts that may follow any of them."""

    root: Node
    then: _Texts

    @cached_property
    def rest(self) -> float:
        return self.root.shortest + self.then.rest


class AnswerGrammar:
    """Makes `AllowedTokens` for one model's answers; tokens and tries are kept between calls.

    Args:
        tokenizer: a fast Hugging Face tokenizer with a chat template.
        max_steps: most commands of an answer; at least 1.

    Raises:
        ModelError: the tokenizer cannot write plans; see `CommandTokens`.
    """

    def __init__(self, tokenizer: Any, max_steps: int = 5) -> None:
        self.max_steps = max_steps
        self._tokens = CommandTokens(tokenizer)
        self._later = FilledTemplates(partial(self._entries, _LATER))

    def allowed(
        self, facts: Collection[str], contested: Collection[str], situation: Situation, max_new_tokens: int
    ) -> AllowedTokens | None:
        """The tokens that may be written now.

        Args:
            facts: names allowed under `observations`.
            contested: names allowed under `conflicts`.

        Returns:
            A function from the ids generated so far to the ids allowed next, never empty; or None if no answer fits
            into `max_new_tokens` with the end of the turn.
        """
        first = Trie(self._entries(_FIRST, situation.skills).values())
        later = self._later.trie(situation.templates, situation.entities)
        commands = self._commands(first, later)
        left = self._names(contested, f'"],"{_PLANNED}":["', commands)
        told = self._names(facts, f'"],"{_LEFT}":["', left, f'"],"{_LEFT}":[],"{_PLANNED}":["', commands)
        opening = self._texts(
            "",
            (f'{{"{_TOLD}":["', told),
            (f'{{"{_TOLD}":[],"{_LEFT}":["', left),
            (f'{{"{_TOLD}":[],"{_LEFT}":[],"{_PLANNED}":["', commands),
        )
        return _Allowed(opening, self._tokens.ends, max_new_tokens) if opening.rest <= max_new_tokens else None

    def _commands(self, first: Trie, later: Trie) -> _Entries:
        """The list of commands, built from its end."""
        state = _Entries(later.root, self._texts("a", (_END, None)))
        for number in range(self.max_steps - 1, 0, -1):
            trie = first if number == 1 else later
            state = _Entries(trie.root, self._texts("a", (_NEXT, state), (_END, None)))
        return _Entries(first.root, state.then)

    def _names(
        self, names: Collection[str], end: str, then: _Entries | None, skip: str = "", over: _Entries | None = None
    ) -> _Entries | None:
        """A list of names.

        Args:
            end: text that ends it before the state `then`; None: there is no such state.
            skip: text that ends it before the state `over`, with an empty list in between; "": none.
        """
        ends = [(text, state) for text, state in ((end, then), (skip, over)) if text and state is not None]
        firsts, laters = (Trie(self._entries(before, names).values()) for before in (_FIRST, _LATER))
        if not names or firsts.root.shortest is FAR:
            return None
        state: _Entries | None = None
        for number in range(min(MOST_NAMES, len(names)), 0, -1):
            more = [(_NEXT, state)] if state is not None else []
            state = _Entries((firsts if number == 1 else laters).root, self._texts("a", *more, *ends))
        return state

    def _entries(self, before: str, names: Any) -> Mapping[str, tuple[int, ...]]:
        """Ids of names as they stand inside JSON, behind the text `before`."""
        return self._tokens.behind(before, [as_json(name)[1:-1] for name in names])

    def _texts(self, before: str, *choices: tuple[str, _Entries | None]) -> _Texts:
        """Texts with the states behind them; without those whose state is missing, unless they end the answer."""
        wanted = {text: state for text, state in choices if state is not None or text == _END}
        spelled = self._tokens.behind(before, wanted) if before else self._tokens.first(wanted)
        return _Texts({ids: wanted[text] for text, ids in spelled.items()})


@dataclass(frozen=True)
class _Allowed:
    """Ids generated so far -> ids allowed next. Depends on its argument alone."""

    opening: _Texts
    ends: frozenset[int]
    max_new_tokens: int

    def __call__(self, generated: Sequence[int]) -> list[int]:
        # Tokens left after the one chosen now; the end of the turn is one of them.
        left = self.max_new_tokens - len(generated) - 1
        texts, begun = self.opening, ()
        entries: _Entries | None = None
        node: Node | None = None
        for token in map(int, generated):
            if entries is not None and node is not None:
                child = node.children.get(token)
                if child is not None:
                    node = child
                    continue
                texts, begun, entries, node = entries.then, (), None, None
            begun = (*begun, token)
            if begun in texts.choices:
                entries = texts.choices[begun]
                if entries is None:
                    return sorted(self.ends)
                node = entries.root
        if entries is None or node is None:
            return _continued(texts, begun, left) or sorted(self.ends)
        after = entries.then
        allowed = [token for token, child in node.children.items() if child.shortest + after.rest <= left]
        return allowed + (_continued(after, (), left) if node.terminal else [])


def _continued(texts: _Texts, begun: tuple[int, ...], left: int) -> list[int]:
    """The next ids of the texts that begin so, as far as the answer can then be completed with `left` more tokens."""
    found = {}
    for ids, then in texts.choices.items():
        if len(ids) > len(begun) and ids[: len(begun)] == begun:
            rest = len(ids) - len(begun) - 1 + (1 if then is None else then.rest)
            if rest <= left:
                found[ids[len(begun)]] = None
    return list(found)
