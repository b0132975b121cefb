"""Judgement of a changed model on text that the search does not see: perplexity, and agreement of next tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from erecap.errors import RunError

MOST_NATS = 700.0  # a token; a perplexity above is no number of ours


class HeldOut:
    """Compares changed models with the dense one on the same sequences.

    Args:
        model: the dense model.
        ids: sequences of token ids.
    """

    def __init__(self, model: Any, ids: Sequence[Sequence[int]]) -> None:
        self._ids = [torch.tensor([list(row)], device=model.device) for row in ids]
        self._wanted: list[torch.Tensor] = []
        self.dense = self.judge(model)

    @torch.no_grad()
    def judge(self, model: Any) -> dict[str, Any]:
        """`perplexity`; `agreement`, the share of tokens after which both models name the same next one; `tokens`.

        Raises:
            RunError: logits that are not finite.
        """
        first = not self._wanted
        loss, same, tokens, predicted = 0.0, 0, 0, 0
        for number, row in enumerate(self._ids):
            logits = model(row, use_cache=False).logits[0].float()
            if not bool(torch.isfinite(logits).all()):
                raise RunError("logits on the held-out text are not finite; try --dtype float32")
            best = logits.argmax(-1)
            if first:
                self._wanted.append(best)
            same += int((best == self._wanted[number]).sum())
            tokens += len(best)
            loss += float(F.cross_entropy(logits[:-1], row[0, 1:], reduction="sum"))
            predicted += len(best) - 1
        mean = loss / predicted
        return {
            "perplexity": math.exp(min(mean, MOST_NATS)),
            "agreement": same / tokens,
            "tokens": tokens,
        }
