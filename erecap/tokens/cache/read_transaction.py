"""One forward call over a pruned cache: the tokens still in flight, layer by layer."""

from __future__ import annotations

from typing import Any

import torch

from erecap.parallel.crossings import Crossings
from erecap.tokens.cache.layout import Layout
from erecap.tokens.cache.masks import as_attention_mask, visible
from erecap.tokens.cache.parking import Parked


class Reading:
    """State of a read in progress; lives on its `PrunedCache` from the first layer to the last.

    Args:
        live: all tokens of the chunk that is being read.
        layouts: what each layer stored before, replaced entry by entry as layers run.
        armed: whether stages drop tokens during this read.
        crossings: counts what moves between devices.
    """

    def __init__(self, live: Layout, layouts: list[Layout], armed: bool, crossings: Crossings | None = None) -> None:
        self.crossings = crossings or Crossings()
        self.live = live  # tokens that reach the layer now running
        self.tokens = live.width  # tokens of the whole chunk
        self.real_tokens = live.valid.sum(1, keepdim=True)  # (batch, 1), of the whole chunk
        self.layouts = layouts
        self.armed = armed
        self.protect: torch.Tensor | None = None  # (batch, live tokens) bool: protected by the caller
        self.protected_most = 0  # of these, in the row that has most; no stage drops one
        self.attention_mass: torch.Tensor | None = None  # (batch, live tokens), set before a stage that asks
        self.parked: list[Parked] = []  # dropped by the stages so far, if the cache parks
        self.doubts: list[tuple[torch.Tensor, str]] = []  # () bool each, and the error that False means
        self.resumes = False  # a read of some layers, which takes on tokens that stopped early (`PrunedCache.resume`)
        self.unfinished: tuple[Parked, ...] = ()  # tokens that stopped early and were not taken on yet
        self._columns: torch.Tensor | None = None  # (batch, live tokens): columns of the chunk; None = all
        self._left: dict[torch.device, torch.Tensor] = {}  # the same on devices of layers before
        self._memo: dict[tuple, object] = {}

    def to(self, device: torch.device) -> None:
        """Follow the hidden states to the device of the next layers (models spread over several)."""
        live = self.live
        if live.index.device == device:
            return
        index, positions, valid = (self._moved(part, device) for part in (live.index, live.positions, live.valid))
        assert index is not None and positions is not None and valid is not None
        self.live = Layout(index, positions, valid, live.all_valid)
        self.real_tokens = self.real_tokens.to(device)
        if self._columns is not None:
            self._left[self._columns.device] = self._columns
        self._columns, self.protect = self._moved(self._columns, device), self._moved(self.protect, device)
        self.attention_mass = self._moved(self.attention_mass, device)

    def _moved(self, tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
        return None if tensor is None else self.crossings.move("layouts", tensor, device)

    def park(self, layer: int, hidden: torch.Tensor, select: torch.Tensor, room: int) -> None:
        """Keep the newest `room` tokens that are about to be dropped before `layer`. One row.

        Args:
            hidden: `(1, live tokens, hidden_size)`, the input of `layer`.
            select: `(1, kept)` columns of the live tokens that go on.
        """
        gone = self.live.valid[0].clone()
        gone[select[0]] = False
        parked = Parked(layer, self.live, hidden.detach()).where(gone)
        if parked.tokens.width:
            self.parked.append(parked.newest(room))

    def join(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """Take on the unfinished tokens that stopped before `layer`.

        Args:
            hidden: `(live tokens, hidden_size)`, the input of `layer`.

        Returns:
            The same with the rows of those tokens, in order of token indices.
        """
        due = [parked for parked in self.unfinished if parked.layer == layer]
        for parked in due:
            here = parked if not self.live.width else Parked(layer, self.live, hidden.unsqueeze(0)).joined(parked)
            self.live, hidden = here.tokens, here.hidden[0]
        if due:
            self.unfinished = tuple(parked for parked in self.unfinished if parked.layer != layer)
        return hidden

    def stop(self, layer: int, hidden: torch.Tensor) -> None:
        """Leave all live tokens unfinished before `layer`, whose input is `hidden` `(live tokens, hidden_size)`."""
        self.unfinished = (*self.unfinished, Parked(layer, self.live, hidden.unsqueeze(0)))

    def check(self, good: torch.Tensor, problem: str, later: bool) -> None:
        """Raise `problem` where `good` `()` bool is False.

        Args:
            later: not before the read ends, because `good` is still being computed on an accelerator, and waiting for
                it in the middle of the model would cost more than the stage.

        Raises:
            FloatingPointError: it is False.
        """
        if later:
            self.doubts.append((good, problem))
        elif not bool(good):
            raise FloatingPointError(problem)

    def settle(self) -> None:
        """Make the checks that were postponed.

        Raises:
            FloatingPointError: the first that is False.
        """
        for good, problem in self.doubts:
            self.check(good, problem, later=False)
        self.doubts = []

    def drop(self, select: torch.Tensor, valid: torch.Tensor, whole: bool) -> None:
        """Continue with the live tokens `select` `(batch, kept)`, of which `valid` are real; `whole`: all are."""
        self.live = self.live.chosen(select, valid, whole)
        self._columns = select if self._columns is None else self._columns.gather(1, select)
        self._left = {}
        if self.protect is not None:
            self.protect = self.protect.gather(1, select)
        self.attention_mass = None

    def stored(self, layer: int) -> Layout:
        """The layout of `layer` once the live tokens are appended."""
        before = self.layouts[layer]
        key = ("stored", id(before), id(self.live))
        if key not in self._memo:
            # Both parents are kept beside the result: an id is only unique while its object lives.
            self._memo[key] = (before, self.live, before.extended(self.live))
        return self._memo[key][2]  # type: ignore[index]

    def store(self, layer: int) -> None:
        """Note that `layer` has stored the live tokens."""
        self.layouts[layer] = self.stored(layer)

    def mask(self, layer: int, window: int | None, implementation: str, dtype: torch.dtype) -> torch.Tensor | None:
        """Attention mask for `layer`, in the form `implementation` takes (see `as_attention_mask`)."""
        stored = self.stored(layer)
        key = ("mask", id(stored), id(self.live), window, implementation, dtype)
        if key not in self._memo:
            allowed = visible(stored, self.live, window)
            mask = as_attention_mask(allowed, implementation, stored, self.live, window, dtype)
            self._memo[key] = (stored, self.live, mask)
        return self._memo[key][2]  # type: ignore[index]

    def rope(self, embeddings: Any) -> Any:
        """Rotary embeddings of the live tokens: those of their original positions.

        Args:
            embeddings: cosines and sines `(..., 1 or batch, chunk, dim)`, or one tensor of complex numbers.
        """
        if isinstance(embeddings, torch.Tensor):
            return self.rows(embeddings)
        return type(embeddings)(self.rows(part) for part in embeddings)

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows of the live tokens in `tensor` `(..., 1 or batch, chunk, dim)`, which has one for each token.

        They lie where the live tokens do; layers of one device share a copy.
        """
        device = self.live.index.device
        if self._columns is None and tensor.device == device:
            return tensor
        key = ("rows", id(tensor), id(self.live))
        if key not in self._memo:
            rows, columns = tensor, self._columns
            if columns is not None:
                if tensor.device in self._left:  # taken where they are, so that fewer move
                    columns = self._left[tensor.device]
                else:
                    rows = self.crossings.move("angles", tensor, device)
                rows = take_tokens(rows, columns)
            # Both parents are kept beside the result: an id is only unique while its object lives.
            self._memo[key] = (tensor, self.live, self.crossings.move("angles", rows, device))
        return self._memo[key][2]  # type: ignore[index]


def take_tokens(tensor: torch.Tensor, select: torch.Tensor) -> torch.Tensor:
    """Columns `select` `(batch, kept)` of `tensor` `(..., 1 or batch, tokens, dim)`: `(..., batch, kept, dim)`."""
    if select.shape[0] == 1:
        return tensor.index_select(-2, select[0])
    shape = (*tensor.shape[:-3], *select.shape, tensor.shape[-1])
    whole = tensor.expand(*tensor.shape[:-3], select.shape[0], *tensor.shape[-2:])
    return whole.gather(-2, select.unsqueeze(-1).expand(shape))
