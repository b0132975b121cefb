"""Small random models of every causal architecture that transformers knows."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 320
LAYERS = 8
WINDOW = 256  # positions

# Sizes by the name of a field, wherever a configuration has it.
_SIZES: dict[str, Any] = {
    **dict.fromkeys(
        ("vocab_size", "unpadded_vocab_size", "vocab_size_per_layer_input", "decoder_vocab_size"), VOCABULARY
    ),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "word_embed_proj_dim", "emb_dim", "embedding_size"), 64),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "ffn_hidden_size", "decoder_ffn_dim", "encoder_ffn_dim", "dff", "dim_ff",
         "intermediate_size_mlp", "dense_intermediate_size", "d_inner", "feed_forward_size"), 96
    ),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size",
                     "expert_ffn_hidden_size", "moe_shared_expert_intermediate_size",
                     "shared_experts_intermediate_size"), 32),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers",
         "num_decoder_layers", "num_encoder_layers"), LAYERS
    ),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "attention_heads",
         "encoder_attention_heads", "num_decoder_attention_heads", "num_encoder_attention_heads",
         "swa_num_attention_heads"), 4
    ),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "kv_n_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "kv_channels", "dim_head",
                     "d_head", "attention_head_size", "swa_head_dim", "d_kv"), 16),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank"), 16),
    "qk_head_dim": 32,
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "moe_top_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "o_groups"), 1),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "local_attention",
                     "window_size"), 24),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length",
                     "max_target_positions", "model_max_length"), WINDOW),
}  # fmt: skip

# What an architecture needs besides, because its fields depend on each other.
_EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [3, 7]},
    "codegen": {"rotary_dim": 8},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {
        "sliding_window": 24,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 1,
    },
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16},
    "gemma3n": {"text_config": {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 4}},
    "gemma3n_text": {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 4},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0}},
    "gpt_neo": {"attention_types": [[["global", "local"], 4]]},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 4},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "kimi_linear": {"linear_num_heads": 4, "linear_head_dim": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 4},
    "mamba2": {"head_dim": 32, "n_groups": 1},
    "minimax_m3_vl_text": {"index_block_size": 8, "index_topk_blocks": 2},
    "ministral": {"head_dim": 16},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "reformer": {"axial_pos_embds_dim": (16, 48), "axial_pos_shape": (16, 16)},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {"layer_types": ["mamba", "hybrid"] * 4, "hybrid_layer_ids": [1, 3, 5, 7]},
    "zaya": {"num_experts_per_tok": 1},
}


def architectures() -> list[str]:
    """The `model_type` of every causal architecture of the installed transformers, sorted."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def small_config(kind: str) -> PreTrainedConfig:
    """A configuration of the architecture `kind` with a few narrow layers."""
    return shrunk(CONFIG_MAPPING[kind], _EXCEPTIONS.get(kind, {}))


def shrunk(kind: type[PreTrainedConfig], given: dict[str, Any]) -> PreTrainedConfig:
    """A configuration of that class with small sizes, and the fields `given`; parts of it likewise."""
    known = kind()
    fields = known.to_dict()
    sizes: dict[str, Any] = {name: size for name, size in _SIZES.items() if isinstance(fields.get(name), int)}
    if "kv_lora_rank" in fields:  # their heads share one compressed key, so there are no fewer of keys
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    if isinstance(fields.get("is_decoder"), bool):  # encoders that can be decoders, too
        sizes["is_decoder"] = True
    number = 3
    for name, value in fields.items():
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, (int, list)):
            if name in _TOKENS:
                sizes[name] = _TOKENS[name]
            else:
                sizes[name], number = number, number + 1
    for name in known.sub_configs:
        part = getattr(known, name, None)
        if isinstance(part, PreTrainedConfig):
            sizes[name] = shrunk(type(part), given.get(name, {}))
    return kind(**{**sizes, **{name: value for name, value in given.items() if name not in known.sub_configs}})


_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}


def small_model(kind: str) -> PreTrainedModel:
    """A random float32 model of the architecture `kind`, in eval mode; the same weights every time."""
    config = small_config(kind)
    made = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if not isinstance(config, made.config_class):  # of a multimodal model, whose causal class has the text part only
        config = config.get_text_config(decoder=True)
    return sharpened(made, config)


def sharpened(made: Any, config: PreTrainedConfig) -> PreTrainedModel:
    """A model of the class `made`, whose attention and logits are sharp; see `small_model`."""
    torch.manual_seed(20)
    model = made(config).eval()
    # Default initialisation makes attention nearly uniform and logits nearly flat; sharpen both, so that a wrong
    # mask or position shows in the tokens.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4.0)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model
