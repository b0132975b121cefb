"""Attention masks for caches whose layers store different tokens, built from positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from erecap.tokens.cache.layout import Layout


def layer_windows(config: Any) -> list[int | None]:
    """Sliding window of each layer, None where a layer sees everything.

    Qwen2, Qwen3 and Gemma3 name each layer's kind in `layer_types`; Mistral and Phi3 state one window for all
    layers in the configuration only.
    """
    layers = config.num_hidden_layers
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return [window if kind == "sliding_attention" else None for kind in kinds[:layers]]
    return [window] * layers


def visible(stored: Layout, live: Layout, window: int | None) -> torch.Tensor | None:
    """The stored tokens that each live token may attend to.

    Args:
        stored: tokens whose keys the layer holds after this read, the live ones last.
        live: tokens being read.
        window: sliding window of the layer, in positions, or None. Positions, because splicing closes them up.

    Returns:
        `(batch, 1, live, stored)` bool, True where attention is allowed; None where plain causal order says the
        same: nothing hidden by padding or window, and either nothing stored before or a single query.
    """
    queries, keys = live.width, stored.width
    plain = stored.all_valid and (window is None or stored.span < window)
    if plain and (queries == keys or queries == 1):
        return None
    query, key = live.index.unsqueeze(2), stored.index.unsqueeze(1)
    allowed = (key <= query) & stored.valid.unsqueeze(1)
    if window is not None:
        near = stored.positions.unsqueeze(1) > live.positions.unsqueeze(2) - window
        allowed = allowed & near
    if not live.all_valid:
        # A row that may see nothing becomes NaN in some kernels. Padding sees itself; nobody sees padding.
        allowed = allowed | (key == query)
    return allowed.unsqueeze(1)


def as_attention_mask(
    allowed: torch.Tensor | None,
    implementation: str,
    stored: Layout,
    live: Layout,
    window: int | None,
    dtype: torch.dtype,
) -> torch.Tensor | None:
    """`allowed` in the form that an attention implementation of transformers takes.

    Raises:
        ValueError: an implementation that cannot express the mask.
    """
    if implementation == "sdpa":
        return allowed
    if implementation == "eager":
        if allowed is None:
            # Eager attention masks nothing by itself.
            allowed = (stored.index.unsqueeze(1) <= live.index.unsqueeze(2)).unsqueeze(1)
        bias = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
        return bias.masked_fill(~allowed, torch.finfo(dtype).min)
    if implementation.startswith("flash_attention"):
        if window is not None and stored.span >= window:
            raise ValueError(
                f"{implementation} counts a sliding window of {window} in stored tokens, which is wrong once some "
                "are dropped; load the model with attn_implementation='sdpa'"
            )
        return None if stored.all_valid else stored.valid
    raise ValueError(implementation_problem(implementation))


def implementation_problem(implementation: str) -> str | None:
    """Reason why masks of ours do not fit an attention implementation; None: they do."""
    if implementation in ("sdpa", "eager") or implementation.startswith("flash_attention"):
        return None
    return (
        f"token pruning supports the attention implementations sdpa, eager and flash_attention_*, "
        f"not {implementation!r}; load the model with attn_implementation='sdpa'"
    )
