"""Structural slices of one layer: whole KV groups of its attention, and channels of its MLP."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from erecap.errors import ModelError
from erecap.layers.journal import Journal
from erecap.layers.masking import head_columns

# Counts of heads that attention modules keep beside their weights.
QUERY_COUNTS, KEY_COUNTS = ("num_heads", "num_attention_heads"), ("num_key_value_heads",)


class OwnHeads:
    """A configuration as one attention reads it: the model's, with its own numbers of heads.

    Everything else is asked of the model's configuration at that moment, so that both change together.
    """

    def __init__(self, config: Any, heads: int, kv_heads: int) -> None:
        vars(self).update(_config=config, num_attention_heads=heads, num_key_value_heads=kv_heads)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_config" not in vars(self):  # copies ask before there is anything
            raise AttributeError(name)
        return getattr(vars(self)["_config"], name)


def slice_heads(journal: Journal, attention: Any, removed: tuple[int, ...], layer: int) -> None:
    """Remove the query heads `removed` of an attention, with the key and value head of each of their groups.

    Raises:
        ModelError: a head that is not there, a KV group that would be split, all heads, or weights that are not plain.
    """
    where = f"heads of layer {layer}"
    fused = hasattr(attention, "qkv_proj")
    inputs = [attention.qkv_proj] if fused else [getattr(attention, f"{name}_proj", None) for name in "qkv"]
    _check_plain(where, [*inputs, getattr(attention, "o_proj", None)])
    dim, groups = attention.head_dim, attention.num_key_value_groups
    heads = attention.o_proj.in_features // dim
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    if any(norm is not None and norm.weight.numel() != dim for norm in norms):
        raise ModelError(f"{where}: {type(attention).__name__} normalises all heads together; none can be removed")
    gone = set(removed)
    if max(gone) >= heads:
        raise ModelError(f"{where}: got {max(gone)}; allowed: 0 to {heads - 1}")
    for group in range(heads // groups):
        members = set(range(group * groups, (group + 1) * groups))
        if 0 < len(members & gone) < len(members):
            named = ", ".join(map(str, sorted(members & gone)))
            raise ModelError(
                f"{where}: head {named} cannot go without the rest of its KV group "
                f"{', '.join(map(str, sorted(members)))}; name whole groups"
            )
    kept = tuple(head for head in range(heads) if head not in gone)
    if not kept:
        raise ModelError(f"{where}: all {heads} are named; name the layer under attention instead")
    kept_groups = tuple(dict.fromkeys(head // groups for head in kept))
    queries, keys = head_columns(kept, dim), head_columns(kept_groups, dim)
    if fused:
        after = heads * dim
        _keep_rows(journal, inputs[0], torch.cat([queries, after + keys, after + heads // groups * dim + keys]))
    else:
        for projection, rows in zip(inputs, (queries, keys, keys), strict=True):
            _keep_rows(journal, projection, rows)
    _keep_columns(journal, attention.o_proj, queries)
    for names, number in ((QUERY_COUNTS, len(kept)), (KEY_COUNTS, len(kept_groups))):
        for name in names:
            if name in vars(attention):
                journal.set(attention, name, number)
    if "config" in vars(attention):
        journal.set(attention, "config", OwnHeads(attention.config, len(kept), len(kept_groups)))


def slice_channels(journal: Journal, mlp: Any, removed: tuple[int, ...], layer: int) -> None:
    """Remove the channels `removed` between the projections of an MLP.

    Raises:
        ModelError: a channel that is not there, all of them, or another kind of MLP.
    """
    where = f"channels of layer {layer}"
    joined = hasattr(mlp, "gate_up_proj")
    ups = [mlp.gate_up_proj] if joined else [getattr(mlp, f"{name}_proj", None) for name in ("gate", "up")]
    down = getattr(mlp, "down_proj", None)
    _check_plain(where, [*ups, down])
    channels = down.in_features  # type: ignore[union-attr]
    if max(removed) >= channels:
        raise ModelError(f"{where}: got {max(removed)}; allowed: 0 to {channels - 1}")
    gone = set(removed)
    kept = torch.tensor([channel for channel in range(channels) if channel not in gone], dtype=torch.long)
    if not len(kept):
        raise ModelError(f"{where}: all {channels} are named; name the layer under mlp instead")
    rows = torch.cat([kept, channels + kept]) if joined else kept
    for projection in ups:
        _keep_rows(journal, projection, rows)
    _keep_columns(journal, down, kept)


def _check_plain(where: str, projections: list[Any]) -> None:
    other = next((type(projection).__name__ for projection in projections if type(projection) is not nn.Linear), None)
    if other is not None:
        raise ModelError(
            f"{where}: a projection is {other}, not a plain linear layer; layers of this kind cannot be sliced"
            if other != "NoneType"
            else f"{where}: this kind of layer has other projections than those that can be sliced"
        )


def _keep_rows(journal: Journal, projection: Any, rows: torch.Tensor) -> None:
    rows = rows.to(projection.weight.device)
    journal.weight(projection, "weight", projection.weight.detach().index_select(0, rows))
    if projection.bias is not None:
        journal.weight(projection, "bias", projection.bias.detach().index_select(0, rows))
    journal.set(projection, "out_features", len(rows))


def _keep_columns(journal: Journal, projection: Any, columns: torch.Tensor) -> None:
    columns = columns.to(projection.weight.device)
    journal.weight(projection, "weight", projection.weight.detach().index_select(1, columns))
    journal.set(projection, "in_features", len(columns))
