"""A KV cache whose layers may store different tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache

from erecap.errors import RunError
from erecap.parallel.crossings import Crossings
from erecap.tokens.cache.finishing import to_the_end
from erecap.tokens.cache.layout import Layout, share_layouts
from erecap.tokens.cache.parking import Parked, Parking
from erecap.tokens.cache.read_scores import ReadScores
from erecap.tokens.cache.read_transaction import Reading
from erecap.tokens.cache.shared_storage import Pair, stored_bytes
from erecap.tokens.cache.storage import KVLayer, alike, join, select_together
from erecap.tokens.clock import StageClock
from erecap.tokens.scoring.schedule import PruneConfig
from erecap.tokens.scoring.scorers import make_scorer
from erecap.tokens.scoring.select import Spans, protected_columns


class PrunedCache(DynamicCache):
    """Keys and values after token pruning; also the home of all pruning state.

    The *logical* length counts all tokens read: `generate` and positions go by it. The *physical* length is what
    a layer stores. The two differ once tokens are dropped, and the latter differs between layers. Sliding-window
    layers are stored whole as well, because windows count tokens of the sequence, not stored ones.

    The cache works only while the hooks of `erecap.tokens.hooks` are on the model, that is inside
    `erecap.prune(...)` or `erecap.tokens.attach(...)`.

    Args:
        config: how to prune.
        layers: number of decoder layers of the model.
        protect: spans `(start, end)` of token columns of the prompt that are kept by every stage; one list for all
            batch rows, or one list per row.

    Raises:
        ValueError: stages that do not fit `layers` (see `PruneConfig.resolve_stages`).
    """

    def __init__(self, config: PruneConfig, layers: int, protect: Spans | Sequence[Spans] | None = None) -> None:
        super().__init__()
        self.layer_class_to_replicate = KVLayer
        self.config = config
        self.stages = config.resolve_stages(layers)
        self.scorer = make_scorer(config.scorer)
        self.crossings = Crossings()  # bytes moved between devices, all reads together
        self.clock = StageClock()  # of scoring and dropping, all reads together
        self.prompt_kept: list[int] = []  # tokens stored by each layer when the last pruned read ended
        self.stage_log: list[tuple[int, list[int]]] = []  # (layer, real tokens left per row), in order
        self.reading: Reading | None = None  # the read in progress
        self.parking = Parking(config.park_tokens)  # dropped tokens that can be revived
        # Newest tokens that were read through the first layers only, and are still to go through the rest.
        self.unfinished: tuple[Parked, ...] = ()
        self.read_scores: ReadScores | None = None  # scores taken when tokens are read, for sessions that rank by them
        self._layouts = [Layout.empty()] * layers
        self._logical = 0
        self._armed = True
        self._protect = protect
        self._saved: list[int] = []  # tokens stored by each layer when the read in progress began

    @property
    def prune_seconds(self) -> float:
        """Time spent scoring and dropping, all reads together. On an accelerator it waits for the stages to be run."""
        return self.clock.seconds

    # What is stored ---------------------------------------------------------------------------------------

    def kept_lengths(self, row: int | None = None) -> list[int]:
        """Real tokens that each layer stores now, of batch row `row`, or of the fullest row."""
        lengths = [layout.lengths() if layout.width else None for layout in self._layouts]
        return [0 if rows is None else rows[row] if row is not None else max(rows) for rows in lengths]

    def layout(self, layer: int) -> Layout:
        """The layout of `layer`: the tokens that it stores."""
        return self._layouts[layer]

    def layouts(self) -> list[Layout]:
        """The layouts of all layers."""
        return list(self._layouts)

    def stores(self, layer: int) -> bool:
        """Return True if `layer` has stored tokens, evicted ones among them; a layer without attention never does."""
        return layer < len(self.layers) and self.layers[layer].is_initialized

    def shared(self, layer: int) -> bool:
        """Return True if `layer` holds keys and values together with forks."""
        return layer < len(self.layers) and self.layers[layer].shared

    @property
    def shares_layout(self) -> bool:
        """True if all layers store the same tokens, none of them padding."""
        first = self._layouts[0]
        return all(layout is first for layout in self._layouts) and first.all_valid and first.index.shape[0] == 1

    def kv_bytes(self) -> int:
        """Bytes of the keys and values stored by all layers, those shared with forks too (cf. `stored_bytes`)."""
        return stored_bytes(self.layers)

    # Arming -----------------------------------------------------------------------------------------------

    def arm(self, protect: Spans | Sequence[Spans] | None = None) -> None:
        """Prune during the next read (one forward call), with the given protected spans.

        A new cache is armed. Reads that are not armed store all their tokens, however long they are: a chunk of
        drafted tokens under verification is as long as a short prompt, and must not be pruned.
        """
        self._armed, self._protect = True, protect

    @property
    def orders(self) -> tuple[bool, Any]:
        """The orders for the next read: True if it may prune, and the spans that it protects."""
        return self._armed, self._protect

    @orders.setter
    def orders(self, orders: tuple[bool, Any]) -> None:
        self._armed, self._protect = orders

    def prunes_next(self, tokens: int) -> bool:
        """Return True if a read of `tokens` tokens now would drop some of them on its way."""
        return self._armed and tokens > 1 and bool(self.stages)

    # The read in progress (called by the hooks) -----------------------------------------------------------

    def begin(self, positions: torch.Tensor, attention_mask: torch.Tensor | None, batch: int) -> Reading:
        """Start a read of `positions` `(1 or batch, tokens)`; undoes a read that was cut off before.

        Raises:
            RunError: there are unfinished tokens.
            ValueError: protected spans that do not fit, or several rows where dropped tokens are parked.
        """
        self._refuse_unfinished()
        return self._begin(positions, attention_mask, batch)

    def resume(self, positions: torch.Tensor) -> Reading:
        """Start a read of `positions` `(1, tokens)`, which may be none, that also takes on the unfinished tokens.

        Such a read may stop before any layer (`Reading.stop`). It takes unfinished tokens on at the layer where
        they stopped (`Reading.join`), so that no layer reads a token twice. It never prunes.
        """
        unfinished = self.unfinished
        reading = self._begin(positions, None, 1)
        reading.armed, reading.resumes, reading.unfinished = False, True, unfinished
        return reading

    def _refuse_unfinished(self) -> None:
        if self.unfinished:
            count = sum(parked.tokens.width for parked in self.unfinished)
            raise RunError(f"{count} tokens were read through the first layers only: finish them or roll them back")

    def _begin(self, positions: torch.Tensor, attention_mask: torch.Tensor | None, batch: int) -> Reading:
        self.rollback()
        if batch > 1 and self.parking.room:
            raise ValueError(f"dropped tokens are parked for one row only (park_tokens), the batch has {batch}")
        tokens = positions.shape[1]
        self._saved = [layer.length for layer in self.layers]
        device = positions.device
        index = torch.arange(self._logical, self._logical + tokens, device=device).unsqueeze(0).expand(batch, -1)
        if attention_mask is None:
            valid, all_valid = torch.ones(batch, tokens, dtype=torch.bool, device=device), True
        else:
            valid = attention_mask[:, -tokens:].to(device=device, dtype=torch.bool)
            all_valid = bool(valid.all())
        live = Layout(index, positions.expand(batch, -1), valid, all_valid)
        if self.read_scores is not None:
            self.read_scores.begin(self._logical, tokens)
        self.reading = Reading(live, list(self._layouts), self._armed and tokens > 1, self.crossings)
        if self.reading.armed:
            columns = protected_columns(self._protect, batch, self._logical, tokens)
            if columns is not None:  # counted here, where no device has to be asked
                self.reading.protected_most = int(columns.sum(1).max())
                self.reading.protect = columns.to(device)
            self.stage_log = []
        return self.reading

    def finish(self) -> None:
        """Make the read in progress part of the cache.

        Raises:
            FloatingPointError: a scorer gave a score that is not finite, and the device said so only now; the cache is
                then as before the read.
        """
        reading = self.reading
        if reading is None:
            return
        try:
            reading.settle()
        except FloatingPointError:
            self.rollback()
            raise
        armed, logical = self._armed and not reading.resumes, self._logical + reading.tokens
        # Layers that have caught up with each other share one layout again.
        layouts = share_layouts(reading.layouts) if reading.resumes and not reading.unfinished else reading.layouts
        # One statement, without calls: an interrupt comes before it or after it.
        self._layouts, self._logical, self.reading, self._armed, self._protect, self.unfinished = (
            layouts, logical, None, False, None if armed else self._protect, reading.unfinished
        )  # fmt: skip
        self._saved = []
        self.parking.add(reading.parked)
        if armed:
            self.prompt_kept = self.kept_lengths()

    def rollback(self) -> None:
        """Undo the read in progress: the cache is again as before it. Without one, does nothing."""
        if self.reading is None:
            return
        del self.layers[len(self._saved) :]
        for layer, length in zip(self.layers, self._saved, strict=True):
            layer.truncate(length)
        self.reading, self._saved = None, []

    # Edits between reads ----------------------------------------------------------------------------------

    def drop(self, gone: Callable[[Layout], torch.Tensor]) -> int:
        """Evict stored tokens, layer by layer. Positions stay as they are. For caches of one row.

        A parked token that is evicted from the deepest layer it reached is parked no longer: a session evicts
        a token whole.

        Args:
            gone: maps a layout to `(width,)` bool, True where the token is to go; asked once per distinct layout.

        Returns:
            Tokens evicted, of the layer that lost most.
        """
        self._refuse_unfinished()
        most = 0
        sharing: dict[int, list[int]] = {}  # layers by the layout that they share
        for number, layout in enumerate(self._layouts):
            if layout.width:
                sharing.setdefault(id(layout), []).append(number)
        steps: list[tuple[list[int], torch.Tensor, Layout]] = []
        for numbers in sharing.values():
            stay = ~gone(layout := self._layouts[numbers[0]])
            if bool(stay.all()):
                continue
            columns = stay.nonzero().squeeze(1)
            new = layout.take(columns.unsqueeze(0))
            steps.append((numbers, columns, new))
            most = max(most, layout.width - new.width)
        if steps:
            to_the_end(partial(self._select, steps))
        return most

    def _select(self, steps: Sequence[tuple[list[int], torch.Tensor, Layout]]) -> None:
        """Keep the tokens `columns` of each group of layers, as its layout says; those that have done so are passed."""
        for numbers, columns, new in steps:
            due = [number for number in numbers if self.layers[number].length != new.width]
            if due and not select_together([self.layers[number] for number in due], columns):
                for number in due:
                    self.layers[number].select(columns)
            for number in numbers:
                self._layouts[number] = new
        self.parking.keep(self._still_stored)
        if self.read_scores is not None:
            self.read_scores.keep(self.stored_index())

    def _still_stored(self, parked: Parked) -> torch.Tensor:
        """`(n,)` bool: which parked tokens the deepest layer that they ran through, and that stores keys, stores."""
        deepest = max((number for number in range(parked.layer) if self.stores(number)), default=None)
        if deepest is None:
            return torch.ones_like(parked.places, dtype=torch.bool)
        return torch.isin(parked.places, self._layouts[deepest].index[0].to(parked.places.device))

    def replace(self, layer: int, keys: torch.Tensor, values: torch.Tensor, layout: Layout) -> None:
        """Let `layer` store these keys and values `(1, kv_heads, n, head_dim)` of the tokens in `layout`, sorted."""
        self.layers[layer].put(keys, values, layout.width)
        self._layouts[layer] = layout

    @property
    def layer_count(self) -> int:
        """Decoder layers of the model."""
        return len(self._layouts)

    def restore(self, layer: int, keys: torch.Tensor, values: torch.Tensor, layout: Layout) -> None:
        """Put saved keys and values `(1, kv_heads, n, head_dim)` into `layer`; layers in order, into a new cache."""
        while len(self.layers) <= layer:
            self.layers.append(KVLayer())
        self.layers[layer].update(keys, values)
        self._layouts[layer] = layout
        self._armed = False

    def joined(self, tokens: int, like: torch.Tensor) -> torch.Tensor:
        """Keys and values of all layers as one tensor with room for `tokens` more, where `shares_layout`.

        Args:
            like: `(kv_heads, *, head_dim)`, of the wanted kind, for a cache that stores nothing yet.

        Returns:
            As `storage.join`. What is written behind the stored tokens counts once `appended` says so.
        """
        while len(self.layers) < self.layer_count:
            self.layers.append(KVLayer())
        return join(self.layers, tokens, like)

    def appended(self) -> None:
        """All layers now store the tokens that are being read: they stand in the tensor that `joined` gave."""
        assert self.reading is not None, "tokens are appended during a read"
        for number, layer in enumerate(self.layers):
            self.reading.store(number)
            layer.length += self.reading.live.width

    def fork(self) -> PrunedCache:
        """A cache that stores the same, to go on independently; both share it from now on. Not during a read."""
        self._refuse_unfinished()
        elsewhere = self._layouts[0].index.device.type != "cpu"
        if elsewhere and self.shares_layout and not self.shared(0) and alike(self.layers):
            self.joined(0, self.layers[0].pieces()[-1][0][0])  # so that forks, too, can share calls of attention
        twin = PrunedCache(self.config, self.layer_count)
        twin.layers = [layer.fork() for layer in self.layers]
        twin._layouts = list(self._layouts)
        twin._logical, twin._armed, twin._protect = self._logical, self._armed, self._protect
        twin.prompt_kept, twin.stage_log = list(self.prompt_kept), list(self.stage_log)
        twin.parking = self.parking.copy()
        twin.read_scores = None if self.read_scores is None else self.read_scores.copy()
        return twin

    def skip(self, tokens: int) -> None:
        """Count `tokens` as read without storing them: token indices and positions go on behind them."""
        self._logical += tokens

    def stored_index(self) -> torch.Tensor:
        """Sorted indices `(n,)` of the tokens that at least one layer stores. For caches of one row."""
        distinct = {id(layout): layout.index[0] for layout in self._layouts if layout.width}
        if not distinct:
            return torch.empty(0, dtype=torch.long, device="cpu")
        if len(distinct) == 1:
            return next(iter(distinct.values()))
        device = next(iter(distinct.values())).device  # layers may lie on several
        return torch.cat([index.to(device) for index in distinct.values()]).unique()

    def move(
        self,
        rotate: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor],
        index: torch.Tensor,
        positions: torch.Tensor,
    ) -> None:
        """Give stored tokens new positions. For caches of one row. An error on the way leaves everything as it was.

        Args:
            rotate: maps `(layer, keys (1, kv_heads, n, head_dim), shift (n,))` to the keys turned by `shift` positions.
            index: `(n,)` sorted token indices, those of all stored tokens among them (see `stored_index`).
            positions: `(n,)` the new position of each.
        """
        self._refuse_unfinished()
        done: dict[int, tuple[Layout, Layout]] = {}
        turned: list[tuple[int, Layout, torch.Tensor]] = []
        for number, layout in enumerate(self._layouts):
            if not layout.width:
                continue
            if id(layout) not in done:
                column = torch.searchsorted(index.to(layout.index.device), layout.index[0])
                moved = positions.to(layout.index.device)[column]
                done[id(layout)] = (layout, layout.moved(moved.unsqueeze(0)))
            new = done[id(layout)][1]
            turned.append(
                (number, new, rotate(number, self.layers[number].keys, (new.positions - layout.positions)[0]))
            )
        for number, _, _ in turned:  # all before the first changes: memory may run out
            self.layers[number].own()
        to_the_end(partial(self._place, turned))
        self.parking.move(index, positions)

    def _place(self, turned: Sequence[tuple[int, Layout, torch.Tensor]]) -> None:
        """Give layers their rotated keys and the layouts that go with them."""
        for number, new, keys in turned:
            self.layers[number].replace_keys(keys)
            self._layouts[number] = new

    # What transformers asks -------------------------------------------------------------------------------

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values `(batch, kv_heads, live tokens, head_dim)` to a layer; returns all it stores.

        Raises:
            RuntimeError: called without the pruning hooks, where positions and masks would be wrong.
        """
        self._note(key_states, layer_idx)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def append(self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int) -> tuple[Pair, ...]:
        """As `update`, for a layer that is `shared`; returns views of all it stores, in as many pieces as it has."""
        self._note(key_states, layer_idx)
        return self.layers[layer_idx].append(key_states, value_states)

    def _note(self, key_states: torch.Tensor, layer_idx: int) -> None:
        """Note that a layer is about to store the live tokens."""
        reading = self.reading
        if reading is None:
            raise RuntimeError(
                "a PrunedCache works only with the pruning hooks on the model: "
                "call inside `with erecap.prune(...)` or `with erecap.tokens.attach(model, cache)`"
            )
        if key_states.shape[-2] != reading.live.width:
            raise RuntimeError(
                f"layer {layer_idx} stores {key_states.shape[-2]} tokens, {reading.live.width} are being read"
            )
        reading.store(layer_idx)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Logical length: tokens read, pads included. Never the number stored."""
        return self._logical

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Sizes of the mask that transformers would build; ours are built per layer by the hooks."""
        return self._logical + query_length, 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """The index of the next token."""
        return self._logical

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest `-tokens_to_remove` tokens (the argument is zero or negative, as in transformers)."""
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes minus the number of tokens to remove, got {tokens_to_remove}")
        length = self._logical + tokens_to_remove
        if length < 0:
            raise ValueError(f"cannot remove {-tokens_to_remove} tokens, only {self._logical} were read")
        done: dict[int, tuple[Layout, Layout]] = {}  # layers that stored the same go on sharing one layout
        cut: list[tuple[int, Layout]] = []
        for number, layout in enumerate(self._layouts):
            if not layout.width:
                continue
            if id(layout) not in done:
                # Fillers of padded batches share their columns with real tokens, so rows are cut at one width.
                width = int((layout.index < length).sum(1).max())
                padded = not layout.all_valid or layout.index.shape[0] > 1
                if padded and bool((layout.index[:, :width] >= length).logical_and(layout.valid[:, :width]).any()):
                    raise ValueError("a padded batch whose rows kept different tokens cannot be cropped")
                done[id(layout)] = (layout, layout.first(width))
            cut.append((number, done[id(layout)][1]))
        to_the_end(partial(self._cut, cut, length))

    def _cut(self, cut: Sequence[tuple[int, Layout]], length: int) -> None:
        """Shorten layers to their new layouts; `length` tokens count as read then."""
        for number, new in cut:
            self.layers[number].truncate(new.width)
            self._layouts[number] = new
        left = tuple(parked.where(parked.places < length) for parked in self.unfinished)
        self.unfinished = tuple(parked for parked in left if parked.tokens.width)
        if left and not self.unfinished:
            self._layouts = share_layouts(self._layouts)
        self._logical = length
        self.parking.keep(lambda parked: parked.places < length)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Reorder batch rows for beam search."""
        super().reorder_cache(beam_idx)
        self._map_rows(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only the batch rows `indices`."""
        super().batch_select_indices(indices)
        self._map_rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every batch row `repeats` times."""
        super().batch_repeat_interleave(repeats)
        layout = next((layout for layout in self._layouts if layout.width), None)
        if layout is not None:
            rows = torch.arange(layout.index.shape[0], device=layout.index.device)
            self._map_rows(rows.repeat_interleave(repeats))

    def reset(self) -> None:
        """Forget everything read and arm for the next read."""
        to_the_end(self._reset)

    def _reset(self) -> None:
        super().reset()
        self._layouts = [Layout.empty()] * len(self._layouts)
        self._logical, self.reading, self._saved, self.unfinished = 0, None, [], ()
        self.prompt_kept, self.stage_log, self.clock, self.crossings = [], [], StageClock(), Crossings()
        self.parking.clear()
        if self.read_scores is not None:
            self.read_scores.clear()
        self._armed = True

    def _map_rows(self, rows: torch.Tensor) -> None:
        if len(rows) != 1:
            self.parking.clear()  # what is parked belongs to a single row
        mapped: dict[int, Layout] = {}
        for number, layout in enumerate(self._layouts):
            self._layouts[number] = mapped.setdefault(id(layout), layout.rows(rows))
