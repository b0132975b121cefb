"""A Hugging Face model whose `generate` reads only what is new of a conversation that it knows."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, LogitsProcessorList

from erecap.budget import Budget
from erecap.decoding.revision import model_revision
from erecap.decoding.stopping import PrefillClock
from erecap.errors import ConfigError
from erecap.generation import Timing, Usage
from erecap.models.cache_argument import CACHE
from erecap.tokens.cache.read_scores import ReadScorer
from erecap.tokens.servable import read_problem
from erecap.wrapping.early import EarlyDecoding, EarlyExits
from erecap.wrapping.log import CallLog
from erecap.wrapping.memory import quarter_of_memory, within_memory
from erecap.wrapping.option_types import is_whole
from erecap.wrapping.reusable import (
    answer_tokens,
    bound,
    call_problem,
    keeps_positions,
    model_problem,
    prompt_of,
    rope_limit,
    setting,
    without_folder_cache,
)
from erecap.wrapping.stand_ins import StandIn, of_target
from erecap.wrapping.token_conversations import ConversationSummary, TokenConversation, TokenConversations
from erecap.wrapping.token_reader import TokenReader

DEFAULT_BUDGET = Budget.auto()  # of `erecap.wrap(model)`
CONVERSATIONS = 8


class SessionModel(StandIn):
    """Stands for `model`: `generate` is answered from the stored conversations, everything else is the model's own.

    A call finds the longest common beginning of its prompt with the conversations that it knows, by token ids, and the
    model's own `generate` prefills the rest. Prompt and answer are stored. Calls that cannot be answered in this way
    go to the model as they are, and the log says why. Calls from several threads use conversations of their own.

    Args:
        model: a causal language model of transformers.
        budget: limits of each conversation (a number: of tokens); None or `auto`: `DEFAULT_BUDGET`.
        evict_by, protect_first: see `TokenReader`.
        conversations: the most that are stored between calls; the least recently used goes first.
        memory_bytes: of keys and values of all of them; None: a quarter of the memory of the model's device. An
            automatic budget evicts within a number that is given, so that the newest conversation always stays stored.
        log: a folder for the call log.
        exit: early exit in decoding, as `Exit.of` takes it; None: none.

    Raises:
        ConfigError: an unusable value, a budget for a model that cannot have one, or a memory that does not hold one
            conversation of a fixed budget.
    """

    _OWN = ("wrapped", "log", "_options", "_reader", "held", "_problem", "_limit", "_revision", "_warned", "_exits")

    def __init__(
        self,
        model: Any,
        budget: int | str | Budget | None = None,
        evict_by: str | ReadScorer = "recency",
        protect_first: int | None = None,
        conversations: int = CONVERSATIONS,
        memory_bytes: int | None = None,
        log: str | Path | None = None,
        exit: Any = None,
    ) -> None:
        bounds = (conversations, *(() if memory_bytes is None else (memory_bytes,)))
        if not all(is_whole(bound) and bound >= 1 for bound in bounds):
            got = f"{conversations!r}, {memory_bytes!r}"
            raise ConfigError(f"conversations, memory_bytes: got {got}; allowed: whole numbers from 1 on")
        if protect_first is not None and not is_whole(protect_first):
            raise ConfigError(f"protect_first must be a whole number of tokens, got {protect_first!r}")
        self.wrapped = model
        self._options = (budget, evict_by, protect_first, conversations, memory_bytes, log, exit)
        self._problem = model_problem(model)
        limits = _limits(budget)
        if self._problem is None:
            if memory_bytes is not None:
                limits = within_memory(model, limits, memory_bytes)
            self._reader = TokenReader(model, limits, evict_by, protect_first)
            self._limit = rope_limit(model)
        elif budget is not None:
            raise ConfigError(f"no budget is possible: {self._problem}")
        elif exit is not None:
            raise ConfigError(f"no early exit is possible: {self._problem}")
        else:
            _warn(self._problem)
        self._exits = None if exit is None else EarlyExits(model, exit)
        memory = quarter_of_memory(model.device) if memory_bytes is None else memory_bytes
        self.held = TokenConversations(conversations, memory)
        self._revision = 0  # of the model when the stored keys were computed
        self._warned = False
        name = evict_by if isinstance(evict_by, str) else type(evict_by).__name__
        mode = "session" if limits.automatic or not limits.limited else f"session[{name}]"
        self.log = CallLog(log, "model", mode)

    def __getattr__(self, name: str) -> Any:
        if name in SessionModel._OWN:  # not set yet: copying and unpickling ask before __init__ has run
            raise AttributeError(name)
        return of_target(self, self.wrapped, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SessionModel._OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self.wrapped, name, value)

    def __reduce__(self) -> tuple:  # copies start without conversations
        return type(self), (self.wrapped, *self._options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.wrapped(*args, **kwargs)

    @property
    def conversations(self) -> ConversationSummary:
        """Totals of what is stored between calls."""
        return self.held.summary()

    def reset(self) -> None:
        """Forget all conversations."""
        self.held.clear()

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own `generate`, with the same arguments and result.

        `past_key_values` of a returned dictionary is a copy, and None where tokens were evicted.
        """
        try:
            arguments = bound(args, kwargs)
        except TypeError:
            return self.wrapped.generate(*args, **kwargs)  # which raises its own
        reason = self._problem or call_problem(self.wrapped, arguments) or self._unlike()
        if reason is None and self._limit is not None:
            length = prompt_of(arguments).shape[1]
            if length + answer_tokens(self.wrapped, arguments, length) > self._limit:
                reason = f"beyond {self._limit} tokens its rotary embeddings change with the length of the prompt"
        if reason is not None:
            started = time.perf_counter()
            output = self.wrapped.generate(*args, **kwargs)
            self.log.note(Usage(), Timing(total_ms=1e3 * (time.perf_counter() - started)), "passed", reason)
            return output
        return self._continued(arguments)

    def _unlike(self) -> str | None:
        """Why this model cannot be served after all, where that could not be told when it was wrapped."""
        self._problem = read_problem(self.wrapped)
        if self._problem is not None:
            _warn(self._problem)
        return self._problem

    def _continued(self, arguments: dict[str, Any]) -> Any:
        started = time.perf_counter()
        self._forget_other_revisions()
        prompt = prompt_of(arguments)
        ids = prompt[0].to("cpu", torch.long)
        held = self.held
        conversation, why = held.take(ids)
        conversation = conversation or self._reader.open()
        reused, evicted = conversation.read, conversation.evicted
        if reused < conversation.first or not conversation.first:
            conversation.first = len(ids)
        conversation.asked = len(ids)
        conversation.dropped_because = None
        clock = PrefillClock(self.wrapped.device)
        early = self._early(conversation, arguments)
        try:
            output = self._read_and_generate(conversation, arguments, clock, early)
        except torch.OutOfMemoryError:
            held.clear()  # so that the caller's next try has all the memory
            raise
        except BaseException:
            self._settle(conversation, ids)
            if conversation.read:
                self._hold(held, conversation)
            raise
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        kept = conversation.kept_of_prompt(len(ids))  # before the call's last eviction
        self._settle(conversation, sequences[0].to("cpu", torch.long), returned=output)
        self._hold(held, conversation)
        ended = time.perf_counter()
        usage = Usage(
            prompt_tokens=len(ids),
            new_tokens=len(ids) - reused,
            reused_tokens=reused,
            completion_tokens=sequences.shape[1] - len(ids),
            kept_per_layer=kept,
            kv_bytes=conversation.cache.kv_bytes(),
            exit_layers=() if early is None else tuple(early.decoded.exit_layers),
            exit_bytes=0 if early is None else early.nbytes,
        )
        timing = Timing(
            prefill_ms=1e3 * (clock.ended - started),
            decode_ms=1e3 * (ended - clock.ended),
            total_ms=1e3 * (ended - started),
        )
        more: dict[str, Any] = {
            "evicted": conversation.evicted - evicted,
            "dropped_because": conversation.dropped_because,
        }
        if early is not None:
            more |= {"exit_layers": list(usage.exit_layers), "exit_bytes": usage.exit_bytes}
        self.log.note(usage, timing, "reused" if reused else "read", why, **more)
        return output

    def _early(self, conversation: TokenConversation, arguments: dict[str, Any]) -> EarlyDecoding | None:
        """The decoding with early exit; None: the model's own.

        That is taken also where scores or a dictionary are to be returned, and with `stop_strings`: `generate` drops
        the tokenizer that these need where it is given a decoding.
        """
        own = any(setting(self.wrapped, arguments, name) for name in ("return_dict_in_generate", "stop_strings"))
        if self._exits is None or own:
            return None
        return EarlyDecoding(self._exits.of(conversation), conversation, arguments.get("streamer"))

    def _hold(self, held: TokenConversations, conversation: TokenConversation) -> None:
        """Give `conversation` back; say once if not even it alone fits the memory, so that nothing is reused."""
        too_large = held.give_back(conversation)
        if too_large is not None and not self._warned:
            self._warned = True
            warnings.warn(
                f"erecap.wrap stores nothing of this conversation: {too_large}, and its calls read everything; "
                "raise memory_bytes, or evict within it: budget=erecap.Budget.auto(memory_bytes=...)",
                stacklevel=4,
            )

    def _forget_other_revisions(self) -> None:
        """Start anew where the model was changed: it would have computed other keys and values."""
        revision = model_revision(self.wrapped)
        if revision != self._revision:
            # A new holder, because calls in other threads may still give conversations back to the old one.
            self.held, self._revision = TokenConversations(self.held.most, self.held.memory_bytes), revision

    def _read_and_generate(
        self, conversation: TokenConversation, arguments: dict[str, Any], clock: Any, early: EarlyDecoding | None
    ) -> Any:
        prompt = prompt_of(arguments)
        own: dict[str, Any] = {CACHE: conversation.cache}
        own["logits_processor"] = LogitsProcessorList([*(arguments.get("logits_processor") or []), clock])
        own |= without_folder_cache(self.wrapped)
        own |= {} if early is None else {"custom_generate": early}
        # What is stored outlives the call, so it must not be made of inference tensors.
        with torch.inference_mode(False), torch.no_grad(), self._reader.attached(conversation):
            self._reader.read_ahead(conversation, prompt, answer_tokens(self.wrapped, arguments, prompt.shape[1]))
            if conversation.shift or keeps_positions(self.wrapped):
                places = torch.arange(prompt.shape[1], device=prompt.device) - conversation.shift
                own["position_ids"] = places.clamp(min=0).unsqueeze(0)
            return self.wrapped.generate(**{**arguments, **own})

    def _settle(self, conversation: TokenConversation, sequence: torch.Tensor, returned: Any = None) -> None:
        """Note which tokens the conversation has read, and evict down to its budget."""
        conversation.cache.rollback()
        read = conversation.cache.get_seq_length()
        if read > len(sequence):  # after an error, nobody knows what was generated
            conversation.cache.crop(len(sequence) - read)
        conversation.tokens = sequence[: conversation.cache.get_seq_length()].clone()
        conversation.asked = min(conversation.asked, conversation.read)
        if getattr(returned, CACHE, None) is not None:
            setattr(returned, CACHE, None if conversation.evicted else _plain_copy(conversation, self.wrapped))
        self._reader.enforce(conversation)


def _limits(budget: int | str | Budget | None) -> Budget:
    try:
        return DEFAULT_BUDGET if budget is None else Budget.of(budget)
    except ValueError as error:
        raise ConfigError(f"budget: {error}") from error


def _warn(problem: str) -> None:
    warnings.warn(f"erecap.wrap passes every call on as it is: {problem}", stacklevel=4)


def _plain_copy(conversation: TokenConversation, model: Any) -> DynamicCache:
    """The stored keys and values as a cache that works without our hooks, and that later calls do not change."""
    copied = DynamicCache(config=model.config.get_text_config(decoder=True))
    for number, layer in enumerate(conversation.cache.layers):
        if layer.keys is not None:  # a layer without attention stores nothing
            copied.update(layer.keys.clone(), layer.values.clone(), number)
    return copied
