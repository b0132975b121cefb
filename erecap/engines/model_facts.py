"""Facts of a transformers model that tell whether stored keys and values are its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from erecap.decoding.revision import active_adapters
from erecap.engines.cache_files import StoredKind
from erecap.layers.applied import plan_of
from erecap.layers.removed import attends
from erecap.models.hashing import model_print
from erecap.parallel.placement import running_devices
from erecap.tokens.hooks import find_decoder

_FINGERPRINTS: WeakKeyDictionary[Any, tuple[int, dict[str, str]]] = WeakKeyDictionary()


def shape_of(config: Any, layers: int) -> str:
    """A model in short, for people; `fingerprint_of` tells whether saved keys fit."""
    parts = getattr(config, "per_layer_config", None)  # where layers differ, none speaks for all
    part = config if not parts else parts[0]
    heads = getattr(part, "num_key_value_heads", part.num_attention_heads)
    return f"{config.model_type}-{layers}x{config.hidden_size}-{heads}-{config.vocab_size}"


def fingerprint_of(model: Any, revision: int) -> dict[str, str]:
    """Digests of weights, adapters, configuration and precision; made once a revision."""
    known = _FINGERPRINTS.get(model)
    if known is None or known[0] != revision:
        digests, plan = model_print(model, active_adapters(model)), plan_of(model)
        if plan is not None:
            digests["layers"] = plan.digest()
        known = _FINGERPRINTS[model] = (revision, digests)
    return dict(known[1])


def stored_kind(model: Any, config: Any, window: int) -> StoredKind:
    """The kind of keys and values that the model stores; heads and width only where all layers have the same."""
    decoder = find_decoder(model)
    kind = StoredKind(model.dtype, tuple(running_devices(decoder)), window, config.hidden_size)
    attentions = [getattr(layer, "self_attn", None) for layer in decoder.layers if attends(layer)]
    heads, width = getattr(config, "num_key_value_heads", None), getattr(attentions[0], "head_dim", None)
    if not heads or not width:
        return kind
    projects = [getattr(attention, "k_proj", None) for attention in attentions]
    if any(getattr(project, "out_features", None) != heads * width for project in projects):
        return kind
    return replace(kind, heads=heads, width=width)
