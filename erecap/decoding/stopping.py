"""Parts that plug into `generate` of transformers: the end of prefill, stopping, and sampling."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from erecap.decoding.answer import AnswerWatcher
from erecap.decoding.answer import answer_ends as answer_ends


class PrefillClock(LogitsProcessor):
    """Notes when the first logits are there, which is the end of prefill."""

    def __init__(self, device: torch.device) -> None:
        self.ended = 0.0  # `time.perf_counter()` seconds
        self._device = device

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leaves `scores` `(batch, vocab)` as they are."""
        if not self.ended:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self.ended = time.perf_counter()
        return scores


class StopWatcher(AnswerWatcher, StoppingCriteria):
    """An `AnswerWatcher` that `generate` of transformers asks, for one row whose prompt has `prompt_length` tokens."""

    def __init__(self, tokenizer: Any, prompt_length: int, *watched: Any) -> None:
        super().__init__(tokenizer, *watched)
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """`(batch,)` bool: whether each row is done. Batch 1."""
        done = self.stopped(input_ids[0, self._prompt_length :].tolist())
        return torch.full((input_ids.shape[0],), done, device=input_ids.device)


COLDEST = 1e-30  # temperature; below, logits pass the range of float32, and the choice is the greedy one anyway


def seed_in_64_bits(seed: int) -> int:
    """A seed that torch's generators take: the given one, or a digest of one that passes 64 bits."""
    if -(2**63) <= seed < 2**64:
        return seed
    return int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "little")


def sampler(temperature: float, top_p: float, seed: int | None, device: torch.device) -> Callable[[Any], int]:
    """A function that samples an id from logits `(vocab,)`; nucleus sampling after Holtzman et al. (1904.09751).

    Args:
        device: where it draws. The same seed draws other numbers on another kind of device.

    Raises:
        ValueError: temperature not above 0, or `top_p` outside (0, 1].
    """
    if not 0.0 < temperature < math.inf or not 0.0 < top_p <= 1.0:
        raise ValueError(f"temperature must be above 0 and top_p in (0, 1], got {temperature} and {top_p}")
    generator = None if seed is None else torch.Generator(device).manual_seed(seed_in_64_bits(seed))
    temperature = max(temperature, COLDEST)

    def pick(logits: Any) -> int:
        probabilities = (torch.as_tensor(logits, device=device).float() / temperature).softmax(-1)
        if top_p < 1.0:
            ordered, ids = probabilities.sort(descending=True)
            # The smallest set whose probability reaches top_p: drop tokens that begin beyond it.
            # The first one stays, also where `top_p` is too small for the number format of the sums.
            ordered[1:][(ordered.cumsum(-1) - ordered)[1:] >= top_p] = 0.0
            # Back in order of id: the noise of a draw then belongs to an id, not to a rank, and rounding in the logits
            # (a chunk of tokens against one by one) hardly ever changes the outcome of a seeded draw.
            probabilities = torch.zeros_like(probabilities).scatter(0, ids, ordered)
        return int(torch.multinomial(probabilities, 1, generator=generator))

    return pick
