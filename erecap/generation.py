"""Two small parts that plug into `generate` of transformers: when prefill ended, and when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from erecap.protocols import FinishReason


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
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt_length = prompt_length
        self._stop = [text for text in stop if text]
        self._deadline = None if deadline_ms is None else started + deadline_ms / 1e3
        self._cancel = cancel
        self._reason: FinishReason | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """`(batch,)` bool: whether each row is done. Batch 1."""
        if self._stop and self._find(self._decode(input_ids[0, self._prompt_length :].tolist())) is not None:
            self._reason = "stop"
        elif self._cancel is not None and self._cancel():
            self._reason = "cancelled"
        elif self._deadline is not None and time.perf_counter() >= self._deadline:
            self._reason = "deadline"
        return torch.full((input_ids.shape[0],), self._reason is not None, device=input_ids.device)

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
