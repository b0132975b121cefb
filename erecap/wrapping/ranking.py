"""Importance scores of a remote chat's records, by a small model on this machine."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch

_AT_MOST = 512  # tokens of a record that are read; longer ones are judged by their beginning


class SelfInformation:
    """Bits per token that a language model needs for a text: predictable text is ranked low.

    After Selective Context (Li et al., EMNLP 2023, arXiv:2310.06201), which ranks phrases; here whole observations are
    ranked. A text is read once, however often it is asked about.

    Example:
        model, tokenizer = erecap.models.load("smollm2-135m-instruct")
        planner = erecap.wrap(planner, keep_tokens=3000, rank=SelfInformation(model, tokenizer))

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        remembered: texts whose scores are kept.
    """

    def __init__(self, model: Any, tokenizer: Any, *, remembered: int = 4096) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._worth = lru_cache(remembered)(self._read)

    def __call__(self, text: str) -> float:
        """Bits per token of `text`; 0 for a text of fewer than two tokens."""
        return self._worth(text)

    def _read(self, text: str) -> float:
        ids = self._tokenizer(text, add_special_tokens=False, truncation=True, max_length=_AT_MOST)["input_ids"]
        if len(ids) < 2:
            return 0.0
        tokens = torch.tensor([ids], device=self._model.device)
        with torch.inference_mode():
            logits = self._model(input_ids=tokens).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits, tokens[0, 1:])
        return float(loss) / math.log(2)
