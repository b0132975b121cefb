"""The rotation of a model's keys in vLLM: named by its configuration, and checked on keys that vLLM stored."""

from __future__ import annotations

from typing import Any

import torch

from erecap.engines.rotate_keys import Turn

TOLERANCE = 2e-2  # distance of two keys as a share of their norm; bfloat16 keeps eight bits
NEIGHBOURS = ("glm", "glm4", "cohere", "cohere2", "ernie4_5")  # kinds of model that turn neighbouring numbers together
EXACT = ("default", "linear", "llama3", "yarn")  # embeddings whose angle is a position times a frequency


def turn_of(config: Any) -> Turn | str:
    """The rotation that a configuration of transformers names, or the reason why there is none to rely on."""
    config = config.get_text_config(decoder=True)
    kind = config.model_type
    rope = dict(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {})
    if any(isinstance(value, dict) for value in rope.values()) or getattr(config, "no_rope_layers", None):
        return f"{kind} models have layers with different positions; their keys cannot change position"
    name = rope.get("rope_type", rope.get("type", "default"))
    theta = rope.get("rope_theta", getattr(config, "rope_theta", None))
    if theta is None:
        return f"{kind} models have no rotary embeddings; their keys cannot change position"
    if name not in EXACT:
        return f"rotary embeddings of kind {name} depend on the length; keys cannot change position"
    if name == "default":
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        share = rope.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None) or 1.0)
        pairs = int(dim * share) // 2
        frequencies = 1.0 / theta ** (torch.arange(pairs, dtype=torch.float32) / pairs)
    else:
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        frequencies = ROPE_INIT_FUNCTIONS[name](config, torch.device("cpu"))[0].float()
    return Turn(frequencies, neighbours=kind in NEIGHBOURS)


def turned(turn: Turn, keys: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """`keys` `(layers, n, kv_heads, head_dim)`, each token's turned by `shift` `(n,)` positions."""
    if not bool(shift.any()):
        return keys
    return turn(keys.transpose(1, 2), shift).transpose(1, 2).to(keys.dtype)


def disagreement(turn: Turn, ids: torch.Tensor, keys: torch.Tensor, first: torch.Tensor) -> float | None:
    """Check the rotation on the first layer, whose keys depend on a token and its position alone.

    Args:
        ids: `(n,)` tokens.
        keys: `(n, kv_heads, head_dim)` of the first layer, at positions `first` `(n,)`.

    Returns:
        The largest distance of a token's key to that of the same token at another position, turned to it, as a share
        of the key's norm; None: no token stands at two of the positions.
    """
    order = torch.argsort(ids, stable=True)
    same = ids[order][1:] == ids[order][:-1]
    one, other = order[:-1][same], order[1:][same]
    if not len(one):
        return None
    shift = first[other] - first[one]
    moved = turn(keys[one].transpose(0, 1).unsqueeze(0), shift)[0].transpose(0, 1)
    wanted = keys[other].float()
    return float(((moved - wanted).norm(dim=-1) / wanted.norm(dim=-1).clamp(min=1e-30)).max())
