"""A Hugging Face model whose `generate` prunes while it reads the prompt."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import LogitsProcessorList

from erecap.decoding.stopping import PrefillClock
from erecap.generation import Timing, Usage
from erecap.models.cache_argument import CACHE, given_cache
from erecap.tokens.hooks import find_decoder
from erecap.tokens.pruning import prune
from erecap.tokens.scoring.schedule import PruneConfig
from erecap.tokens.scoring.scorers import make_scorer
from erecap.tokens.servable import prune_problem
from erecap.wrapping.log import CallLog
from erecap.wrapping.reusable import (
    answer_tokens,
    bound,
    cache_wish,
    other_inputs,
    prompt_of,
    rope_limit,
    setting,
    without_folder_cache,
)
from erecap.wrapping.stand_ins import StandIn, of_target
from erecap.wrapping.switch import SWITCH, switched_off


class WrappedModel(StandIn):
    """Stands for `model`: every attribute and call goes to it, only `generate` prunes.

    Args:
        model: a causal language model of transformers.
        config: how to prune.
        log: notes each call.

    Raises:
        ValueError: `config` does not fit the model.
    """

    def __init__(self, model: Any, config: PruneConfig, log: CallLog) -> None:
        problem = prune_problem(model, make_scorer(config.scorer).needs_attention)
        if problem is not None:
            raise ValueError(problem)
        config.resolve_stages(len(find_decoder(model).layers))
        self.wrapped = model
        self.prune = config
        self.log = log

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped":  # not set yet: copying and unpickling ask before __init__ has run
            raise AttributeError(name)
        return of_target(self, self.wrapped, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.wrapped(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own `generate`, with the same arguments and result.

        Calls that bring a cache or choose one, switch caching off, bring an assistant model or more than text, or read
        the prompt in chunks are passed on unpruned, and the log says why.
        """
        try:
            arguments = bound(args, kwargs)
        except TypeError:
            return self.wrapped.generate(*args, **kwargs)  # which raises its own
        reason = self._why_not(arguments)
        if reason is not None:
            started = time.perf_counter()
            output = self.wrapped.generate(*args, **kwargs)
            self.log.note(Usage(), Timing(total_ms=1e3 * (time.perf_counter() - started)), "passed", reason)
            return output
        clock = PrefillClock(self.wrapped.device)
        own = {"logits_processor": LogitsProcessorList([*(arguments.get("logits_processor") or []), clock])}
        own |= without_folder_cache(self.wrapped)
        started = time.perf_counter()
        with prune(self.wrapped, self.prune) as cache:
            output = self.wrapped.generate(**{**arguments, **own, CACHE: cache})
        ended = time.perf_counter()
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        read = cache.prompt_kept[0] if cache.prompt_kept else 0
        prompt = self._prompt_tokens(prompt_of(arguments), sequences)
        usage = Usage(
            prompt_tokens=read,
            new_tokens=read,
            completion_tokens=sequences.shape[1] - prompt,
            kept_per_layer=tuple(cache.prompt_kept),
            kv_bytes=cache.kv_bytes(),
        )
        timing = Timing(
            prefill_ms=1e3 * (clock.ended - started),
            prune_ms=1e3 * cache.prune_seconds,
            decode_ms=1e3 * (ended - clock.ended),
            total_ms=1e3 * (ended - started),
        )
        dropped = min(cache.prompt_kept, default=read) < read
        because = f"keep={self.prune.keep:g} of the tokens at each pruning stage are asked for" if dropped else None
        reason = f"keep {self.prune.keep}"
        self.log.note(usage, timing, "pruned", reason, batch=sequences.shape[0], dropped_because=because)
        return output

    def _why_not(self, arguments: dict[str, Any]) -> str | None:
        if switched_off():
            return f"{SWITCH}=full"

        def of(name: str) -> Any:
            return setting(self.wrapped, arguments, name)

        if given_cache(arguments) is not None:
            return "the call brings its own past_key_values"
        if of("use_cache") is False:
            return "the call switches caching off"
        if arguments.get("assistant_model") is not None or of("prompt_lookup_num_tokens"):
            return "assisted generation manages the cache itself"
        if of("prefill_chunk_size") is not None:
            return "the prompt is read in chunks"
        return other_inputs(arguments) or cache_wish(self.wrapped, arguments) or self._crosses(arguments)

    def _crosses(self, arguments: dict[str, Any]) -> str | None:
        """Reason of a call in whose middle the rotary embeddings change, so that keys read before do not fit."""
        switch, prompt = rope_limit(self.wrapped), prompt_of(arguments)
        if switch is None or not isinstance(prompt, torch.Tensor):
            return None
        length = prompt.shape[1]
        if length <= switch < length + answer_tokens(self.wrapped, arguments, length):
            return f"beyond {switch} tokens its rotary embeddings change with the length of the sequence"
        return None

    @staticmethod
    def _prompt_tokens(ids: Any, sequences: torch.Tensor) -> int:
        """Columns of the output that repeat the prompt; none where it came as embeddings."""
        return ids.shape[1] if ids is not None and ids.ndim == 2 and ids.shape[1] <= sequences.shape[1] else 0
