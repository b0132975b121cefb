"""Two small parts that plug into `generate` of transformers: when prefill ended, and when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from erecap.errors import ModelError
from erecap.generation import FinishReason


class PrefillClock(LogitsProcessor):
    """Notes when the first logits are there, which is when prefill has ended."""

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


class StopWatcher(StoppingCriteria):
    """Stops on a text, on a deadline, or when told to; and then says which it was."""

    def __init__(
        self,
        tokenizer: Any,
        prompt_length: int,
        stop: Sequence[str],
        started: float,
        deadline_ms: float | None,
        cancel: Callable[[], bool] | None,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt_length = prompt_length
        self._stop = [text for text in stop if text]
        self._deadline = None if deadline_ms is None else started + deadline_ms / 1e3
        self._cancel = cancel
        self._on_text = on_text  # told the answer as far as it is certain, again and again
        self._reason: FinishReason | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """`(batch,)` bool: whether each row is done. Batch 1."""
        done = self.stopped(input_ids[0, self._prompt_length :].tolist())
        return torch.full((input_ids.shape[0],), done, device=input_ids.device)

    def stopped(self, new_ids: list[int]) -> bool:
        """Whether to stop after these generated ids."""
        text = self._decode(new_ids) if self._stop or self._on_text else ""
        if self._stop and self._find(text) is not None:
            self._reason = "stop"
        elif self._cancel is not None and self._cancel():
            self._reason = "cancelled"
        elif self._deadline is not None and time.perf_counter() >= self._deadline:
            self._reason = "deadline"
        if self._reason is None and self._on_text is not None:
            self._on_text(self._certain(text))
        return self._reason is not None

    def _certain(self, text: str) -> str:
        """`text` without an end that may become a stop text, or that is half of a character."""
        text = text.rstrip("\ufffd")
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return text[:-length]
        return text

    def result(self, new_ids: list[int], ends: Sequence[int]) -> tuple[str, FinishReason]:
        """The answer without its stop text, and why it ended."""
        text = self._decode(new_ids)
        place = self._find(text)
        if place is not None:
            return text[:place], "stop"
        if new_ids and new_ids[-1] in ends:
            return text, "stop"
        return text, self._reason or "length"

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _find(self, text: str) -> int | None:
        places = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        return min(places) if places else None


def answer_ends(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the model's own, and the tokenizer's end of text.

    Raises:
        ModelError: neither names one, so that no answer would ever end.
    """
    configured = model.generation_config.eos_token_id
    ends = [configured] if isinstance(configured, int) else list(configured or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        ends.append(tokenizer.eos_token_id)
    if not ends:
        raise ModelError("neither the model nor its tokenizer names a token that ends an answer (eos_token)")
    return ends


def sampler(temperature: float, top_p: float, seed: int | None, device: torch.device) -> Callable[[torch.Tensor], int]:
    """A function that samples an id from logits `(vocab,)`; nucleus sampling after Holtzman et al. (1904.09751).

    Raises:
        ValueError: temperature not above 0, or `top_p` outside (0, 1].
    """
    if temperature <= 0 or not 0.0 < top_p <= 1.0:
        raise ValueError(f"temperature must be above 0 and top_p in (0, 1], got {temperature} and {top_p}")
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)

    def pick(logits: torch.Tensor) -> int:
        probabilities = (logits.float() / temperature).softmax(-1)
        if top_p < 1.0:
            ordered, ids = probabilities.sort(descending=True)
            # The smallest set whose mass reaches top_p: drop what begins beyond it.
            ordered[ordered.cumsum(-1) - ordered >= top_p] = 0.0
            # Back in order of id: the noise of a draw then belongs to an id, not to a rank, and rounding in the logits
            # (a chunk of tokens against one by one) hardly ever changes the outcome of a seeded draw.
            probabilities = torch.zeros_like(probabilities).scatter(0, ids, ordered)
        return int(torch.multinomial(probabilities, 1, generator=generator))

    return pick
