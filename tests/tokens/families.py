"""Small models of many architectures, made by the generator of the architecture table."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from tools.architectures.small import VOCABULARY, sharpened, shrunk, small_model

GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}


@cache
def family(kind: str) -> PreTrainedModel:
    """The small model of that `model_type`; shared, so leave it as you found it."""
    return small_model(kind)


def with_images(name: str, **more: Any) -> PreTrainedModel:
    """A small model of a class for pictures and text; `more` are fields of its configuration."""
    kind = getattr(transformers, f"{name}ForConditionalGeneration")
    model = sharpened(kind, shrunk(getattr(transformers, f"{name}Config"), more))
    return model


def ids_of(tokens: int, seed: int = 1) -> torch.Tensor:
    """Random token ids `(1, tokens)` without a meaning."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(20, VOCABULARY, (1, tokens), generator=generator)


def whole(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """`ids` as arguments of `generate`."""
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
