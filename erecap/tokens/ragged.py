"""One forward call of a model for several caches at once, without padding.

The tokens of all parts stand side by side in one row `(1, T)`: embeddings, norms, projections and MLPs run once over
all of them, so that every weight is read once. Only attention knows the parts: each one's keys and values go into its
own cache, and its queries see that cache alone, under its own mask. Positions are the parts' own. This is how
continuous batching engines treat mixed batches (Orca, OSDI 2022, "selective batching").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from transformers import Cache

from erecap.models.cache_argument import CACHE
from erecap.parallel.ranks import is_split
from erecap.tokens.cache.masks import layer_windows
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.cache.ropes import CHANGING, rope_kinds
from erecap.tokens.hooks import find_decoder
from erecap.tokens.scoring import probe


@dataclass(frozen=True)
class Part:
    """One cache and the tokens that it is to read."""

    cache: PrunedCache
    ids: Sequence[int]
    start: int  # position of the first of them
    keep: int = 0  # logits of this many newest tokens; 0: of all
    collect: dict[int, torch.Tensor] | None = None  # gets the newest token's attention weights, by layer

    @property
    def kept(self) -> int:
        """Number of tokens whose logits are wanted."""
        return self.keep or len(self.ids)

    def positions(self, device: torch.device) -> torch.Tensor:
        """`(1, len(ids))` int64."""
        return torch.arange(self.start, self.start + len(self.ids), device=device).unsqueeze(0)


def kept_rows(parts: Sequence[Part]) -> list[int]:
    """Rows, of all parts side by side, whose logits are wanted."""
    ends = accumulate(len(part.ids) for part in parts)
    return [row for part, end in zip(parts, ends, strict=True) for row in range(end - part.kept, end)]


class RaggedCache(Cache):
    """Stands in for the caches of all parts while the model runs; its attention stores and looks up for each."""

    def __init__(self, parts: Sequence[Part], config: Any) -> None:
        super().__init__(layers=[])
        self._parts = parts
        self._windows = layer_windows(config)
        self._implementation = probe.base_name(config._attn_implementation)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hands on the keys and values `(1, kv_heads, T, head_dim)` of this call alone; `attend` stores them."""
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: nothing is stored here."""
        return 0

    def attend(
        self,
        function: Callable[..., tuple[torch.Tensor, Any]],
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """Attention of `module`, part by part.

        Args:
            function: the attention function that the model is configured with.
            query: `(1, heads, T, head_dim)`; `key` and `value`: `(1, kv_heads, T, head_dim)`.

        Returns:
            `(1, T, heads, head_dim)`, and no weights.
        """
        layer = module.layer_idx
        kwargs["position_ids"] = None  # kernels would read the joints of the parts as sequence boundaries
        outputs, begin = [], 0
        for part in self._parts:
            span = slice(begin, begin + len(part.ids))
            begin = span.stop
            reading = part.cache.reading
            assert reading is not None, "read_together begins a reading for every part"
            reading.to(query.device)
            mask = reading.mask(layer, self._windows[layer], self._implementation, query.dtype)
            keys, values = part.cache.update(key[:, :, span], value[:, :, span], layer)
            outputs.append(function(module, query[:, :, span], keys, values, mask, **kwargs)[0])
        return torch.cat(outputs, 1), None


def read_together(model: Any, parts: Sequence[Part]) -> list[torch.Tensor]:
    """Read all `parts` in one forward call. The hooks must be on the model, with attention probed.

    No part may be about to prune (`PrunedCache.prunes_next`). An exception leaves every cache as it was before.

    Returns:
        Logits `(keep or len(ids), vocab)` of each part, on the CPU.
    """
    config = find_decoder(model).config
    device = model.device
    ragged = RaggedCache(parts, config)
    try:
        for part in parts:
            part.cache.begin(part.positions(device), None, 1)
        probe.current.attend = ragged.attend
        with torch.inference_mode(False), torch.no_grad():
            output = model(
                input_ids=torch.tensor([[token for part in parts for token in part.ids]], device=device),
                position_ids=torch.cat([part.positions(device) for part in parts], 1),
                # As the hooks do: a 4-D mask is passed through as it is, and keeps the model from building one.
                attention_mask=torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device),
                **{CACHE: ragged},
                use_cache=True,
                logits_to_keep=torch.tensor(kept_rows(parts), device=device),
            )
    except BaseException:
        for part in parts:
            part.cache.rollback()
        raise
    finally:
        probe.current.attend = None
    for part in parts:
        part.cache.finish()
    return list(output.logits[0].cpu().split([part.kept for part in parts]))


def joins_calls(model: Any) -> bool:
    """Return True if `read_together` gives the results of separate calls: no angles follow the longest of them.

    Ranks of a split model make each pass for one cache.
    """
    return not is_split(model) and not rope_kinds(find_decoder(model).config) & CHANGING
