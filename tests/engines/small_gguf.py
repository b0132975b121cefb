"""Tiny GGUF files of the llama architecture, written in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType

SIZES = {"layers": 3, "hidden": 32, "inner": 48, "heads": 4, "kv_heads": 2, "window": 4096}


def random_weights(vocabulary: int, seed: int = 0, **sizes: int) -> dict[str, np.ndarray]:
    """Weights by the names that the file gives them."""
    s = SIZES | sizes
    drawn = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (drawn.standard_normal((rows, columns)) * 0.08 * 4).astype(np.float32)

    width = s["hidden"] // s["heads"] * s["kv_heads"]
    found = {"token_embd.weight": matrix(vocabulary, s["hidden"]), "output.weight": matrix(vocabulary, s["hidden"])}
    found["output_norm.weight"] = np.ones(s["hidden"], np.float32)
    shapes = {
        "attn_q": (s["hidden"], s["hidden"]), "attn_k": (width, s["hidden"]), "attn_v": (width, s["hidden"]),
        "attn_output": (s["hidden"], s["hidden"]), "ffn_gate": (s["inner"], s["hidden"]),
        "ffn_up": (s["inner"], s["hidden"]), "ffn_down": (s["hidden"], s["inner"]),
    }  # fmt: skip
    for layer in range(s["layers"]):
        found |= {f"blk.{layer}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        found |= {f"blk.{layer}.{name}.weight": np.ones(s["hidden"], np.float32) for name in ("attn_norm", "ffn_norm")}
    return found


def write_gguf(
    path: Path,
    weights: dict[str, np.ndarray],
    *,
    architecture: str = "llama",
    tokenizer: Any = None,
    base: float = 10000.0,
    **sizes: int,
) -> Path:
    """Write a file of float32 weights.

    Args:
        tokenizer: a byte-level one of transformers, whose tokens and template go into the file; None: no text.
        base: of the rotary angles.
        sizes: those of `SIZES` that are others; `sliding`: window of its attention.
    """
    s, vocabulary = SIZES | sizes, len(weights["token_embd.weight"])
    out = GGUFWriter(path, architecture)
    out.add_context_length(s["window"])
    out.add_embedding_length(s["hidden"])
    out.add_block_count(s["layers"])
    out.add_feed_forward_length(s["inner"])
    out.add_head_count(s["heads"])
    out.add_head_count_kv(s["kv_heads"])
    out.add_layer_norm_rms_eps(1e-6)
    out.add_rope_freq_base(base)
    out.add_rope_dimension_count(s["hidden"] // s["heads"])
    out.add_vocab_size(vocabulary)
    if "sliding" in s:
        out.add_sliding_window(s["sliding"])
    if tokenizer is None:
        out.add_tokenizer_model("none")
    else:
        _add_tokenizer(out, tokenizer)
    for name, tensor in weights.items():
        out.add_tensor(name, tensor, raw_dtype=GGMLQuantizationType.F32)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def _add_tokenizer(out: GGUFWriter, tokenizer: Any) -> None:
    import json

    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
    tokens = [""] * len(tokenizer)
    for text, number in {**model["vocab"], **{text: number for number, text in added.items()}}.items():
        tokens[number] = text
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list(tokens)
    out.add_token_types([TokenType.CONTROL if n in added else TokenType.NORMAL for n in range(len(tokens))])
    out.add_token_merges([" ".join(merge) for merge in model["merges"]])
    out.add_eos_token_id(tokenizer.eos_token_id)
    out.add_add_bos_token(False)
    out.add_chat_template(tokenizer.chat_template)


def weights_of(model: Any) -> dict[str, np.ndarray]:
    """The weights of a llama model of transformers, as a GGUF file has them: rotated numbers side by side."""
    config, found = model.config, {}
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for name, tensor in model.state_dict().items():
        array = tensor.float().numpy()
        if name.startswith("model.layers."):
            layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            if part.endswith(("q_proj", "k_proj")):
                heads = config.num_attention_heads if part.endswith("q_proj") else config.num_key_value_heads
                halves = array.reshape(heads, 2, -1, array.shape[1])
                array = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))
            found[f"blk.{layer}.{names[part]}.weight"] = array
        else:
            there = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm",
                     "lm_head.weight": "output"}  # fmt: skip
            found[f"{there[name]}.weight"] = array
    return found


def sizes_of(model: Any) -> dict[str, int]:
    """The sizes of a llama model of transformers."""
    c = model.config
    return {
        "layers": c.num_hidden_layers, "hidden": c.hidden_size, "inner": c.intermediate_size,
        "heads": c.num_attention_heads, "kv_heads": c.num_key_value_heads, "window": c.max_position_embeddings,
    }  # fmt: skip
