"""Bytes of the keys and values of one token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from erecap.tokens.cache.pruned_cache import PrunedCache

FEWEST = 16  # tokens that the memory given has to hold, as for `kv_tokens`


def bytes_per_token(model: Any, cache: PrunedCache | None = None) -> int:
    """Bytes of keys and values of a token that all layers store: as the cache has them, else as the model says."""
    from erecap.layers.applied import plan_of  # needs torch, which sessions on other engines do without

    layers = [layer for layer in cache.layers if layer.is_initialized] if cache is not None else []
    config, plan = model.config.get_text_config(decoder=True), plan_of(model)
    if len(layers) == config.num_hidden_layers - (0 if plan is None else len(plan.attention)):
        stored = [tensor for layer in layers for tensor in (layer.keys, layer.values) if tensor is not None]
        return sum(tensor.shape[1] * tensor.shape[3] * tensor.element_size() for tensor in stored)
    if plan is not None:
        groups = config.num_attention_heads // _kv_heads(config)
        left = [_kv_heads(config) - len(plan.heads.get(n, ())) // groups for n in plan.kept if n not in plan.attention]
        return 2 * sum(left) * _head_dim(config) * int(model.dtype.itemsize)
    # Where layers differ, as in Gemma4, the configuration has one part for each, and refuses to speak for all.
    parts = getattr(config, "per_layer_config", None) or [config] * config.num_hidden_layers
    return int(sum(2 * _kv_heads(part) * _head_dim(part) for part in parts) * model.dtype.itemsize)


def _kv_heads(config: Any) -> int:
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def check_memory(each: int, memory_bytes: int | None) -> None:
    """Refuse a memory bound that holds next to nothing of a model.

    Args:
        each: bytes per token.

    Raises:
        ValueError: fewer than 16 tokens fit.
    """
    if memory_bytes is not None and memory_bytes < FEWEST * each:
        raise ValueError(
            f"memory_bytes={memory_bytes} holds {memory_bytes // each} tokens of this model, {each} bytes each; "
            f"allowed: {FEWEST * each} or more"
        )
