"""Prefill in chunks, eviction and repositioning for the conversations of a wrapped model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from erecap.budget import Budget, Limit
from erecap.engines.newest_attention import NewestAttention, collecting
from erecap.engines.rotate_keys import KeyRotator
from erecap.engines.token_bytes import bytes_per_token, check_memory
from erecap.errors import BudgetError, ConfigError
from erecap.models.cache_argument import CACHE
from erecap.protocols import ScoreContext
from erecap.registries import SINKS
from erecap.session.eviction import HEAD, OPEN, PROTECTED, staying
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.cache.read_scores import ReadScorer, ReadScores
from erecap.tokens.cache.ropes import reuse_window, rope_kinds
from erecap.tokens.hooks import find_decoder
from erecap.tokens.pruning import attach
from erecap.tokens.scoring.by_name import scorer_for
from erecap.tokens.scoring.schedule import PruneConfig
from erecap.tokens.scoring.scorers import RandomScorer
from erecap.tokens.servable import attention_problem
from erecap.wrapping.token_conversations import TokenConversation

CHUNK = 512  # tokens of one forward pass; eviction happens between chunks
KEEP_ALL = PruneConfig(keep=1.0, stages=())


class TokenReader:
    """Reads prompts into conversations and keeps these within a budget.

    Protected are the head, which is the first prompt of the conversation up to a quarter of the budget, and the newest
    quarter of the budget. The rest is ranked by `evict_by`.

    Args:
        model: a causal language model of transformers.
        budget: limits of each conversation. Without limits nothing is evicted, and an automatic budget evicts nothing
            from a model whose stored tokens cannot be repositioned, unless it names a memory.
        evict_by: `recency`, `random`, `attention`, the name or folder of a trained pruner, or a scorer of tokens when
            they are read.
        protect_first: tokens of the head; None: see above.
        seed: for `random`, and handed to a scorer.

    Raises:
        ConfigError: an unknown `evict_by`, a head that leaves no room in the budget, a memory that holds next to
            nothing, or a fixed budget for a model whose stored tokens cannot be repositioned.
    """

    def __init__(
        self, model: Any, budget: Budget, evict_by: str | ReadScorer, protect_first: int | None = None, seed: int = 0
    ) -> None:
        try:
            evict_by = scorer_for(evict_by, model)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if budget.pays is not None:
            raise ConfigError("budget: pays needs a calibrated cost model, which ReplanSession takes and wrap does not")
        if budget.memory_bytes is not None:
            try:
                check_memory(bytes_per_token(model), budget.memory_bytes)
            except ValueError as error:
                raise ConfigError(f"budget: {error}") from error
        most = budget.kv_tokens
        if protect_first is not None and (protect_first < 0 or (most is not None and protect_first > most // 2)):
            raise ConfigError(f"protect_first must be from 0 to half of the budget, got {protect_first}")
        self.budget, self.evict_by, self.seed = budget, evict_by, seed
        self._model, self._protect_first = model, protect_first
        self._by_attention = budget.limited and evict_by == "attention"
        self._rotator: KeyRotator | None = None
        self._window: int | None = None  # positions that must not be passed; None: the bare model passes them, too
        if self._by_attention and (problem := attention_problem(model)) is not None:
            raise ConfigError(problem)
        if budget.limited:
            try:
                self._rotator, self._window = _rotator_of(model), reuse_window(find_decoder(model).config)
            except ValueError as error:
                if not budget.automatic:
                    raise ConfigError(
                        f"a budget needs stored tokens to be repositioned: {error}; give no budget, or 'auto'"
                    ) from error
        self._chunk = CHUNK if self._window is None else max(1, min(CHUNK, self._window // 4))

    def open(self) -> TokenConversation:
        """A conversation that has read nothing."""
        cache = PrunedCache(KEEP_ALL, len(find_decoder(self._model).layers))
        if self.budget.limited and not isinstance(self.evict_by, str):
            cache.read_scores = ReadScores(self.evict_by, self.seed)
        return TokenConversation(cache)

    @contextmanager
    def attached(self, conversation: TokenConversation) -> Iterator[None]:
        """Put the hooks on the model within."""
        with attach(self._model, conversation.cache, attention=self._by_attention):
            yield

    def read_ahead(self, conversation: TokenConversation, prompt: torch.Tensor, answer: int) -> None:
        """Prefill all of `prompt` `(1, n)` but its end, which `generate` is to read: at most one chunk.

        Args:
            answer: tokens that will be generated behind it; room is made for them, up to a quarter of the window.

        Raises:
            BudgetError: the memory of the budget holds no more than the answer.
        """
        length = prompt.shape[1]
        device = self._model.device
        room = answer if self._window is None else min(answer, self._window // 4)
        most = self._chunk_beside(conversation, room)
        # The newest token's attention is taken here, because `generate` goes on to decode with others.
        rest = 1 if self._by_attention else most
        while (left := length - conversation.read) > rest:
            tokens = min(most, left - 1)
            self._make_room(conversation, tokens)
            start, position = conversation.read, conversation.next_position
            chunk = prompt[:, start : start + tokens].to(device)
            last = left - tokens <= rest
            with collecting(last and self._by_attention) as masses, torch.no_grad():
                self._model(
                    input_ids=chunk,
                    position_ids=torch.arange(position, position + tokens, device=device).unsqueeze(0),
                    **{CACHE: conversation.cache},
                    use_cache=True,
                    **({"logits_to_keep": 1} if self._model._supports_logits_to_keep() else {}),
                )
            conversation.tokens = torch.cat([conversation.tokens, prompt[0, start : start + tokens].cpu()])
            if masses:
                conversation.attention = NewestAttention.of_layers(conversation.cache, masses)
            self.enforce(conversation)
        self._make_room(conversation, length - conversation.read + room)

    def _chunk_beside(self, conversation: TokenConversation, room: int) -> int:
        """Tokens of one forward pass, so that they, an answer of `room` tokens and older ones fit the memory."""
        memory = self.budget.memory_bytes
        if memory is None:
            return self._chunk
        holds = memory // self._bytes_per_token(conversation)
        if holds < room + 2:
            raise BudgetError(
                f"budget: memory_bytes={memory} holds {holds:,} tokens, too few beside an answer of {room:,}; "
                "lower max_new_tokens or raise memory_bytes"
            )
        return min(self._chunk, (holds - room) // 2)

    def _bytes_per_token(self, conversation: TokenConversation) -> int:
        stored = conversation.stored
        return conversation.cache.kv_bytes() // stored if stored else bytes_per_token(self._model)

    def enforce(self, conversation: TokenConversation, room: int = 0) -> None:
        """Evict until the conversation is within its budget, and leaves room for `room` tokens in the window."""
        stored = conversation.stored
        limit = self.budget.limit(
            read=conversation.read,
            window=self._window,
            room=room,
            bytes_per_token=self._bytes_per_token(conversation),
            stored=stored,
            stored_bytes=conversation.cache.kv_bytes(),
        )
        if limit is None:
            return
        most = limit.most if self._window is None else min(limit.most, self._window - room)
        if stored <= most:
            return
        target = min(most, limit.down_to)
        conversation.dropped_because = self._reason(conversation, limit, room, target)
        index = conversation.cache.stored_index().cpu()
        quarter = target // 4
        head = min(conversation.first, quarter) if self._protect_first is None else min(self._protect_first, target)
        priority = torch.full(index.shape, OPEN, device="cpu")
        priority[max(0, len(index) - quarter) :] = PROTECTED
        priority[index < max(head, min(SINKS, quarter))] = HEAD
        stay = staying(priority.double().numpy(), self._scores(conversation, index).numpy(), target)
        kept = index[torch.from_numpy(stay)]
        conversation.evicted += conversation.cache.drop(
            lambda layout: ~torch.isin(layout.index[0], kept.to(layout.index.device))
        )

    def _reason(self, conversation: TokenConversation, limit: Limit, room: int, target: int) -> str:
        """Why `conversation` is evicted down to `target` tokens, in words."""
        coming, what = room, limit.reason
        if self._window is not None and self._window - room <= limit.most:
            what = f"the window of {self._window:,}"
        elif self.budget.automatic:
            what = f"the memory of {self.budget.memory_bytes:,} bytes"
        else:
            coming = 0  # a fixed budget counts what is stored when a call returns
        more = f" and {coming:,} to come" if coming else ""
        return f"{conversation.stored:,} stored tokens{more} pass {what}: evicted down to {target:,}"

    def _scores(self, conversation: TokenConversation, index: torch.Tensor) -> torch.Tensor:
        if conversation.cache.read_scores is not None:
            return conversation.cache.read_scores.of(index, conversation.read)
        if self.evict_by == "random":
            row = index.unsqueeze(0)
            context = ScoreContext(row, row, torch.ones_like(row, dtype=torch.bool), self.seed, None)
            return RandomScorer().score(0, row.unsqueeze(-1), context)[0]
        if self.evict_by == "attention" and conversation.attention is not None:
            return torch.from_numpy(conversation.attention.scores(index.numpy()))
        return index.to(torch.float64)

    def _make_room(self, conversation: TokenConversation, tokens: int) -> None:
        """Evict and reposition so that `tokens` more tokens find positions in the window."""
        self.enforce(conversation, tokens)
        if self._rotator is None or self._window is None or conversation.next_position + tokens <= self._window:
            return
        index = conversation.cache.stored_index()
        conversation.cache.move(self._rotator, index, torch.arange(len(index), device=index.device))
        conversation.shift = conversation.read - len(index)


def _rotator_of(model: Any) -> KeyRotator:
    """The rotator of a model whose own `generate` goes on with repositioned keys.

    Raises:
        ValueError: it has none, or it would begin anew where the sequence passes the switch of its rotary embeddings.
    """
    if "longrope" in rope_kinds(find_decoder(model).config):
        raise ValueError(
            f"{type(model).__name__} reads all tokens anew beyond its long-rope switch, so keys with longrope RoPE "
            "cannot be moved; without a budget its calls there are the bare model's"
        )
    return KeyRotator(model)
