"""A `LanguageModel` over a causal model of transformers, pruning at prefill if asked to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from erecap.context.fit import Fitted, fit_messages
from erecap.context.protection import protected_spans
from erecap.context.tokenize import Prompt, render_prompt
from erecap.decoding.forced import forced_ids
from erecap.decoding.stopping import PrefillClock, StopWatcher, answer_ends, seed_in_64_bits
from erecap.generation import AllowedTokens, Generation, Message, PromptPiece, Timing, Usage
from erecap.layers.applied import plan_of
from erecap.models.cache_argument import CACHE
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.cache.ropes import window_of_model
from erecap.tokens.cache.storage import plain_cache
from erecap.tokens.pruning import prune as pruning
from erecap.tokens.scoring.schedule import PruneConfig


class TransformersLanguageModel:
    """Reads the whole prompt at every call: the mode `full`, or `prune[scorer]` where `prune` is given.

    Args:
        model: a causal language model of transformers, in eval mode.
        tokenizer: its fast tokenizer, with a chat template.
        prune: how to prune at prefill; None leaves the model as it is, on its fastest path.
        trace: also return which share of the layers kept each piece of the prompt (`Generation.pieces`).

    Raises:
        ValueError: `prune` does not fit the model (see `PruneConfig.resolve_stages`).
    """

    def __init__(self, model: Any, tokenizer: Any, *, prune: PruneConfig | None = None, trace: bool = False) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.prune = prune
        self.trace = trace
        self.takes_old_plan = False
        self._config = model.config.get_text_config(decoder=True)
        if prune is not None:
            prune.resolve_stages(self._config.num_hidden_layers)

    @property
    def window(self) -> int:
        """Tokens that the model can take, prompt and answer together."""
        return window_of_model(self.model, reused=False)

    def reset(self) -> None:
        """Begin an episode. Nothing is kept between calls, so there is nothing to forget."""

    def fork(self, messages: Sequence[Message]) -> TransformersLanguageModel:
        """The model itself: it remembers no conversation."""
        return self

    def generate(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int,
        stop: Sequence[str] | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        allowed_tokens: AllowedTokens | None = None,
        deadline_ms: float | None = None,
        cancel: Callable[[], bool] | None = None,
        on_text: Callable[[str], None] | None = None,
        min_new_tokens: int = 0,
        force: str | None = None,
    ) -> Generation:
        """Answer `messages`.

        Args:
            messages: the chat so far. A prompt beyond the model's window loses its oldest whole messages after the
                head, then the middle of its newest message; `usage` tells.
            max_new_tokens: at most this many tokens are generated.
            stop: texts that end the answer; they are not part of it.
            temperature: 0 is greedy.
            top_p: nucleus for sampling.
            seed: makes sampling reproducible; None draws from torch's generator.
            allowed_tokens: restricts each next token.
            deadline_ms: stop decoding when this much time has passed since the call; checked after every token, so
                that the prefill and one token are always done.
            cancel: asked after every token; true stops decoding.
            on_text: called with the answer so far as more of it becomes certain, without what may begin a stop text.
            min_new_tokens: the answer does not end by itself before; for measurements of equal length.
            force: the text of the answer, decoded as if the model had chosen it: for measuring what such a call takes.

        Raises:
            ValueError: `max_new_tokens` below 1, no room for it in the window, or less than `force` has tokens.
            BudgetError: system and goal alone do not fit the window.
            ModelError: tokenizer or chat template cannot be used.
        """
        started = time.perf_counter()
        if not 1 <= max_new_tokens < self.window:
            raise ValueError(f"max_new_tokens must be from 1 to {self.window - 1}, got {max_new_tokens}")
        fitted, prompt = self._fit(messages, self.window - max_new_tokens)
        clock = PrefillClock(self.model.device)
        watcher = StopWatcher(self.tokenizer, len(prompt.input_ids), stop or (), started, deadline_ms, cancel, on_text)
        ends = answer_ends(self.model, self.tokenizer)
        if force is not None:
            allowed_tokens = _only(forced_ids(force, self.tokenizer, ends, max_new_tokens))
        # Not the model's own defaults: a repetition penalty or top-k from its folder would change greedy answers.
        sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}
        settings = GenerationConfig(
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens or None,
            do_sample=temperature > 0,
            repetition_penalty=1.0,
            eos_token_id=ends,
            pad_token_id=ends[0],
            **sampling,
        )
        ids = torch.tensor([prompt.input_ids], device=self.model.device)
        tokenized = time.perf_counter()
        with ExitStack() as stack:
            cache: DynamicCache | PrunedCache
            if self.prune is None:
                cache = plain_cache(self._config)
            else:
                protect = prompt.token_spans(protected_spans(fitted.messages))
                cache = stack.enter_context(pruning(self.model, self.prune, protect=protect))
            stack.enter_context(_seeded(seed, self.model.device) if temperature > 0 else nullcontext())
            output = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=settings,
                **{CACHE: cache},
                logits_processor=LogitsProcessorList([clock]),
                stopping_criteria=StoppingCriteriaList([watcher]),
                prefix_allowed_tokens_fn=_restrict(allowed_tokens, len(prompt.input_ids)),
            )
        new_ids = output[0, len(prompt.input_ids) :].tolist()
        ended = time.perf_counter()
        text, reason = watcher.result(new_ids, ends)
        return Generation(
            text=text,
            finish_reason=reason,
            usage=self._usage(fitted, prompt, cache, len(new_ids)),
            timing=Timing(
                tokenize_ms=1e3 * (tokenized - started),
                prefill_ms=1e3 * (clock.ended - tokenized),
                prune_ms=1e3 * cache.prune_seconds if isinstance(cache, PrunedCache) else 0.0,
                decode_ms=1e3 * (ended - clock.ended),
                total_ms=1e3 * (ended - started),
            ),
            pieces=_pieces(prompt, cache, self._config.num_hidden_layers, _owners(messages, fitted))
            if self.trace
            else (),
        )

    def _fit(self, messages: Sequence[Message], limit: int) -> tuple[Fitted, Prompt]:
        prompt = render_prompt(messages, self.tokenizer)
        if len(prompt.input_ids) <= limit:
            return Fitted(list(messages)), prompt
        fitted = fit_messages(messages, lambda part: len(render_prompt(part, self.tokenizer).input_ids), limit)
        return fitted, render_prompt(fitted.messages, self.tokenizer)

    def _usage(self, fitted: Fitted, prompt: Prompt, cache: DynamicCache, completion: int) -> Usage:
        count = len(prompt.input_ids)
        kept = cache.prompt_kept if isinstance(cache, PrunedCache) else self._stored(count)
        stored = (tensor for layer in cache.layers for tensor in (layer.keys, layer.values) if tensor is not None)
        return Usage(
            prompt_tokens=count,
            new_tokens=count,
            completion_tokens=completion,
            decode_passes=max(0, completion - 1),
            kept_per_layer=tuple(kept),
            kv_bytes=sum(tensor.numel() * tensor.element_size() for tensor in stored),
            overflow_messages=fitted.dropped,
            truncated_tokens=fitted.truncated_tokens,
        )

    def _stored(self, tokens: int) -> list[int]:
        """Tokens that each layer stores of `tokens` that are read unpruned; layers without attention store none."""
        plan = plan_of(self.model)
        if plan is None:
            return [tokens] * self._config.num_hidden_layers
        return [0 if layer in plan.attention else tokens for layer in plan.kept]


def _only(answer: Sequence[int]) -> AllowedTokens:
    """Leaves no choice but the tokens of an answer."""
    return lambda generated: [answer[len(generated)]]


def _restrict(allowed: AllowedTokens | None, prompt_length: int) -> Any:
    if allowed is None:
        return None
    return lambda _row, ids: list(allowed(ids[prompt_length:].tolist()))


def _seeded(seed: int | None, device: torch.device) -> Any:
    """A generator state of its own, so that sampling here does not disturb others."""
    if seed is None:
        return nullcontext()
    stack = ExitStack()
    stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
    torch.manual_seed(seed_in_64_bits(seed))
    return stack


def _owners(messages: Sequence[Message], fitted: Fitted) -> list[int]:
    """For each message shown, its number in the chat as it was given."""
    head = next((number + 1 for number, message in enumerate(messages) if message["role"] == "user"), 0)
    return [n if n < head else n + len(messages) - len(fitted.messages) for n in range(len(fitted.messages))]


def _pieces(prompt: Prompt, cache: DynamicCache, layers: int, owners: Sequence[int]) -> tuple[PromptPiece, ...]:
    """The prompt's text in runs of equal message and share of the layers with tokens that stored it."""
    count = len(prompt.input_ids)
    kept = torch.zeros(count)
    if isinstance(cache, PrunedCache):
        for layer in range(layers):
            index = cache.layout(layer).index[0].cpu()
            kept[index[index < count]] += 1
        kept /= max(1, sum(cache.stores(layer) for layer in range(layers)))
    else:
        kept += 1
    shares = kept.tolist()
    owner = [-1] * len(prompt.text)
    for message, (start, end) in enumerate(prompt.message_spans):
        owner[start:end] = [owners[message]] * (end - start)
    pieces: list[PromptPiece] = []
    starts = [start for start, _ in prompt.offsets] + [len(prompt.text)]
    for token, share in enumerate(shares):
        # Up to the next token's start, so that white space between tokens is not lost.
        text = prompt.text[starts[token] : max(starts[token], starts[token + 1])]
        if not text:
            continue
        message = owner[starts[token]]
        if pieces and pieces[-1].message == message and pieces[-1].kept == share:
            pieces[-1] = PromptPiece(message, pieces[-1].text + text, share)
        else:
            pieces.append(PromptPiece(message, text, share))
    return tuple(pieces)
