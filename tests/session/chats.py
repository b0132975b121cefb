"""Tiny models with a tokenizer's vocabulary, and conversations that grow."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from tests.context.small_tokenizers import byte_level
from tests.tokens import models


@cache
def model(name: str = "llama", window: int = 4096) -> Any:
    """A tiny model of that architecture over the byte-level tokenizer's vocabulary."""
    kind, config = models.tiny_config(name)
    tokenizer = byte_level()
    config.vocab_size, config.max_position_embeddings = len(tokenizer), window
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    torch.manual_seed(31)
    made = kind(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
    made.generation_config.eos_token_id = tokenizer.eos_token_id
    made.generation_config.pad_token_id = tokenizer.pad_token_id
    return made


def start() -> list[dict]:
    """System and first user message."""
    return [
        {"role": "system", "content": "You plan for a robot."},
        {"role": "user", "content": "Goal: cool the apple 1.\nYou see a fridge 1 and a shelf 2."},
    ]


def turn(answer: str, number: int) -> list[dict]:
    """The messages that a host appends after an answer: the answer as it was, and its outcome."""
    return [
        {"role": "assistant", "content": answer},
        {"role": "user", "content": f"> go to shelf {number}\nOn the shelf {number} you see a mug {number * 7}."},
    ]
