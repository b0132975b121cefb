"""Estimates of a policy's mean reward from decisions that another policy has logged. numpy only.

Source: Dudík, Langford, Li: Doubly robust policy evaluation and learning (arXiv:1103.4601).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Logged:
    """One decision in a log."""

    action: int
    reward: float
    probability: float  # with which the logging policy took this action in this state


@dataclass(frozen=True)
class OffPolicyEstimate:
    """Estimates of the mean reward of a policy."""

    n: int  # logged decisions
    matched: int  # of these, those in which the policy takes the logged action
    direct: float  # by the predicted rewards alone
    ips: float  # inverse propensity: logged rewards of matched decisions over their probability
    snips: float | None  # the same over the sum of the weights; None where nothing matched
    doubly_robust: float  # predicted, corrected by the logged rewards


def off_policy(logged: Sequence[Logged], chosen: Sequence[int], predicted: np.ndarray) -> OffPolicyEstimate:
    """The estimates for a deterministic policy.

    Args:
        logged: decisions of the logging policy.
        chosen: the action of the policy in each of their states.
        predicted: rewards `(n, actions)` that a model predicts in these states.

    Raises:
        ValueError: nothing logged, lengths that differ, or a probability outside of (0, 1].
    """
    n = len(logged)
    if not n or len(chosen) != n or len(predicted) != n:
        raise ValueError(f"got {n} logged decisions, {len(chosen)} choices and {len(predicted)} predictions")
    wrong = next((one.probability for one in logged if not 0 < one.probability <= 1), None)
    if wrong is not None:
        raise ValueError(f"a logged probability must be above 0 and at most 1, got {wrong}")
    rows = np.arange(n)
    actions, wanted = np.array([one.action for one in logged]), np.asarray(chosen)
    rewards = np.array([one.reward for one in logged])
    weights = np.where(actions == wanted, 1.0 / np.array([one.probability for one in logged]), 0.0)
    guessed = predicted[rows, wanted]
    total = float(weights.sum())
    return OffPolicyEstimate(
        n=n,
        matched=int((actions == wanted).sum()),
        direct=float(guessed.mean()),
        ips=float((weights * rewards).mean()),
        snips=float((weights * rewards).sum() / total) if total else None,
        doubly_robust=float((guessed + weights * (rewards - predicted[rows, actions])).mean()),
    )
