"""The order of stage sets to try: regular grids first, then neighbours of the best. No torch in here."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from erecap.tuning.candidates import Stages, grids, neighbours, published, spread, words
from erecap.tuning.front import Candidate, eligible, ranked

BEAM = 3  # best sets whose neighbours are tried

Evaluate = Callable[[Stages, str], Candidate]


@dataclass
class Search:
    """A search that does the same whenever the same is asked and answered.

    Half of the budget goes to regular grids, evenly spaced by predicted speed-up, the published one first. The
    other half climbs: of the three best sets so far one neighbour each is tried (a stage moved, dropped or added),
    in an order drawn from the seed, and so on from the then best three. A neighbour is passed over
    if it could not beat the best score even if it changed no token at all; and no set is tried that differs in nothing
    but stages which find nothing left to drop.

    Args:
        layers: decoder layers of the model.
        evaluate: answers for a stage set and the words on where it comes from.
        speed_up: speed-up of a stage set, which is known beforehand.
        counts: what each layer reads under a stage set; one of several sets with the same is tried.
        budget: stage sets to try at most.
        seed: of the order of neighbours.
        least_agreement: sets that agree less are no ground to climb from, while others are there.
        allowed: layers that may drop tokens; None: all from 1 on.
    """

    layers: int
    evaluate: Evaluate
    speed_up: Callable[[Stages], float]
    counts: Callable[[Stages], Hashable]
    budget: int
    seed: int = 0
    least_agreement: float = 0.0
    allowed: Sequence[int] | None = None
    found: dict[Stages, Candidate] = field(default_factory=dict)  # in order of trial
    hopeless: set[Stages] = field(default_factory=set)  # passed over, as too slow
    _read: set[Hashable] = field(default_factory=set, init=False)  # counts of what was tried

    def run(self) -> dict[Stages, Candidate]:
        """Try stage sets until the budget is used up or none left could win; return the result."""
        self._try_grids()
        choose = random.Random(self.seed)
        while len(self.found) < self.budget:
            before = len(self.found)
            for parent in self._beam():
                if len(self.found) >= self.budget:
                    break
                self._try_neighbour(parent, choose)
            if len(self.found) == before:
                break  # the best three have no neighbour that is new and could win
        return self.found

    def _try(self, stages: Stages, origin: str) -> None:
        self.found[stages] = self.evaluate(stages, origin)
        self._read.add(self.counts(stages))

    def _try_grids(self) -> None:
        sets = grids(self.layers, self.allowed)
        first = published(self.layers)
        if first in sets:
            sets.remove(first)
            self._try(first, "published")
        different: dict[Hashable, Stages] = {}
        for stages in sorted(sets, key=lambda stages: (len(stages), stages)):
            if self.counts(stages) not in self._read:
                different.setdefault(self.counts(stages), stages)
        share = max(1, self.budget // 2) - len(self.found)
        for stages in spread(list(different.values()), self.speed_up, share):
            self._try(stages, "grid")

    def _beam(self) -> list[Candidate]:
        good = eligible(self.found.values(), self.least_agreement)
        if not good:
            # Nothing agrees enough yet: climb from what agrees most.
            good = sorted(ranked(self.found.values()), key=lambda c: -c.agreement)
        return good[:BEAM]

    def _try_neighbour(self, parent: Candidate, choose: random.Random) -> None:
        good = eligible(self.found.values(), self.least_agreement)
        best = good[0].score if good else 0.0
        around = neighbours(parent.stages, self.layers, self.allowed)
        order = sorted(around)
        choose.shuffle(order)
        for stages in order:
            if self.counts(stages) in self._read:
                continue
            if self.speed_up(stages) <= best:
                self.hopeless.add(stages)
                continue
            self._try(stages, f"{around[stages]} in {words(parent.stages)}")
            return
