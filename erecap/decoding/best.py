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
    with torch.no_grad():
        for place, ids in enumerate(among, start=len(normed) - len(among)):
            if len(ids) == 1:
                found.append(ids[0])
                continue
            index = torch.tensor(sorted(ids), dtype=torch.long, device=normed.device)
            logits, error = (rows[0] for rows in head.some(normed[place : place + 1], index))
            best = logits.argmax()
            others = (logits + error).index_fill(0, best, -torch.inf)
            if not bool(others.max() < logits[best] - error[best]):
                whole = head(normed) if whole is None else whole
                # As the loop chooses from all logits: of equal ones the first, which torch's argmax does not promise.
                best = whole[place].index_select(0, index).float().cpu().numpy().argmax()
            found.append(int(index[int(best)]))
    return found
