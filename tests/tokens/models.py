"""Tiny random models of every architecture that pruning is tested on."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from erecap.registries import LEARNED
from erecap.tokens.scoring.learned import LearnedScorer, Pruner

LAYERS = 8
WINDOW = 12  # shorter than the test prompts, so that windows matter

_COMMON = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": None, "tie_word_embeddings": False,
}  # fmt: skip

ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gemma3", "phi3")


def tiny_config(name: str):  # type: ignore[no-untyped-def]
    if name == "llama":
        return LlamaForCausalLM, LlamaConfig(**_COMMON)
    if name == "qwen2":
        return Qwen2ForCausalLM, Qwen2Config(**_COMMON)
    if name == "qwen3":
        return Qwen3ForCausalLM, Qwen3Config(**_COMMON, head_dim=16)
    if name == "mistral":
        return MistralForCausalLM, MistralConfig(**_COMMON, sliding_window=WINDOW)
    if name == "gemma3":
        # Sliding layers with their own rope, every third layer global.
        return Gemma3ForCausalLM, Gemma3TextConfig(
            **_COMMON,
            head_dim=16,
            sliding_window=WINDOW,
            query_pre_attn_scalar=16,
            layer_types=["full_attention" if i % 3 == 2 else "sliding_attention" for i in range(LAYERS)],
        )
    if name == "phi3":
        return Phi3ForCausalLM, Phi3Config(**_COMMON)
    raise KeyError(name)


@cache
def tiny(name: str, attention: str = "sdpa") -> PreTrainedModel:
    """A float32 model in eval mode; the same weights for the same name, whatever the attention."""
    kind, config = tiny_config(name)
    config._attn_implementation = attention
    torch.manual_seed(20)
    model = kind(config).eval()
    # Default initialisation makes attention nearly uniform and logits nearly flat; sharpen both, so that a wrong
    # mask or position shows in the tokens.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def random_pruner(stages: tuple[int, ...] = (1, 2, 3, 4, 6), hidden_size: int = 32) -> Pruner:
    """A learned pruner that has learned nothing; always the same weights."""
    torch.manual_seed(8)
    return Pruner(hidden_size, stages)


def scorer_of(name: str) -> str | LearnedScorer:
    """The argument of `PruneConfig` for that scorer."""
    return LearnedScorer(random_pruner()) if name == LEARNED else name


def prompt(tokens: int = 40, seed: int = 3) -> dict[str, torch.Tensor]:
    """One random prompt `(1, tokens)`."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 97, (1, tokens), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def padded(lengths: tuple[int, ...] = (40, 31, 22), seed: int = 5) -> dict[str, torch.Tensor]:
    """Left-padded random prompts `(len(lengths), max(lengths))`."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.randint(2, 97, (len(lengths), width), generator=generator)
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths])
    return {"input_ids": ids * mask, "attention_mask": mask}


class NoAttention(torch.nn.Module):
    """Stands where attention was, adds nothing and stores nothing."""

    def forward(self, hidden_states: torch.Tensor, **kwargs: object) -> tuple[torch.Tensor, None]:
        return torch.zeros_like(hidden_states), None


def without_attention(model: PreTrainedModel, layer: int) -> PreTrainedModel:
    """A copy of `model` in which one layer has no attention, so that it never stores anything."""
    copied = deepcopy(model)
    copied.get_decoder().layers[layer].self_attn = NoAttention()
    return copied
