"""The likeliest of some tokens, by their own rows of the head.

A row of the head gives what it gives among all others, up to the order in which a product is summed. Where two tokens
are closer than that may change, the whole head decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from erecap.decoding.linear import Head

# Rows of the head are gathered before they are multiplied: beyond this share of the vocabulary that gains nothing.
MOST = 1 / 16
# Of the two highest logits, over the highest: nearer ones may be in another order in another product. An error of
# 1e-4 is more than any product in float32 has; results of lower precision are rounded to steps of their own.
NEAR, STEPS = 1e-4, 3


def pays(among: Sequence[Sequence[int]], head: Head) -> bool:
    """True if choosing among these sets is less work than the whole head."""
    return sum(len(ids) for ids in among) <= MOST * head.tokens


def best_of(head: Head, normed: torch.Tensor, among: Sequence[Sequence[int]]) -> list[int]:
    """Of each set the id with the highest logit, of equal ones the lowest.

    Args:
        normed: `(tokens, hidden_size)`, the input of the head; the sets belong to its last rows.
    """
    found: list[int] = []
    whole: torch.Tensor | None = None
    rounded = normed.dtype not in (torch.float32, torch.float64) and not head.packed
    near = STEPS * torch.finfo(normed.dtype).eps if rounded else NEAR
    with torch.no_grad():
        for place, ids in enumerate(among, start=len(normed) - len(among)):
            if len(ids) == 1:
                found.append(ids[0])
                continue
            index = torch.tensor(sorted(ids), dtype=torch.long, device=normed.device)
            logits = head.some(normed[place : place + 1], index)[0].float()
            first, second = logits.topk(2).values.tolist()
            if not first - second > near * max(1.0, abs(first), abs(second)):
                whole = head(normed) if whole is None else whole
                logits = whole[place].index_select(0, index).float()
            # Of equal ones the first, as numpy's argmax takes it; that of torch does not promise it.
            found.append(int(index[int((logits == logits.max()).nonzero()[0])]))
    return found
