"""Controllers behind one interface: observe a state, decide on an action, learn from the reward.

controller = make_controller("dqn", states=12, actions=5, settings=LearnerSettings(seed=1))
controller.begin()
controller.observe(row)
choice = controller.decide(explore=True)
controller.learn(0.8)
controller.end()
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np

if TYPE_CHECKING:
    import torch

Method = Literal["dqn", "bandit", "linucb"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class LearnerSettings:
    """Settings of learning. The defaults are those published for CASRAP's controller.

    Raises:
        ValueError: a setting out of range.
    """

    hidden: int = 128  # units of each of the two hidden layers
    replay: int = 10_000  # newest steps that are kept
    batch: int = 32  # steps of one update
    sync: int = 200  # updates after which the target network becomes the network
    epsilon: float = 1.0  # share of random actions at first ...
    least_epsilon: float = 0.1  # ... and from the middle of the training on
    gamma: float = 0.95  # discount of the next call's value; the bandits have none
    lr: float = 1e-3  # of Adam
    alpha: float = 1.0  # width of LinUCB's confidence
    ridge: float = 1.0  # of LinUCB's regressions
    seed: int = 0

    def __post_init__(self) -> None:
        checks = {
            "hidden": 1 <= self.hidden <= 4096,
            "replay": self.replay >= self.batch,
            "batch": self.batch >= 1,
            "sync": self.sync >= 1,
            "epsilon": 0 <= self.least_epsilon <= self.epsilon <= 1,
            "gamma": 0 <= self.gamma < 1,
            "lr": 0 < self.lr < math.inf,
            "alpha": 0 <= self.alpha < math.inf,
            "ridge": 0 < self.ridge < math.inf,
        }
        wrong = next((name for name, fine in checks.items() if not fine), None)
        if wrong is not None:
            raise ValueError(f"learner: {wrong} is out of range, got {getattr(self, wrong)}")


@dataclass(frozen=True)
class Choice:
    """The action of one decision."""

    action: int
    values: tuple[float, ...] = ()  # predicted value of each action; empty where nothing is predicted
    probability: float = 1.0  # with which the controller takes this action in this state
    explored: bool = False  # drawn at random
    outside: str | None = None  # the feature for which nothing was learned, so that the best fixed action is taken


class Controller(Protocol):
    """Decides call by call; a learning one takes a reward after each decision."""

    def begin(self) -> None:
        """An episode begins."""

    def observe(self, state: np.ndarray) -> None:
        """The normalised features `(features,)` of the state that is decided next."""

    def decide(self, explore: bool = False) -> Choice:
        """The action in the observed state; greedy unless it is told to explore, as it is in training alone."""
        ...

    def learn(self, reward: float) -> None:
        """The reward of the last decision."""

    def end(self) -> None:
        """The episode ends: nothing follows its last decision."""


class Learner(Controller, Protocol):
    """A controller that is trained, saved and loaded."""

    method: Method

    def progress(self, share: float) -> None:
        """Note which share of the training is done, for exploration."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """The learned tensors, by name."""
        ...

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what another one has learned. Raises ValueError where shapes or names differ."""


class _Unlearned:
    """A controller that learns nothing."""

    def begin(self) -> None:
        pass

    def observe(self, state: np.ndarray) -> None:
        pass

    def learn(self, reward: float) -> None:
        pass

    def end(self) -> None:
        pass


class FixedController(_Unlearned):
    """Always the same action: a forced one, and the baseline to beat."""

    def __init__(self, action: int) -> None:
        self.action = action

    def decide(self, explore: bool = False) -> Choice:
        return Choice(self.action)


class RandomController(_Unlearned):
    """Each action equally often, by a seed."""

    def __init__(self, actions: int, seed: int = 0) -> None:
        self._actions, self._draw = actions, random.Random(seed)

    def decide(self, explore: bool = False) -> Choice:
        return Choice(self._draw.randrange(self._actions), (), 1 / self._actions, True)


def make_controller(method: str, states: int, actions: int, settings: LearnerSettings) -> Learner:
    """A learner that has learned nothing yet.

    Args:
        method: `dqn`, `bandit` (the same network, without a value of what follows) or `linucb`.
        states, actions: numbers of features and actions.

    Raises:
        ValueError: no method of that name.
    """
    if method not in METHODS:
        raise ValueError(f"method: got {method!r}; allowed: {', '.join(METHODS)}")
    if method == "linucb":
        from erecap.scheduling.linucb import LinUCB

        return LinUCB(states, actions, settings)
    from erecap.scheduling.dqn import NetworkController

    return NetworkController(states, actions, settings, bandit=method == "bandit")
