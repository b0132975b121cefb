"""Ways to draft as others have published them, for comparison.

- Prompt lookup (Saxena, 2023) as transformers has it, `prompt_lookup_num_tokens`: the first place where the last two
  tokens stand, else the last one, is copied from.
- Suffix decoding (Oliaro et al., 2411.04975) as vLLM offers it, `suffix`: one tree over the prompt and what was
  generated, and one over earlier outputs. Of each matching end of the text the likeliest continuation is followed; it
  has at most as many tokens as the end times a factor, and ends where its probability falls below a bound. The one with
  the greatest sum of probabilities is proposed. Counts come from automata here, which have the same as trees.
"""

from __future__ import annotations

from collections.abc import Sequence

from erecap.decoding.drafts.automaton import ROOT, SuffixAutomaton
from erecap.decoding.drafts.texts import ConversationText, DraftMemory

LOOKUP_TOKENS, LOOKUP_GRAM = 10, 2  # transformers' defaults
DEPTH = 24  # of vLLM's trees by default, which is also the longest proposal
FACTOR = 1.0  # proposed tokens a matching token
LEAST_PROBABILITY = 0.1


class PromptLookupDraft:
    """Prompt lookup.

    Args:
        prompt: all ids before the answer.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self._ids, self._prompt = list(prompt), len(prompt)
        self._first: list[dict[tuple[int, ...], int]] = [{} for _ in range(LOOKUP_GRAM)]  # where each run ends first
        self._known = 0

    def propose(self, generated: Sequence[int], pending: int = 1) -> list[int]:
        """Tokens that may follow `generated`; empty where the last token stands nowhere else."""
        self._ids += generated[len(self._ids) - self._prompt :]
        ids = self._ids
        for end in range(self._known + 1, len(ids)):  # a run at the very end is followed by nothing
            for size, first in enumerate(self._first, 1):
                if size <= end:
                    first.setdefault(tuple(ids[end - size : end]), end)
        self._known = max(self._known, len(ids) - 1)
        for size in range(min(LOOKUP_GRAM, len(ids) - 1), 0, -1):
            found = self._first[size - 1].get(tuple(ids[-size:]))
            if found is not None:
                return ids[found : found + LOOKUP_TOKENS]
        return []

    def learn(self, proposed: int, accepted: int) -> None:
        """Nothing is learned."""


class SuffixDraft:
    """Suffix decoding.

    Args:
        text: the conversation up to the answer; tokens of the answer are added to it.
        memory: earlier outputs; None: there are none.
    """

    def __init__(self, text: ConversationText, memory: DraftMemory | None = None) -> None:
        self._text, self._memory, self._added = text, memory, 0

    def propose(self, generated: Sequence[int], pending: int = 1) -> list[int]:
        """Tokens that may follow `generated`; empty where no end of it was followed by anything likely."""
        self._text.add(generated[self._added :])
        self._added = len(generated)
        own = self._text.automaton
        best = self._best(own, *own.repeated())
        if self._memory is not None:
            with self._memory.searched() as others:
                # The conversation's own tree comes first among equals.
                best = max(best, self._best(others, *others.match(self._text.end)), key=lambda found: found[0])
        return best[1]

    def learn(self, proposed: int, accepted: int) -> None:
        """Nothing is learned."""

    @staticmethod
    def _best(automaton: SuffixAutomaton, state: int, size: int) -> tuple[float, list[int]]:
        best: tuple[float, list[int]] = (0.0, [])
        while state > ROOT:
            # All ends of a state are followed alike, so the longest, which may propose most, has the greatest sum.
            longest = min(DEPTH, int(FACTOR * min(size, DEPTH)))
            tokens: list[int] = []
            probability, score, at = 1.0, 0.0, state
            while len(tokens) < longest and (found := automaton.likeliest(at)) is not None:
                probability *= found[2] / automaton.count(at)
                if probability < LEAST_PROBABILITY:
                    break
                tokens.append(found[0])
                score, at = score + probability, found[1]
            if score > best[0]:
                best = score, tokens
            state, size = automaton.shorter(state)
        return best
