"""The end of an answer: stop texts, end tokens, deadlines, cancelling. Without torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from erecap.errors import ModelError
from erecap.generation import FinishReason


class AnswerWatcher:
    """Stops on a text, on a deadline, or on request, and records the reason.

    Args:
        tokenizer: turns generated ids into text.
        stop: texts that end the answer.
        started: `time.perf_counter()` seconds from which the deadline counts.
        deadline_ms: milliseconds after `started`; None: no deadline.
        cancel: asked after every token; true stops.
        on_text: told the answer as far as it is certain, again and again.
    """

    def __init__(
        self,
        tokenizer: Any,
        stop: Sequence[str],
        started: float,
        deadline_ms: float | None,
        cancel: Callable[[], bool] | None,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = [text for text in stop if text]
        self._deadline = None if deadline_ms is None else started + deadline_ms / 1e3
        self._cancel = cancel
        self._on_text = on_text
        self._reason: FinishReason | None = None

    def stopped(self, new_ids: list[int]) -> bool:
        """Return True if generation must stop after these generated ids."""
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
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = [configured] if isinstance(configured, int) else list(configured or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        ends.append(tokenizer.eos_token_id)
    if not ends:
        raise ModelError("neither the model nor its tokenizer names a token that ends an answer (eos_token)")
    return ends
