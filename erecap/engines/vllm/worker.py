"""A worker's side of the connector: keys and values between vLLM's paged cache and the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from erecap.engines.rotate_keys import Turn
from erecap.engines.vllm.paged import PagedLayer
from erecap.engines.vllm.rows import Part, Rows, joined
from erecap.engines.vllm.turning import TOLERANCE, disagreement, turned

if TYPE_CHECKING:
    from erecap.engines.vllm.connector import Load, Save


class StoreWorker:
    """The store of one worker.

    Args:
        config, cache: vLLM's own configuration, and that of its paged cache.
        turn: the rotation of keys, or the reason why there is none.
        same_device: hold keys and values where vLLM has its cache, instead of in host memory.
    """

    def __init__(self, config: Any, cache: Any, turn: Turn | str, *, same_device: bool = False) -> None:
        [group] = cache.kv_cache_groups
        self._context = config.compilation_config.static_forward_context
        self._names, self._blocks = group.layer_names, cache.num_blocks
        self._block = group.kv_cache_spec.block_size
        self._same_device, self._turn = same_device, turn
        self._checked = False  # the rotation, on keys that vLLM stored
        self._layers: list[PagedLayer] = []
        self.rows = Rows()
        self._saved: set[str] = set()
        self._failed: set[int] = set()

    @property
    def layers(self) -> list[PagedLayer]:
        """The layers whose keys and values this worker holds."""
        if not self._layers:
            order = None
            for name in self._names:
                if name in self._context:  # other ranks of a pipeline have others
                    layer = PagedLayer(self._context[name], self._blocks, self._block, order)
                    order = layer.order
                    self._layers.append(layer)
        return self._layers

    def save(self, save: Save) -> None:
        """Keep what a request has read. Where its source is gone, the kept rows as they stand in the cache."""
        kept, start = [], 0
        if save.source is not None and save.source in self.rows:
            kept = self.rows.taken(save.source, torch.from_numpy(save.rows))
            start = len(save.rows)
        if start < save.end:
            blocks = torch.tensor(save.blocks)
            read = [layer.read(blocks, start, save.end) for layer in self.layers]
            keys, values = (torch.stack([pair[side] for pair in read]) for side in (0, 1))
            if not self._same_device:
                keys, values = keys.cpu(), values.cpu()
            part = Part(keys, values, torch.arange(start, save.end))
            self._check(torch.from_numpy(save.ids[start:]), part)
            kept.append(part)
        self.rows.put(save.name, kept)
        self._saved.add(save.request)

    def load(self, load: Load) -> None:
        """Write kept rows into a request's blocks, their keys turned to its places; a refused one's are reported."""
        if load.name is None or load.name not in self.rows:
            self._refuse(load)
            return
        part = joined(self.rows.taken(load.name, torch.from_numpy(load.rows)))
        shift = torch.from_numpy(np.asarray(load.places)) - part.first
        keys = part.keys
        if bool(shift.any()):
            if isinstance(self._turn, str):
                self._refuse(load)
                return
            keys = turned(self._turn, keys, shift)
        blocks = torch.tensor(load.blocks)
        for number, layer in enumerate(self.layers):
            layer.write(blocks, load.start, keys[number], part.values[number])

    def _refuse(self, load: Load) -> None:
        end = load.start + max(1, len(load.rows))
        self._failed.update(load.blocks[load.start // self._block : -(-end // self._block)])

    def _check(self, ids: torch.Tensor, part: Part) -> None:
        """Compare the rotation with keys of the first layer, once; keys are not turned if it is another one."""
        first = bool(self._names) and self._names[0] in self._context
        if self._checked or not first or isinstance(self._turn, str):
            return
        found = disagreement(self._turn, ids, part.keys[0], part.first)
        if found is not None:
            self._checked = True
            if not found <= TOLERANCE:  # NaN is no agreement
                self._turn = "the model does more than rotate its keys; they cannot change position"

    def drop(self, name: str) -> None:
        """Forget an entry."""
        self.rows.drop(name)

    def take_saved(self) -> set[str]:
        """Requests that were saved since this was asked last."""
        found, self._saved = self._saved, set()
        return found

    def take_failed(self) -> set[int]:
        """Blocks that could not be loaded since this was asked last."""
        found, self._failed = self._failed, set()
        return found
