"""Fit of an output projection to what is left of its inputs: a factor, a factor for each output, or least squares."""

from __future__ import annotations

import torch


class Fit:
    """Sums over calibration tokens of inputs that are left and outputs that are wanted.

    Args:
        inputs: number of inputs that are left.
        outputs: number of outputs.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        # Some accelerators (mps) have no float64.
        size = {"dtype": torch.float64, "device": device if device.type in ("cpu", "cuda") else "cpu"}
        self._inputs = torch.zeros(inputs, inputs, **size)  # X' X
        self._both = torch.zeros(outputs, inputs, **size)  # Y' X
        self._outputs = torch.zeros(outputs, **size)  # diagonal of Y' Y

    def add(self, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Note rows of inputs `(tokens, inputs)` and the outputs that they should give `(tokens, outputs)`."""
        inputs, outputs = inputs.float(), outputs.float()
        self._inputs += (inputs.T @ inputs).to(self._inputs)
        self._both += (outputs.T @ inputs).to(self._both)
        self._outputs += outputs.square().sum(0).to(self._outputs)

    def missed(self, weight: torch.Tensor) -> float:
        """Share of the wanted outputs that `weight` `(outputs, inputs)` misses: its square error over their squares."""
        weight = weight.to(self._both)
        squares = self._outputs - 2 * (weight * self._both).sum(1) + ((weight @ self._inputs) * weight).sum(1)
        return float(squares.sum() / self._outputs.sum().clamp_min(torch.finfo(torch.float32).tiny))

    def solve(self, weight: torch.Tensor, kind: str, damping: float) -> torch.Tensor:
        """The weight that is fitted, `(outputs, inputs)`.

        Least squares starts from the weight with its factors, and damping holds it there. So on these tokens its error
        is never above theirs, nor theirs above that of one factor.

        Args:
            weight: before the fit.
            kind: `gain`, `channel-gain` or `least-squares`.
            damping: over the mean square of the inputs.
        """
        start = weight.to(self._both)
        dots = (start * self._both).sum(1)
        squares = ((start @ self._inputs) * start).sum(1)
        if kind == "gain":
            return (start * _ratio(dots.sum(), squares.sum())).to(weight)
        start = start * _ratio(dots, squares).unsqueeze(1)
        if kind == "channel-gain":
            return start.to(weight)
        held = self._inputs.clone()
        held.diagonal().add_(damping * held.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny))
        rest = self._both - start @ self._inputs
        change = torch.cholesky_solve(rest.T, torch.linalg.cholesky(held)).T
        return (start + change).to(weight)


def _ratio(dots: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """The best factor; 1 where the output is zero anyhow."""
    return torch.where(squares > 0, dots / squares.clamp_min(torch.finfo(squares.dtype).tiny), torch.ones_like(dots))
