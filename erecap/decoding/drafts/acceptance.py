"""Share of drafted tokens that turn out right, by how well they are supported; learned while decoding.

A token is supported by the length of the run that it followed before, by how often it did, and by how often something
else did. Tokens with the same kind of support are counted together.
"""

from __future__ import annotations

import copy

Support = tuple[int, int]  # kind of length, kind of frequency

LENGTHS = (2, 3, 4, 5, 7, 11, 17)  # least lengths of the second kind of run, the third, ...
# Before anything was counted: a row a kind of frequency (followed always, once; 2 or 3 times; more often; in three
# quarters of the cases; in half; in fewer), a column a kind of length. Less than the shares that were counted of 2,300
# plan tokens: the best of several candidates is the one that was overrated most.
FIRST = (
    (0.27, 0.45, 0.54, 0.63, 0.72, 0.77, 0.85, 0.90),
    (0.40, 0.55, 0.65, 0.75, 0.80, 0.85, 0.92, 0.97),
    (0.60, 0.75, 0.85, 0.90, 0.93, 0.95, 0.97, 0.98),
    (0.50, 0.60, 0.65, 0.68, 0.70, 0.72, 0.75, 0.78),
    (0.30, 0.40, 0.42, 0.44, 0.46, 0.48, 0.50, 0.50),
    (0.15, 0.20, 0.22, 0.25, 0.25, 0.25, 0.28, 0.30),
)
WEIGHT = 4.0  # tokens that those shares count as
MOST = 128.0  # tokens counted of one kind; then older ones count half


def support(length: int, times: int, total: int) -> Support:
    """The support of a token that followed a run of `length` tokens `times` of the `total` times it was followed."""
    size = sum(length >= least for least in LENGTHS)
    if times == total:
        return size, min(2, times // 2)
    return size, 3 if 4 * times >= 3 * total else 4 if 2 * times >= total else 5


class Acceptance:
    """Counts of right and wrong tokens, and the time that tokens have taken."""

    def __init__(self) -> None:
        self._right = [[WEIGHT * share for share in row] for row in FIRST]
        self._all = [[WEIGHT] * len(row) for row in FIRST]
        self._cost, self._tokens = 0.0, 0.0

    def copy(self) -> Acceptance:
        """An independent copy."""
        return copy.deepcopy(self)

    def share(self, kind: Support) -> float:
        """The share of tokens with this support that were right."""
        size, often = kind
        return self._right[often][size] / self._all[often][size]

    def learn(self, kind: Support, right: bool) -> None:
        """Count a token that was verified."""
        size, often = kind
        if self._all[often][size] >= MOST:
            self._all[often][size] /= 2
            self._right[often][size] /= 2
        self._all[often][size] += 1
        self._right[often][size] += right

    def passed(self, cost: float, tokens: int) -> None:
        """Count a pass of decoding, in units of a pass of one token."""
        if self._tokens >= MOST:
            self._cost /= 2
            self._tokens /= 2
        self._cost += cost
        self._tokens += tokens

    @property
    def worth(self) -> float:
        """Cost of a token of late, in units of a pass of one token; at most 1, the cost of a token undrafted."""
        return min(1.0, (self._cost + WEIGHT) / (self._tokens + WEIGHT))
