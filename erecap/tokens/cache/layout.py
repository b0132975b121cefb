"""Layout of a layer: token indices, positions and validity of the tokens that it stores.

Layers between two stages store the same tokens, so they share one `Layout` object; a read extends each distinct
layout once, not once per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True, eq=False)
class Layout:
    """Tokens in storage order, which is also their order in the sequence."""

    index: torch.Tensor  # (batch, width) int64: token indices in everything read so far, pads included
    positions: torch.Tensor  # (batch, width) int64: position id used for RoPE
    valid: torch.Tensor  # (batch, width) bool: False for padding and for fillers of narrower rows
    all_valid: bool  # known without asking the device

    @classmethod
    def empty(cls) -> Layout:
        """The layout of a layer that stores nothing; it fits every batch and every device."""
        nothing = torch.empty(1, 0, dtype=torch.long, device="cpu")
        return cls(nothing, nothing, torch.empty(1, 0, dtype=torch.bool, device="cpu"), True)

    @property
    def width(self) -> int:
        """Entries stored per row, fillers included."""
        return self.index.shape[1]

    @cached_property
    def span(self) -> int:
        """Distance between the first and the last stored position, the largest that a window must cover."""
        return int((self.positions[:, -1] - self.positions[:, 0]).max()) if self.width else 0

    def lengths(self) -> list[int]:
        """Real tokens per row."""
        return self.valid.sum(1).tolist() if not self.all_valid else [self.width] * self.index.shape[0]

    def take(self, select: torch.Tensor) -> Layout:
        """The entries `select` `(batch, kept)`, as they are."""
        return self.chosen(select, self.valid.gather(1, select), True)

    def chosen(self, select: torch.Tensor, valid: torch.Tensor, whole: bool) -> Layout:
        """The entries `select` `(batch, kept)`, of which `valid` `(batch, kept)` are real.

        Args:
            whole: whether no entry is a filler of a narrower row, known without asking the device.
        """
        index, positions = self.index.gather(1, select), self.positions.gather(1, select)
        return Layout(index, positions, valid, self.all_valid and whole)

    def extended(self, live: Layout) -> Layout:
        """This layout followed by `live`, which one without tokens leaves as it is."""
        if not self.width:
            return live
        return Layout(
            torch.cat([self.index, live.index], 1),
            torch.cat([self.positions, live.positions], 1),
            torch.cat([self.valid, live.valid], 1),
            self.all_valid and live.all_valid,
        )

    def merged(self, live: Layout) -> tuple[Layout, torch.Tensor]:
        """This layout merged with `live` by token index, and the order `(width,)` of the two in a row. One row."""
        both = self.extended(live)
        order = both.index[0].argsort()
        return both.take(order.unsqueeze(0)), order

    def same(self, other: Layout) -> bool:
        """Return True if `other` holds the same real tokens at the same positions."""
        return (
            self.all_valid
            and other.all_valid
            and self.index.device == other.index.device
            and torch.equal(self.index, other.index)
            and torch.equal(self.positions, other.positions)
        )

    def rows(self, rows: torch.Tensor) -> Layout:
        """The given batch rows (beam search reorders them)."""
        if not self.width:
            return self
        rows = rows.to(self.index.device)
        return Layout(self.index[rows], self.positions[rows], self.valid[rows], self.all_valid)

    def to(self, device: torch.device) -> Layout:
        """A copy on `device`."""
        return Layout(self.index.to(device), self.positions.to(device), self.valid.to(device), self.all_valid)

    def moved(self, positions: torch.Tensor) -> Layout:
        """The same tokens at other positions `(batch, width)`."""
        return Layout(self.index, positions, self.valid, self.all_valid)

    def first(self, width: int) -> Layout:
        """The first `width` entries."""
        return Layout(self.index[:, :width], self.positions[:, :width], self.valid[:, :width], self.all_valid)


def share_layouts(layouts: Sequence[Layout]) -> list[Layout]:
    """`layouts` with one object for those that hold the same tokens."""
    known: list[Layout] = []
    found: dict[int, Layout] = {}
    for layout in layouts:
        if id(layout) not in found:
            twin = next((one for one in known if one.width == layout.width and one.same(layout)), None)
            found[id(layout)] = layout if twin is None else twin
            known.append(layout)
    return [found[id(layout)] for layout in layouts]
