"""Padded batches: several transcripts in one forward pass, to keep an accelerator busy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from erecap.tokens.cache.masks import layer_windows
from erecap.training.sequences import PlanSequence, by_layer, plan_logits, require_sdpa

ALIGNED = 8  # attention kernels copy masks whose rows are no multiple of this


def batches(sequences: Sequence[PlanSequence], tokens: int | None) -> list[list[PlanSequence]]:
    """Groups of similar length, longest first.

    Args:
        tokens: most tokens of a group, padding included; a single sequence may have more. None: each by itself, in
            the order given.
    """
    if tokens is None:
        return [[sequence] for sequence in sequences]
    groups: list[list[PlanSequence]] = []
    for sequence in sorted(sequences, key=lambda one: -one.tokens):
        if groups and (len(groups[-1]) + 1) * groups[-1][0].tokens <= tokens:
            groups[-1].append(sequence)
        else:
            groups.append([sequence])
    return groups


def batch_logits(
    model: Any, sequences: Sequence[PlanSequence], mays: Sequence[torch.Tensor | None]
) -> list[torch.Tensor]:
    """As `plan_logits` for each of `sequences`, up to rounding, in one forward pass.

    Args:
        mays: for each sequence, what its tokens may attend to at most, as in `plan_logits`.

    Raises:
        ValueError: a mask is needed, and the attention implementation is not `sdpa`.
    """
    if len(sequences) == 1:
        return [plan_logits(model, sequences[0], mays[0])]
    device = model.device
    length = -(-max(sequence.tokens for sequence in sequences) // ALIGNED) * ALIGNED
    ids = torch.zeros(len(sequences), length, dtype=torch.long)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: sequence.tokens] = sequence.ids
    extra: dict[str, Any] = {}
    # Padding stands behind everything else, so that in plain causal order nothing sees it.
    if any(sequence.branches for sequence in sequences) or any(may is not None for may in mays):
        extra = _masked(model.config.get_text_config(decoder=True), sequences, mays, length, device)
    rows = torch.cat([sequence.rows for sequence in sequences]).unique()
    logits = model(input_ids=ids.to(device), use_cache=False, logits_to_keep=rows.to(device), **extra).logits
    return [
        logits[number, torch.searchsorted(rows, sequence.rows).to(device)] for number, sequence in enumerate(sequences)
    ]


def _masked(
    config: Any, sequences: Sequence[PlanSequence], mays: Sequence[torch.Tensor | None], length: int, device: Any
) -> dict[str, Any]:
    require_sdpa(config)
    positions = torch.arange(length).repeat(len(sequences), 1)
    for row, sequence in zip(positions, sequences, strict=True):
        row[: sequence.tokens] = sequence.positions()
    masks = {}
    for window in set(layer_windows(config)):
        # What is padded sees itself: a row without any visible token would be no number.
        mask = torch.eye(length, dtype=torch.bool, device=device).repeat(len(sequences), 1, 1)
        for own, sequence, may in zip(mask, sequences, mays, strict=True):
            visible = sequence.visible(window, device)[0, 0]
            own[: sequence.tokens, : sequence.tokens] = visible if may is None else visible & may[0, 0].to(device)
        masks[window] = mask.unsqueeze(1)
    return {"position_ids": positions.to(device), "attention_mask": by_layer(config, masks)}
