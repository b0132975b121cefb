"""LinUCB: one ridge regression of rewards for each action, and a bonus for what is little known.

Source: Li, Chu, Langford, Schapire: A contextual-bandit approach to personalized news article recommendation
(arXiv:1003.0146).
"""

from __future__ import annotations

import numpy as np
import torch

from erecap.scheduling.controllers import Choice, LearnerSettings, Method
from erecap.scheduling.dqn import check_tensors


class LinUCB:
    """A contextual bandit that is linear in the features and in a constant.

    Args:
        states, actions: numbers of features and actions.
    """

    method: Method = "linucb"

    def __init__(self, states: int, actions: int, settings: LearnerSettings) -> None:
        size = states + 1
        self._alpha, self._actions = settings.alpha, actions
        self._inverse = torch.eye(size, dtype=torch.float64).repeat(actions, 1, 1) / settings.ridge
        self._sums = torch.zeros(actions, size, dtype=torch.float64)
        self.begin()

    def begin(self) -> None:
        self._state: torch.Tensor | None = None
        self._action: int | None = None

    def observe(self, state: np.ndarray) -> None:
        row = np.concatenate([np.asarray(state, np.float64), [1.0]])
        self._state = torch.from_numpy(row)

    def decide(self, explore: bool = False) -> Choice:
        assert self._state is not None, "a state is observed first"
        spread = self._inverse @ self._state  # (actions, size)
        values = (spread * self._sums).sum(1)
        bonus = self._alpha * (spread @ self._state).clamp_min(0.0).sqrt() if explore else 0.0
        self._action = int((values + bonus).argmax())
        return Choice(self._action, tuple(values.tolist()))

    def learn(self, reward: float) -> None:
        assert self._state is not None and self._action is not None, "a decision comes first"
        # The inverse of a sum of outer products, kept up to date (Sherman and Morrison).
        inverse = self._inverse[self._action]
        spread = inverse @ self._state
        self._inverse[self._action] = inverse - torch.outer(spread, spread) / (1.0 + self._state @ spread)
        self._sums[self._action] += reward * self._state

    def end(self) -> None:
        self.begin()

    def progress(self, share: float) -> None:
        """Its bonus shrinks by itself."""

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"inverse": self._inverse.clone(), "sums": self._sums.clone()}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        check_tensors(self.tensors(), tensors)
        self._inverse, self._sums = tensors["inverse"].clone(), tensors["sums"].clone()
