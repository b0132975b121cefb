"""Choosing the tokens that a stage keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from erecap.tokens.scoring.schedule import stage_count

Spans = Sequence[tuple[int, int]]


def protected_columns(
    protect: Spans | Sequence[Spans] | None, batch: int, start: int, tokens: int
) -> torch.Tensor | None:
    """The tokens of a read that the caller's spans protect.

    Args:
        protect: spans `(start, end)` of token columns, one list for all rows or one per row.
        batch: number of rows.
        start: column of the first token of the read.
        tokens: tokens of the read.

    Returns:
        `(batch, tokens)` bool, on the CPU; None where nothing is protected.

    Raises:
        ValueError: spans for another number of rows, or one that does not rise from 0.
    """
    if not protect:
        return None
    first = protect[0]
    per_row = not (len(first) == 2 and isinstance(first[0], int))
    rows = list(protect) if per_row else [protect] * batch
    if len(rows) != batch:
        raise ValueError(f"protect has spans for {len(rows)} rows, the batch has {batch}")
    mask = torch.zeros(batch, tokens, dtype=torch.bool, device="cpu")
    for row, spans in enumerate(rows):
        for begin, end in spans:
            if not 0 <= begin <= end:
                raise ValueError(f"protected span ({begin}, {end}) does not rise from 0")
            mask[row, max(0, begin - start) : max(0, end - start)] = True
    return mask


def protected_mask(
    index: torch.Tensor,
    valid: torch.Tensor,
    first: torch.Tensor,
    sinks: int,
    local: float,
    spans: torch.Tensor | None,
) -> torch.Tensor:
    """Tokens that no score may drop.

    Args:
        index: `(batch, tokens)` index of each token in the sequence, rising along a row.
        valid: `(batch, tokens)` False for padding.
        first: `(batch, 1)` index of each row's first real token.
        sinks: number of first real tokens that are kept.
        local: share of a row's real tokens, the newest, that is kept; at least the newest one always is, because
            generation continues from it.
        spans: `(batch, tokens)` tokens protected by the caller, or None.

    Returns:
        `(batch, tokens)` bool; False for padding.
    """
    counts = valid.sum(dim=1, keepdim=True)
    newest = torch.clamp(torch.ceil(counts * local - 1e-9), min=1)
    # Rank from the newest real token, 1 for the newest itself.
    rank = valid.flip(1).cumsum(1).flip(1)
    keep = (index < first + sinks) | (rank <= newest)
    if spans is not None:
        keep = keep | spans
    return keep & valid


def protected_bound(tokens: int, sinks: int, local: float, spans: int) -> int:
    """The most tokens of a row of `tokens` that `protected_mask` protects, `spans` of them by the caller."""
    return sinks + spans + math.ceil(tokens * local) + 1  # one more: the mask's own product is rounded on the device


def choose(
    scores: torch.Tensor,
    valid: torch.Tensor,
    protected: torch.Tensor,
    keep: float,
    *,
    whole: bool = False,
    most: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """The tokens to keep, in their old order.

    Rows of a padded batch keep different numbers of real tokens. The result is as wide as the largest of them;
    narrower rows are filled with tokens marked invalid, which every mask hides.

    Args:
        scores: `(batch, tokens)` float32, finite. Ties go to the newer token.
        valid, protected: `(batch, tokens)` bool.
        keep: share to keep of each row's real tokens.
        whole: all of `valid` is True, so its sums are known.
        most: more than these are not protected in any row; None: not known. With both, and unless the protected ones
            may exceed the share, nothing is read from the device, which would have to end what it is doing.

    Returns:
        `(select, valid)`, each `(batch, kept)`: column numbers into `scores`, rising, and whether each is real; and
        whether all are, as far as that is known.
    """
    batch, tokens = scores.shape
    real = [tokens] * batch if whole else valid.sum(1).tolist()
    wanted = [stage_count(n, keep, 0) if n else 0 for n in real]
    if most is None or most > min(wanted):
        held = protected.sum(1).tolist()
        wanted = [stage_count(n, keep, p) if n else 0 for n, p in zip(real, held, strict=True)]
    width = max(wanted)
    ranked = scores.masked_fill(protected, math.inf).masked_fill(~valid, -math.inf)
    # Flip before a stable sort: equal scores are then taken newest first, on every device.
    order = ranked.flip(1).argsort(dim=1, descending=True, stable=True)[:, :width]
    select = tokens - 1 - order
    if min(wanted) == width:
        return select.sort(dim=1).values, torch.ones_like(select, dtype=torch.bool), True
    real_width = torch.tensor(wanted, device=scores.device).unsqueeze(1)
    chosen = torch.arange(width, device=scores.device).unsqueeze(0) < real_width
    select, position = select.sort(dim=1)
    return select, chosen.gather(1, position), False
