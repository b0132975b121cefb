"""Limits of the connector: the versions of vLLM and the kinds of layers that it serves. Without vLLM."""

from __future__ import annotations

from typing import Any

TESTED = "0.32"  # the versions of vLLM whose connector interface it is written for
STORE_MB = 4096


def version_problem(version: str) -> str | None:
    """Reason why a version of vLLM is not served; None: it is."""
    if version.split("+")[0].startswith(f"{TESTED}."):
        return None
    return f"it is made for vLLM {TESTED}, whose interface for connectors may change; this is {version}"


def layers_problem(config: Any, cache: Any) -> str | None:
    """Reason why a model's layers cannot be served; None: they can.

    Args:
        config, cache: vLLM's own configuration, and that of its paged cache.
    """
    if len(cache.kv_cache_groups) != 1:
        return "the model's layers store different tokens, and the connector serves those that all store the same"
    spec = cache.kv_cache_groups[0].kv_cache_spec
    if type(spec).__name__ != "FullAttentionSpec" or spec.sliding_window or spec.attention_chunk_size:
        return "the model's layers do not attend to everything before them; take a decoder with full attention"
    if config.cache_config.cache_dtype not in ("auto", "bfloat16", "float16", "float32"):
        return f"keys and values are packed as {config.cache_config.cache_dtype}; leave --kv-cache-dtype at auto"
    if config.parallel_config.decode_context_parallel_size > 1:
        return "tokens are spread over ranks; leave out decode context parallelism"
    return None
