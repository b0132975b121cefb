"""The end of an answer: stop texts, end tokens, deadlines, cancelling. Without torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

from erecap.decoding.special import SpecialTokens
from erecap.errors import ModelError
from erecap.generation import FinishReason

_log = logging.getLogger(__name__)
_told: WeakSet[Any] = WeakSet()  # generation configurations whose settings were named
# Settings of a generation configuration that change greedy answers, and the values that change nothing.
CHANGE_ANSWERS: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1.0,), "encoder_repetition_penalty": (1.0,), "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,), "bad_words_ids": ([],), "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],), "sequence_bias": ({},), "forced_bos_token_id": (), "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (), "min_length": (0,), "min_new_tokens": (0,), "guidance_scale": (1.0,),
    "num_beams": (1,), "penalty_alpha": (0.0,), "dola_layers": (), "watermarking_config": (), "stop_strings": (),
}  # fmt: skip


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
        self._special = SpecialTokens(tokenizer)
        self._stop = [text for text in stop if text]
        # These are searched for where special tokens are written out; an answer's text has none.
        self._special_stop = [text for text in self._stop if any(name in text for name in self._special.texts)]
        self._deadline = None if deadline_ms is None else started + deadline_ms / 1e3
        self._cancel = cancel
        self._on_text = on_text
        self._reason: FinishReason | None = None

    def stopped(self, new_ids: list[int]) -> bool:
        """Return True if generation must stop after these generated ids."""
        text = self._special.text(new_ids) if self._stop or self._on_text else ""
        if self._stop and self._before_stop(text, new_ids) is not None:
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
        text = self._special.text(new_ids)
        before = self._before_stop(text, new_ids)
        if before is not None:
            return before, "stop"
        if new_ids and new_ids[-1] in ends:
            return text, "stop"
        return text, self._reason or "length"

    def _before_stop(self, text: str, ids: Sequence[int]) -> str | None:
        """The part of the answer `text`, generated as `ids`, before the first stop text; None: there is none."""
        places = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        found = [text[:place] for place in places]
        found += [part for stop in self._special_stop if (part := self._special.text_before(ids, stop)) is not None]
        return min(found, key=len, default=None)


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


def say_ignored_defaults(model: Any) -> None:
    """Name, once a model, the settings of its generation configuration that would change greedy answers.

    Answers are those of the model itself; `temperature`, `top_p`, `stop` and the rest are arguments of each call.
    """
    config = getattr(model, "generation_config", None)
    if config is None or config in _told:
        return
    found = [(name, getattr(config, name, None), idle) for name, idle in CHANGE_ANSWERS.items()]
    asked = [f"{name}={value}" for name, value, idle in found if value is not None and value not in idle]
    if asked:
        _told.add(config)
        _log.warning("the model's generation_config asks for %s: not applied, answers are greedy", ", ".join(asked))
