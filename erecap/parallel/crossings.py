"""Bytes that move between devices while tokens are read."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch


@dataclass
class Crossings:
    """Bytes moved so far, by kind. Keys, values, masks and scores are made where their layer runs, and never move."""

    hidden: int = 0  # hidden states, where one layer's device is not the next one's
    angles: int = 0  # rotary embeddings, once for each device and read
    layouts: int = 0  # token indices, positions and what else is known of the tokens that are being read
    weights: int = 0  # offloaded weights, which every pass brings to where they are used

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, field.name) for field in fields(self))

    def move(self, kind: str, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        """`tensor` on `device`, its bytes counted as of `kind` where it was elsewhere."""
        if tensor.device == device:
            return tensor
        setattr(self, kind, getattr(self, kind) + tensor.numel() * tensor.element_size())
        return tensor.to(device)
