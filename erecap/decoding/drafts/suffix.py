"""Drafts from suffix automata, as long as verifying them is expected to save time.

What followed the newest tokens before is proposed: most often, or last among equals. Candidates come from the
conversation with the present answer, from texts given for this answer, and from answers in other conversations, each
for the longest runs that are found there and for shorter ones. A candidate's first k tokens are expected to bring

    E(k) = p_1 + p_1 p_2 + ... + p_1 ... p_k

tokens, with the shares of `Acceptance`. Verifying them makes the pass dearer by T(k) - T(0), by the cost of passes. The
candidate and the k with the greatest worth * E(k) - (T(k) - T(0)) are proposed, and none where no value is above 0.
`worth` is what a token has cost of late, never more than a token costs undrafted. So a proposal is never expected to
take longer than plain decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from erecap.cost.model import PACKED
from erecap.decoding.drafts.acceptance import Acceptance, Support, support
from erecap.decoding.drafts.automaton import ROOT, SuffixAutomaton
from erecap.decoding.drafts.costs import PassCost
from erecap.decoding.drafts.texts import SEARCHED, ConversationText, DraftMemory
from erecap.generation import AllowedTokens

LONGEST = PACKED  # tokens of a pass: longer ones are read with other weights, where decoding has packed ones
LEVELS = 2  # runs of one text that are tried, the longest first; with more, more are overrated
Step = tuple[int, Support | None]  # a token, and its support; None: there is no other choice


class AutomatonDraft:
    """Proposals for one answer.

    Args:
        text: the conversation up to the answer; tokens of the answer are added to it.
        stored: tokens stored when the answer begins.
        cost: of a pass, by its tokens and the tokens stored.
        given: texts that the answer may repeat, beside the conversation.
        memory: answers in other conversations; None: there are none.
        acceptance: shares of right tokens, which go on being counted; None: the first ones.
        allowed: the ids allowed after those generated; what is not allowed is not proposed. It is not asked behind an
            end of the answer.
        ends: ids that end an answer.
        tokens: most tokens of the answer; None: no matter how many.
    """

    def __init__(
        self,
        text: ConversationText,
        stored: int,
        cost: PassCost,
        *,
        given: Sequence[Sequence[int]] = (),
        memory: DraftMemory | None = None,
        acceptance: Acceptance | None = None,
        allowed: AllowedTokens | None = None,
        ends: Sequence[int] = (),
        tokens: int | None = None,
    ) -> None:
        self._text, self._memory, self._allowed = text, memory, allowed
        self._ends, self._tokens = frozenset(ends), tokens
        self._stored, self._cost = stored, cost
        self._acceptance = acceptance or Acceptance()
        self._given = SuffixAutomaton() if any(given) else None
        for ids in given:
            if self._given is not None:
                self._given.begin_text()
                self._given.extend(ids)
                self._given.settle()
        self._added = 0  # tokens of the answer in the text
        self._steps: list[Step] = []  # the newest proposal
        self._pending = 1

    def propose(self, generated: Sequence[int], pending: int = 1) -> list[int]:
        """Tokens that may follow `generated`; empty where none are worth verifying.

        Args:
            pending: tokens that the pass reads anyway.
        """
        self._text.add(generated[self._added :])
        self._added, self._pending = len(generated), pending
        room = LONGEST if self._tokens is None else self._tokens - len(generated) - 1
        most = max(0, min(LONGEST - pending, room))
        base = self._ms(0)
        worth = self._acceptance.worth * self._cost(1, self._stored + self._added)
        best, self._steps = 0.0, []
        for steps in self._candidates():
            value, count = self._value(steps[:most], worth, base)
            if value > best:
                best, self._steps = value, steps[:count]
        if self._allowed is not None and self._steps:
            steps = self._as_allowed(self._allowed, generated, most)
            self._steps = steps[: self._value(steps, worth, base)[1]]
        if not self._steps:
            self._passed(0, 0)
        return [token for token, _ in self._steps]

    def learn(self, proposed: int, accepted: int) -> None:
        """Record that of the first `proposed` tokens of the newest proposal the first `accepted` were right."""
        for place, (_, kind) in enumerate(self._steps[: min(proposed, accepted + 1)]):
            if kind is not None:
                self._acceptance.learn(kind, place < accepted)
        self._passed(proposed, accepted)

    def _passed(self, proposed: int, accepted: int) -> None:
        plain = self._cost(1, self._stored + self._added)
        self._acceptance.passed(self._ms(proposed) / plain, accepted + 1)

    def _ms(self, proposed: int) -> float:
        """Cost of a pass with so many proposed tokens."""
        return self._cost(self._pending + proposed, self._stored + self._added)

    def _value(self, steps: Sequence[Step], worth: float, base: float) -> tuple[float, int]:
        """The greatest value of the first steps, and how many of them have it; (0, 0) where none is above 0."""
        best, count, chance, expected = 0.0, 0, 1.0, 0.0
        for number, (_, kind) in enumerate(steps, 1):
            chance *= 1.0 if kind is None else self._acceptance.share(kind)
            expected += chance
            value = worth * expected - (self._ms(number) - base)
            if value > best:
                best, count = value, number
        return best, count

    def _candidates(self) -> Iterator[list[Step]]:
        own = self._text.automaton
        yield from self._runs(own, *own.repeated())
        end = self._text.end
        if self._given is not None:
            yield from self._runs(self._given, *self._given.match(end))
        if self._memory is not None:
            with self._memory.searched() as others:
                found = list(self._runs(others, *others.match(end)))  # nothing is yielded under the lock
            yield from found

    @staticmethod
    def _runs(automaton: SuffixAutomaton, state: int, size: int) -> Iterator[list[Step]]:
        """What followed a run most often, and what followed the next shorter ones."""
        for _ in range(LEVELS):
            if state <= ROOT:
                return
            yield likeliest_steps(automaton, state, size)
            state, size = automaton.shorter(state)

    def _as_allowed(self, allowed: AllowedTokens, generated: Sequence[int], most: int) -> list[Step]:
        """The newest proposal with the tokens that must come, up to the first that may not, or that ends the answer."""
        found: list[Step] = []
        ids, coming = list(generated), iter(self._steps)
        while len(found) < most and (not found or ids[-1] not in self._ends):
            choice = allowed(ids)
            step = next(coming, None)
            if len(choice) == 1:
                if step is not None and step[0] != choice[0]:
                    coming = iter(())
                step = choice[0], None
            if step is None or step[0] not in choice:
                break
            found.append(step)
            ids.append(step[0])
        return found


def likeliest_steps(automaton: SuffixAutomaton, state: int, size: int) -> list[Step]:
    """Up to `LONGEST` tokens, each the one that followed most often after the run and those before it.

    Where nothing followed a run, what followed its longest end that was followed is taken.

    Args:
        state, size: of the run.
    """
    steps: list[Step] = []
    while len(steps) < LONGEST:
        found = automaton.likeliest(state)
        while found is None:
            state, size = automaton.shorter(state)
            if state <= ROOT:
                return steps
            found = automaton.likeliest(state)
        token, state, times, total = found
        steps.append((token, support(size, times, total)))
        size = min(size + 1, SEARCHED)
    return steps
