"""Number of tokens to draft with the first layers before all layers verify them, from what was accepted so far."""

from __future__ import annotations

GROWTH = 0.12  # a pass of one token more costs so much of a pass of one (measured on CPUs; less on accelerators)
MEMORY = 0.9  # weight of the past in the running means
PROBE = 8  # where drafting does not pay, one token in so many is drafted all the same, to see whether it does now


class DraftLength:
    """Chooses the number of drafts that gives most tokens for the time that layers take.

    Args:
        most: drafts at most.
        depth: share of the layers that drafts are expected to run, until some were seen.
    """

    def __init__(self, most: int, depth: float) -> None:
        self.most = most
        self.accepted, self.depth = 0.8, depth  # running means: share of drafts accepted, share of layers that they ran
        self._calls = 0

    def next(self) -> int:
        """Drafts to make now; 0: none."""
        best = max(range(self.most + 1), key=self.gain)
        if best:
            return best
        self._calls += 1
        return 1 if self._calls % PROBE == 0 else 0

    def gain(self, drafts: int) -> float:
        """Tokens of `drafts` drafts and the pass that verifies them, for the time of one token by all layers."""
        share = self.accepted
        tokens = sum(share**n for n in range(drafts + 1))
        time = (drafts + 1) * self.depth + (1 - self.depth) * (1 + GROWTH * drafts)
        return tokens / time if drafts else 1.0

    def learn(self, drafted: int, accepted: int, depth: float) -> None:
        """Record that of `drafted` tokens, which ran a share `depth` of the layers, the first `accepted` stayed."""
        for right in [True] * accepted + [False] * (accepted < drafted):
            self.accepted = MEMORY * self.accepted + (1 - MEMORY) * right
        self.depth = MEMORY * self.depth + (1 - MEMORY) * depth

    def copy(self) -> DraftLength:
        """An independent one that has seen the same."""
        twin = DraftLength(self.most, self.depth)
        twin.accepted, twin._calls = self.accepted, self._calls
        return twin
