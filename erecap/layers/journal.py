"""Journal of the changes to a model's modules, by which they are undone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Journal:
    """Replaces attributes, and puts the old objects back in reverse order: weights are kept, never copied."""

    def __init__(self) -> None:
        self._old: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Let attribute `name` of `owner`, which has one, be `value`."""
        self._old.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def weight(self, module: nn.Module, name: str, tensor: torch.Tensor) -> None:
        """Let parameter `name` of `module` be `tensor`, in the old one's number format and place."""
        old = getattr(module, name)
        new = tensor.to(device=old.device, dtype=old.dtype).detach().contiguous()
        self.set(module, name, nn.Parameter(new, requires_grad=old.requires_grad))

    def undo(self) -> None:
        """Put everything back."""
        while self._old:
            setattr(*self._old[-1])
            self._old.pop()
