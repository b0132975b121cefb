"""Double DQN, and the contextual bandit with the same network: values of actions from the state.

A prompt is nearly a bandit step: its action changes the next state little. Then bootstrapping on the next state adds
about the same number to all values. So both exist, and a report shows both.

Source: van Hasselt, Guez, Silver: Deep reinforcement learning with double Q-learning (arXiv:1509.06461).
"""

from __future__ import annotations

import copy
import random
from collections import deque
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from erecap.scheduling.controllers import Choice, LearnerSettings, Method

DECAY = 0.5  # share of the training in which exploration falls


class _Step(NamedTuple):
    state: torch.Tensor  # (features,)
    action: int
    reward: float
    following: torch.Tensor | None  # the next state; None: the episode ended


class NetworkController:
    """A network `states -> 128 -> 128 -> actions` of action values, learned from replayed steps.

    Args:
        states, actions: numbers of features and actions.
        bandit: the value of an action is its reward alone (gamma 0).
    """

    def __init__(self, states: int, actions: int, settings: LearnerSettings, *, bandit: bool = False) -> None:
        self.method: Method = "bandit" if bandit else "dqn"
        self._settings, self._actions = settings, actions
        self._gamma = 0.0 if bandit else settings.gamma
        self._network = _network(states, settings.hidden, actions, settings.seed)
        self._target = copy.deepcopy(self._network)
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=settings.lr)
        self._replay: deque[_Step] = deque(maxlen=settings.replay)
        self._draw = random.Random(settings.seed)
        self._updates = 0
        self.epsilon = settings.epsilon  # share of random actions while it explores
        self.begin()

    def begin(self) -> None:
        self._state: torch.Tensor | None = None
        self._taken: tuple[torch.Tensor, int, float] | None = None  # rewarded, and what follows is not known yet
        self._action: int | None = None

    def observe(self, state: np.ndarray) -> None:
        self._state = torch.from_numpy(np.asarray(state, np.float32))
        if self._taken is not None:
            self._add(_Step(*self._taken, self._state))
            self._taken = None

    def decide(self, explore: bool = False) -> Choice:
        assert self._state is not None, "a state is observed first"
        with torch.inference_mode():
            values = self._network(self._state)
        best = int(values.argmax())
        action, drawn = best, False
        if explore and self._draw.random() < self.epsilon:
            action, drawn = self._draw.randrange(self._actions), True
        chance = self.epsilon / self._actions if explore else 0.0
        self._action = action
        return Choice(action, tuple(values.tolist()), chance + (1 - self.epsilon * explore) * (action == best), drawn)

    def learn(self, reward: float) -> None:
        assert self._state is not None and self._action is not None, "a decision comes first"
        self._taken = (self._state, self._action, reward)
        if self._gamma == 0.0:  # nothing of what follows counts
            self._add(_Step(*self._taken, None))
            self._taken = None

    def end(self) -> None:
        if self._taken is not None:
            self._add(_Step(*self._taken, None))
        self.begin()

    def progress(self, share: float) -> None:
        settings = self._settings
        fallen = min(1.0, share / DECAY)
        self.epsilon = settings.epsilon + fallen * (settings.least_epsilon - settings.epsilon)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._network.state_dict().items()}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        check_tensors(self._network.state_dict(), tensors)
        self._network.load_state_dict(tensors)
        self._target.load_state_dict(tensors)

    def _add(self, step: _Step) -> None:
        self._replay.append(step)
        if len(self._replay) >= self._settings.batch:
            self._update(self._draw.sample(self._replay, self._settings.batch))

    def _update(self, steps: list[_Step]) -> None:
        states = torch.stack([step.state for step in steps])
        actions = torch.tensor([step.action for step in steps])
        wanted = torch.tensor([step.reward for step in steps], dtype=torch.float32)
        going_on = [number for number, step in enumerate(steps) if step.following is not None]
        if going_on:
            following = torch.stack([steps[number].following for number in going_on])  # type: ignore[misc]
            with torch.no_grad():
                # The network chooses, the target network values: what one overrates, the other need not.
                best = self._network(following).argmax(1, keepdim=True)
                wanted[going_on] += self._gamma * self._target(following).gather(1, best)[:, 0]
        found = self._network(states).gather(1, actions[:, None])[:, 0]
        loss = nn.functional.smooth_l1_loss(found, wanted)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._updates += 1
        if self._updates % self._settings.sync == 0:
            self._target.load_state_dict(self._network.state_dict())


def _network(states: int, hidden: int, actions: int, seed: int) -> nn.Sequential:
    """The network, with weights that depend on the seed alone; torch's own random numbers go on as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(states, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, actions)
        )


def check_tensors(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    """Refuse tensors of other names, shapes or kinds of numbers, or with values that are not finite.

    Raises:
        ValueError: the first that is wrong.
    """
    names = sorted(expected.keys() ^ found.keys())
    if names:
        raise ValueError(f"tensor {names[0]} is {'missing' if names[0] in expected else 'not known'}")
    for name, tensor in found.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            got = f"{list(tensor.shape)} {tensor.dtype}"
            raise ValueError(f"tensor {name} is {got}, the controller's is {list(wanted.shape)} {wanted.dtype}")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"tensor {name} holds values that are not finite")
