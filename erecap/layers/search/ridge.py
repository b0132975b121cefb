"""Ridge least squares for a linear layer: the change of its weight that brings its output to a wanted one."""

from __future__ import annotations

import torch

from erecap.errors import ConfigError


class Ridge:
    """Normal equations of `X D' = R`, summed up batch by batch.

    X holds inputs of the layer, R what its output lacks. The solution D is added to the weight. It minimises
    `|X D' - R|^2 + lambda |D|^2`; so the ridge holds the weight near what it was, and lambda = 0 is least squares.

    Args:
        inputs, outputs: widths of the layer.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        self.gram = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)  # X'X
        self.cross = torch.zeros(inputs, outputs, dtype=torch.float64, device=device)  # X'R
        self.missing = torch.zeros(outputs, dtype=torch.float64, device=device)  # squares of R, by output
        self.rows = 0

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> None:
        """Take in `x` `(rows, inputs)` and `residual` `(rows, outputs)`."""
        x, residual = x.float(), residual.float()
        self.gram += (x.T @ x).double()
        self.cross += (x.T @ residual).double()
        self.missing += residual.double().square().sum(0)
        self.rows += len(x)

    def solve(self, damping: float, ratio: float = 1.0) -> torch.Tensor:
        """The change D `(outputs, inputs)` in float64.

        Args:
            damping: lambda over the mean of the diagonal of X'X.
            ratio: share of the outputs that are changed, those that lack most; the rows of the others are zero.

        Raises:
            ConfigError: without damping, these inputs have no single solution.
        """
        lam = damping * float(self.gram.diagonal().mean())
        eye = torch.eye(len(self.gram), dtype=torch.float64, device=self.gram.device)
        factor, failed = torch.linalg.cholesky_ex(self.gram + lam * eye)
        if int(failed):
            raise ConfigError(
                f"--damping: got {damping:g}; {self.rows} calibration tokens do not decide {len(self.gram)} inputs "
                "without it, use 0.001 or more"
            )
        change = torch.cholesky_solve(self.cross, factor).T
        chosen = max(1, round(ratio * len(self.missing)))
        if chosen < len(self.missing):
            kept = self.missing.argsort(descending=True, stable=True)[:chosen]
            mask = torch.zeros_like(self.missing)
            mask[kept] = 1
            change = change * mask.unsqueeze(1)
        return change
