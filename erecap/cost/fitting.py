"""Least squares with coefficients that are never negative, and errors relative to the measured values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np


def fit_non_negative(features: Sequence[Sequence[float]], measured: Sequence[float]) -> tuple[float, ...]:
    """Coefficients `w >= 0` that minimise the sum of `((features @ w - measured) / measured)**2`.

    A time cannot fall when there is more to do, so no coefficient may be negative: without that, noise makes some
    negative, and predictions outside of the measured sizes turn absurd. The solution is exact: at the optimum the
    positive coefficients solve the unconstrained problem on their own columns, and with few columns every choice of
    them can be tried (255 for eight columns).

    Args:
        features: one row a measurement, one column a coefficient (at most 8).
        measured: positive, one a row.

    Raises:
        ValueError: sizes that do not agree, no rows, more than 8 columns, or a measurement that is not positive.
    """
    matrix, target = np.asarray(features, dtype=float), np.asarray(measured, dtype=float)
    if matrix.ndim != 2 or not len(matrix) or matrix.shape[0] != target.shape[0] or matrix.shape[1] > 8:
        raise ValueError(f"need one row of 1 to 8 features a measurement, got {matrix.shape} and {target.shape}")
    if not np.isfinite(target).all() or not (target > 0).all() or not np.isfinite(matrix).all():
        raise ValueError("every measurement must be finite and above 0, every feature finite")
    weighted = matrix / target[:, None]
    # Columns differ by powers of ten (one call against thousands of pairs of tokens).
    scale = np.linalg.norm(weighted, axis=0)
    scale[scale == 0] = 1.0
    weighted = weighted / scale
    best, least = np.zeros(matrix.shape[1]), float(len(target))  # all coefficients 0
    for size in range(1, matrix.shape[1] + 1):
        for chosen in itertools.combinations(range(matrix.shape[1]), size):
            columns = list(chosen)
            part = np.linalg.lstsq(weighted[:, columns], np.ones(len(target)), rcond=None)[0]
            if (part < 0).any():
                continue
            loss = float(((weighted[:, columns] @ part - 1.0) ** 2).sum())
            # Fewer columns win where the difference is rounding.
            if loss < least * (1 - 1e-9) - 1e-15:
                best, least = np.zeros(matrix.shape[1]), loss
                best[columns] = part
    return tuple(float(value) for value in best / scale)


def relative_errors(predicted: Sequence[float], measured: Sequence[float]) -> list[float]:
    """`|predicted - measured| / measured`, one a pair."""
    return [abs(guess - truth) / truth for guess, truth in zip(predicted, measured, strict=True)]
