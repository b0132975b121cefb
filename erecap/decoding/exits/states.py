"""Hidden states of a text after every layer, at the tokens whose successors are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from erecap.layers.decoder import find_decoder


@dataclass(frozen=True)
class ExitText:
    """A tokenised text, and the places in it where a model would decode."""

    name: str
    ids: tuple[int, ...]
    rows: tuple[int, ...]  # indices of tokens whose successor is decoded, rising
    # For each of `rows` the ids that a grammar allows next; None: it was decoded freely.
    allowed: tuple[tuple[int, ...] | None, ...] = ()

    def allowed_at(self, number: int) -> tuple[int, ...] | None:
        """The ids allowed after row `number`; None: all."""
        return self.allowed[number] if self.allowed else None


def layer_states(model: Any, ids: Sequence[int], rows: Sequence[int]) -> torch.Tensor:
    """Hidden states `(layers, len(rows), hidden_size)` float32 on the CPU after each layer, at tokens `rows` of `ids`.

    The last norm is not applied; `HeadOf` does that.
    """
    decoder: Any = find_decoder(model)
    wanted = torch.tensor(list(rows), dtype=torch.long)
    found: list[torch.Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        found.append(hidden[0].index_select(0, wanted.to(hidden.device)).float().cpu())

    handles = [layer.register_forward_hook(keep) for layer in decoder.layers]
    try:
        with torch.no_grad():
            model(
                input_ids=torch.tensor([list(ids)], device=model.device),
                use_cache=False,
                logits_to_keep=torch.tensor([len(ids) - 1], device=model.device),
            )
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(found)


class HeadOf:
    """The last norm and the head of a model, for hidden states between layers.

    Args:
        model: a causal language model of transformers.
    """

    def __init__(self, model: Any) -> None:
        self._norm: Any = find_decoder(model).norm
        self._head: Any = model.lm_head
        self._dtype, self._device = self._head.weight.dtype, self._head.weight.device

    def normed(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last norm of `hidden` `(n, hidden_size)`."""
        with torch.no_grad():
            normed: torch.Tensor = self._norm(hidden.to(self._device, self._dtype))
        return normed

    def logits(self, normed: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
        """Logits `(n, vocabulary or len(ids))` float32 on the CPU of `normed` `(n, hidden_size)`.

        Args:
            ids: `(m,)`, the tokens that are asked for; None: all.
        """
        with torch.no_grad():
            if ids is None:
                return self._head(normed).float().cpu()
            own = ids.to(self._device)
            logits = normed @ self._head.weight.index_select(0, own).t()
            if self._head.bias is not None:
                logits = logits + self._head.bias.index_select(0, own)
            return logits.float().cpu()
