"""A Hugging Face model whose `generate` prunes while it reads the prompt."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import LogitsProcessorList

from erecap.decoding.stopping import PrefillClock
from erecap.generation import Timing, Usage
from erecap.tokens.pruning import prune
from erecap.tokens.scoring.schedule import PruneConfig
from erecap.wrapping.log import CallLog
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
        config.resolve_stages(model.config.get_text_config(decoder=True).num_hidden_layers)
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

        Calls that bring their own cache, switch caching off, bring an assistant model, or read the prompt in
        chunks are passed on unpruned, and the log says why.
        """
        reason = self._why_not(kwargs)
        if reason is not None:
            started = time.perf_counter()
            output = self.wrapped.generate(*args, **kwargs)
            self.log.note(Usage(), Timing(total_ms=1e3 * (time.perf_counter() - started)), "passed", reason)
            return output
        clock = PrefillClock(self.wrapped.device)
        processors = LogitsProcessorList([*(kwargs.pop("logits_processor", None) or []), clock])
        started = time.perf_counter()
        with prune(self.wrapped, self.prune) as cache:
            output = self.wrapped.generate(*args, past_key_values=cache, logits_processor=processors, **kwargs)
        ended = time.perf_counter()
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        read = cache.prompt_kept[0] if cache.prompt_kept else 0
        prompt = self._prompt_tokens(args, kwargs, sequences)
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

    def _why_not(self, kwargs: dict[str, Any]) -> str | None:
        if switched_off():
            return f"{SWITCH}=full"
        config = kwargs.get("generation_config") or self.wrapped.generation_config

        def setting(name: str) -> Any:
            return kwargs.get(name, getattr(config, name, None))

        if kwargs.get("past_key_values") is not None:
            return "the call brings its own past_key_values"
        if setting("use_cache") is False:
            return "the call switches caching off"
        if kwargs.get("assistant_model") is not None or setting("prompt_lookup_num_tokens"):
            return "assisted generation manages the cache itself"
        if setting("cache_implementation") is not None:
            return "the call chooses a cache implementation"
        if setting("prefill_chunk_size") is not None:
            return "the prompt is read in chunks"
        return None

    @staticmethod
    def _prompt_tokens(args: tuple, kwargs: dict[str, Any], sequences: torch.Tensor) -> int:
        """Columns of the output that repeat the prompt; none where it came as embeddings."""
        ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
        return ids.shape[1] if ids is not None and ids.ndim == 2 and ids.shape[1] <= sequences.shape[1] else 0
