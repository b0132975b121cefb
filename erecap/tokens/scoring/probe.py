"""Attention weights of the newest token, taken where every architecture passes: transformers' attention interface.

While a scorer asks for them, `erecap_x` replaces the model's attention implementation `x`. It calls `x`. In the layers
before a stage it also computes the last query's softmax over the stored keys, after RoPE and any normalisation.
"""

from __future__ import annotations

import sys
import threading
import weakref
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PREFIX = "erecap_"


class _Current(threading.local):
    """The state of this thread: the read in progress, and the caches of its open pruning contexts."""

    def __init__(self) -> None:
        self.reading: Any = None
        self.layers: frozenset[int] = frozenset()  # layers whose attention weights are wanted
        # By their context, in the order in which these were opened. Weak: an interrupt may break off a close.
        self.caches: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self.collect: dict[int, torch.Tensor] | None = None  # by layer, over all stored keys
        self.outer_mask: tuple[Any, Any] | None = None  # a cache, and the 2-D mask that a class around the decoder got
        self.rope_length: int | None = None  # tokens of the sequence whose angles are wanted; None: of the call
        self.rope_noted: dict[str, Any] = {}  # what a rotary module had noted before our call
        self.over_heads: Any = None  # of a model that is split over processes: the mean over the heads of all
        self.attend: Any = None  # called in place of the attention function, which is its first argument


current = _Current()


def base_name(implementation: str) -> str:
    """The implementation's own name, without the prefix under which it is probed."""
    return implementation.removeprefix(PREFIX)


def install(config: Any) -> None:
    """Let the model with this configuration run its attention through the probe."""
    name = config._attn_implementation
    if name not in ("sdpa", "eager") and not name.startswith("flash_attention"):
        raise ValueError(f"attention scores need attn_implementation sdpa, eager or flash_attention_*, not {name!r}")

    def probed(module, query, key, value, attention_mask, **kwargs):  # type: ignore[no-untyped-def]
        if current.attend is not None:
            return current.attend(_base_function(name, module), module, query, key, value, **kwargs)
        if current.collect is not None:
            scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
            mass = _mass(config, query, key, attention_mask, scaling, kwargs.get("softcap"))
            current.collect[module.layer_idx] = mass
        reading = current.reading
        if reading is not None and module.layer_idx in current.layers:
            scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
            reading.attention_mass = _mass(config, query, key, attention_mask, scaling, kwargs.get("softcap"))
            reading.attention_mass = reading.attention_mass[:, -reading.live.width :]
        return _base_function(name, module)(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register(PREFIX + name, probed)
    # Without this, other caches on the same model would silently get no mask.
    AttentionMaskInterface.register(PREFIX + name, AttentionMaskInterface._global_mapping[name])
    config._attn_implementation = PREFIX + name


def remove(config: Any) -> None:
    """Undo `install`."""
    config._attn_implementation = base_name(config._attn_implementation)


def _base_function(name: str, module: torch.nn.Module) -> Any:
    if name == "eager":  # not in the registry: each architecture has its own, beside its attention class
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[name]


def _mass(config: Any, *arguments: Any) -> torch.Tensor:
    """`last_query_mass` over all heads of the model, wherever they are.

    Raises:
        ValueError: the heads are split over processes, and no engine leads these.
    """
    mass = last_query_mass(*arguments)
    if current.over_heads is not None:
        return current.over_heads(mass)
    if (getattr(getattr(config, "distributed_config", None), "tp_size", None) or 1) > 1:
        raise ValueError("attention weights of a split model rank tokens in sessions of rank 0 only (docs/devices.md)")
    return mass


def last_query_mass(
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    softcap: float | None,
) -> torch.Tensor:
    """Softmax of the last query over all stored keys, mean over heads.

    Args:
        query: `(batch, heads, queries, head_dim)`.
        key: `(batch, kv_heads, keys, head_dim)`.
        attention_mask: None, bool (True = visible) or additive, `(batch, 1, queries, keys)`; or `(batch, keys)`.

    Returns:
        `(batch, keys)` float32; rows sum to 1.
    """
    batch, heads, _, dim = query.shape
    groups = heads // key.shape[1]
    last = query[:, :, -1].reshape(batch, key.shape[1], groups, dim).float()
    logits = torch.einsum("bkgd,bknd->bkgn", last, key.float()) * scaling
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if attention_mask is not None:
        row = attention_mask[:, None, None, :] if attention_mask.ndim == 2 else attention_mask[:, :, -1:, :]
        if row.dtype == torch.bool or not row.is_floating_point():
            logits = logits.masked_fill(~row.bool(), torch.finfo(torch.float32).min)
        else:
            logits = logits + row.float()
    return logits.softmax(-1).mean(dim=(1, 2))


def refuse_dropped_cache(config: Any, inputs: torch.Tensor) -> None:
    """Stop where Phi3 has thrown the pruned cache away.

    Models with long-rope restart from an empty stock cache when the sequence crosses
    `original_max_position_embeddings`, because keys rotated with the short factors no longer fit. The answer
    would be right and unpruned, and nobody would know.

    Raises:
        ValueError: that has just happened in an open pruning context of this thread.
    """
    switch = getattr(config, "original_max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if switch is None or rope.get("rope_type") != "longrope" or not current.caches:
        return
    cache = list(current.caches.values())[-1]
    if 0 < cache.get_seq_length() <= switch < inputs.shape[1]:
        raise ValueError(
            f"the sequence has crossed this model's long-rope switch at {switch} tokens, where it drops its KV cache; "
            f"keep prompt and generated tokens together at or below {switch}, or start above it"
        )
