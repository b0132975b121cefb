"""Early exit in the `generate` of a wrapped model: its decoding, with the processors and criteria that it would use."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from erecap.config.exits import Exit
from erecap.decoding.exits.drafting import ExitDraft, ExitState
from erecap.decoding.exits.opening import open_exits
from erecap.decoding.loop import Decoded, decode
from erecap.engines.transformers import TransformersEngine
from erecap.errors import ConfigError
from erecap.wrapping.token_conversations import TokenConversation


class EarlyExits:
    """The early exits of a wrapped model; each conversation learns its own draft length.

    Args:
        model: a causal language model of transformers.
        value: as `Exit.of` takes it.

    Raises:
        ConfigError: no such settings, unverified ones, no such predictor, or a model that is not read layer by layer.
        ModelError: a predictor that is damaged, untested, or of another model.
    """

    def __init__(self, model: Any, value: Any) -> None:
        try:
            settings = Exit.of(value)
            if settings is None or not settings.lossless:
                raise ValueError(
                    "exit: a wrapped model gives the bare model's answers; allowed: settings with lossless"
                )
            self._state = open_exits(settings, model)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self._states: WeakKeyDictionary[TokenConversation, ExitState] = WeakKeyDictionary()

    def of(self, conversation: TokenConversation) -> ExitState:
        """The state of one conversation."""
        if conversation not in self._states:
            self._states[conversation] = self._state.copy()
        return self._states[conversation]


class EarlyDecoding:
    """One call's decoding, in the form that `generate` takes as `custom_generate`.

    Args:
        state: of the conversation.
        conversation: has read the prompt but its end.
        streamer: the call's own; `generate` shows it the prompt, and this the answer.
    """

    def __init__(self, state: ExitState, conversation: TokenConversation, streamer: Any) -> None:
        self._state, self._conversation, self._streamer = state, conversation, streamer
        self.decoded = Decoded()
        self.nbytes = 0

    def __call__(
        self,
        model: Any,
        input_ids: Any,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **rest: Any,
    ) -> torch.Tensor:
        """Generate behind `input_ids` `(1, n)`; all ids."""
        engine = TransformersEngine(model)
        engine.cache, engine.shift = self._conversation.cache, self._conversation.shift
        ids, sequence, shown = input_ids[0].tolist(), input_ids, 0

        def pick(row: np.ndarray) -> int:
            scores = logits_processor(sequence, torch.as_tensor(row, device=sequence.device).unsqueeze(0))
            if generation_config.do_sample:
                return int(torch.multinomial(scores.softmax(-1), 1))
            return int(scores.argmax(-1))

        def show(answer: list[int]) -> None:
            nonlocal sequence, shown
            sequence = torch.cat([input_ids, input_ids.new_tensor([answer])], 1)
            if self._streamer is not None:
                for token in answer[shown:]:
                    self._streamer.put(torch.tensor([token]))
            shown = len(answer)

        def ended(answer: list[int]) -> bool:
            show(answer)
            return bool(stopping_criteria(sequence, None).all())

        named = generation_config.eos_token_id
        ends = [] if named is None else torch.as_tensor(named).flatten().tolist()
        exits = ExitDraft(self._state, ends, ids)
        logits = engine.forward(ids[engine.tokens :], keep=1)[-1].float().numpy()
        most = generation_config.max_length - len(ids)
        self.decoded = decode(engine, logits, max_new_tokens=most, ended=ended, pick=pick, exits=exits)
        show(self.decoded.ids)
        self.nbytes = exits.nbytes
        if self._streamer is not None:
            self._streamer.end()
        return sequence
