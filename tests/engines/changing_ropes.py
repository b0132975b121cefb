"""Tiny models whose rotary embeddings follow the length of the sequence, with a switch at 128 tokens."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SWITCH = 128
SIZES = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None,
}  # fmt: skip
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8,
    "long_factor": [1.0, 1.5, 2.0, 4.0, 8.0, 12.0, 20.0, 32.0], "original_max_position_embeddings": SWITCH,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
# Those of the first two read everything again where an answer crosses the switch; the others do not.
MODELS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "phi3": (Phi3ForCausalLM, Phi3Config, {"original_max_position_embeddings": SWITCH, "rope_parameters": LONG}),
    "phimoe": (
        PhimoeForCausalLM, PhimoeConfig,
        {"original_max_position_embeddings": SWITCH, "num_local_experts": 2,
         "rope_parameters": LONG | {"short_mscale": 1.1, "long_mscale": 1.3}},
    ),
    "llama": (LlamaForCausalLM, LlamaConfig, {"rope_parameters": LONG}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"rope_parameters": LONG}),
    "dynamic": (LlamaForCausalLM, LlamaConfig, {"max_position_embeddings": SWITCH, "rope_parameters": DYNAMIC}),
    "dynamic qwen2": (Qwen2ForCausalLM, Qwen2Config, {"max_position_embeddings": SWITCH, "rope_parameters": DYNAMIC}),
}  # fmt: skip


@cache
def changing(name: str) -> Any:
    """The model of that name, of 1,024 positions (512 under dynamic NTK)."""
    kind, config, rope = MODELS[name]
    torch.manual_seed(0)
    made = kind(config(**{**SIZES, "max_position_embeddings": 1024, **copy.deepcopy(rope)}))
    for parameter in made.parameters():
        parameter.data *= 4 if parameter.ndim == 2 else 1
    return made.eval()


def bare_answer(model: Any, ids: torch.Tensor, new: int) -> list[int]:
    """Ids that a copy of the bare model generates behind `ids` `(1, n)`; dynamic NTK keeps its longest length."""
    fresh = copy.deepcopy(model)
    output = fresh.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, eos_token_id=2
    )
    return output[0, ids.shape[1] :].tolist()
