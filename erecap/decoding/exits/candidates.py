"""Candidates for the next token, and the twelve features by which a predictor judges them between layers.

SpecEE (Xu et al., ISCA 2025, 2504.08850) lets a draft model name four candidates. Here they are tokens that followed
the newest ones before; where there are fewer, those of a small vocabulary with the highest logits. Under a grammar they
are the allowed tokens with the highest logits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

CANDIDATES = 4
FEATURES = 3 * CANDIDATES
LOOK_BACK = 1024  # newest tokens that are searched for what followed
LONGEST_MATCH = 4
FAR_BELOW = 20.0  # logits of the places that a grammar leaves empty are so far below the lowest one


@dataclass(frozen=True)
class Slice:
    """Tokens whose rows of the head are asked for between layers."""

    ids: torch.Tensor  # (n,) int64
    first: int = 0  # so many of them are candidates in any case, the rest by their logits

    def best(self, logits: torch.Tensor) -> torch.Tensor:
        """Places `(m,)` in `ids` of the candidates, at most four, those with the highest logits `(n,)` first."""
        own = min(self.first, CANDIDATES)
        rest = logits[self.first :]
        more = rest.topk(min(CANDIDATES - own, rest.shape[0])).indices + self.first
        places = torch.cat([torch.arange(own, device=logits.device), more]) if own else more
        return places[logits[places].argsort(descending=True)]


def features(logits: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
    """The features `(12,)` of candidates: logits, probabilities among them, and their change since the last look.

    Args:
        logits: `(m,)`, of at most four candidates, falling.
        before: `(m,)`, those of the same candidates at the last look; None: this is the first.
    """
    missing = CANDIDATES - logits.shape[0]
    if missing:
        logits = torch.cat([logits, (logits[-1:] - FAR_BELOW).expand(missing)])
        before = None if before is None else torch.cat([before, (before.min() - FAR_BELOW).expand(missing)])
    probabilities = logits.softmax(0)
    change = torch.zeros_like(logits) if before is None else probabilities - before.softmax(0)
    return torch.cat([logits, probabilities, change])


class Followers:
    """Tokens that followed the newest ones before, those after the longest and newest match first.

    Args:
        past: tokens read before; the newest `LOOK_BACK` of them are searched.
    """

    def __init__(self, past: Sequence[int]) -> None:
        self._tokens = list(past[-LOOK_BACK:])
        self._places: dict[int, list[int]] = defaultdict(list)
        for place, token in enumerate(self._tokens):
            self._places[token].append(place)
        self._own = 0  # tokens of the answer among them

    def after(self, generated: Sequence[int], most: int = CANDIDATES) -> list[int]:
        """At most `most` different tokens that followed the end of `generated`, or of what was read before it."""
        self._follow(generated)
        tokens = self._tokens
        if not tokens:
            return []
        matches = []
        for end in self._places[tokens[-1]][:-1]:
            size = 1
            while size < LONGEST_MATCH and size <= end and tokens[end - size] == tokens[-1 - size]:
                size += 1
            matches.append((size, end))
        matches.sort(reverse=True)
        return list(dict.fromkeys(tokens[end + 1] for _, end in matches))[:most]

    def _follow(self, generated: Sequence[int]) -> None:
        """Make `generated` the end of the tokens; it may differ from the last one at its end."""
        begin = len(self._tokens) - self._own
        same = 0
        while same < min(self._own, len(generated)) and self._tokens[begin + same] == generated[same]:
            same += 1
        while len(self._tokens) > begin + same:
            self._places[self._tokens.pop()].pop()
        for token in generated[same:]:
            self._places[token].append(len(self._tokens))
            self._tokens.append(token)
        self._own = len(generated)
