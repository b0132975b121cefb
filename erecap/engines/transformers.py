"""The model side of a session: reading chunks, evicting down to the budget, closing up positions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from erecap.budget import Budget
from erecap.cost.model import CostModel
from erecap.decoding.fused import FusedDecoder
from erecap.decoding.linear import Weights
from erecap.decoding.short import short_reads
from erecap.engines.forwarder import current
from erecap.engines.rotate_keys import KeyRotator
from erecap.errors import BudgetError
from erecap.protocols import ScoreContext
from erecap.session.automatic import check_memory, make_room, why_fixed
from erecap.session.conversation.protection_spans import Claims, numbered
from erecap.session.conversation.transcript import Mark, Transcript
from erecap.session.eviction import stay, tiers
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.cache.read_scores import ReadScorer, ReadScores
from erecap.tokens.pruning import attach
from erecap.tokens.scoring import probe
from erecap.tokens.scoring.schedule import PruneConfig
from erecap.tokens.scoring.scorers import RandomScorer

CHUNK = 512  # tokens read at once; eviction happens between chunks

Spans = Sequence[tuple[int, int, int]]


class TransformersEngine:
    """A model on top of one session's cache; see `ReplanSession` for the arguments.

    Raises:
        ValueError: `prune` does not fit the model, a memory that holds nothing, or a budget that needs a cost model
            without one.
    """

    def __init__(
        self,
        model: Any,
        prune: PruneConfig | None,
        budget: Budget,
        evict_by: str | ReadScorer,
        seed: int,
        stale_first: bool = True,
        decode_weights: Weights = "same",
        chunk: int | None = None,
        cost: CostModel | None = None,
    ) -> None:
        if (budget.pays is None) != (cost is None):
            raise ValueError(
                f"a budget with pays={budget.pays} needs a calibrated cost model of this model; run `erecap calibrate`"
                if cost is None
                else "a cost model is for a budget with pays: Budget.auto(pays=...)"
            )
        check_memory(model, budget.memory_bytes)
        self.model = model
        self.budget = budget
        self.cost = cost
        # Why positions cannot be closed up; looked at only where the budget relies on it.
        self.why_fixed = why_fixed(model) if budget.automatic else None
        self.room = 0  # tokens that an answer may have, as the newest call says
        self.dropped_because: str | None = None  # the reason of the last eviction, until an answer tells it
        self.evict_by = evict_by
        self.seed = seed
        self.stale_first = stale_first
        self.prune = prune
        self.decode_weights: Weights = decode_weights
        self.chunk = chunk or CHUNK
        self._short = short_reads(model, decode_weights)
        self.pending: list[int] = []  # ids of the last answer that were generated but not read
        self.evicted = 0  # tokens that `enforce` has evicted so far, those of calls that were rolled back included
        self.evict_seconds = 0.0
        self._config = model.config.get_text_config(decoder=True)
        self.cache = PrunedCache(prune or PruneConfig(keep=1.0, stages=()), self._config.num_hidden_layers)
        if not isinstance(evict_by, str):
            self.cache.read_scores = ReadScores(evict_by, seed)
        # (n,) places of tokens and what the newest prompt token paid each.
        self._attention: tuple[torch.Tensor, torch.Tensor] | None = None
        self.shift = 0  # place minus position of the next token; above 0 once positions were closed up
        self._rotator: KeyRotator | None = None

    def fork(self) -> TransformersEngine:
        """An independent reader on the same model, with a fork of the cache."""
        twin = TransformersEngine(
            self.model,
            self.prune,
            self.budget,
            self.evict_by,
            self.seed,
            self.stale_first,
            self.decode_weights,
            self.chunk,
            self.cost,
        )
        twin.cache = self.cache.fork()
        twin.pending, twin.evicted = list(self.pending), self.evicted
        twin.room, twin.dropped_because = self.room, self.dropped_because
        twin._attention, twin.shift, twin._rotator = self._attention, self.shift, self._rotator
        return twin

    @property
    def window(self) -> int:
        """Positions that the model can take."""
        return int(self._config.max_position_embeddings)

    @property
    def outlives_window(self) -> bool:
        """Whether eviction makes room past the window, so that no message has to be left out."""
        return self.budget.limited and self.why_fixed is None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The hooks are on the model within."""
        with attach(self.model, self.cache, attention=self.evict_by == "attention"):
            yield

    # Reading ----------------------------------------------------------------------------------------------

    def prefill(
        self,
        ids: Sequence[int],
        marks: Sequence[Mark],
        transcript: Transcript,
        messages: Claims,
        spans: Spans,
        room: int,
    ) -> torch.Tensor:
        """Read `ids` in chunks, evicting between them; extends `transcript`.

        Args:
            room: tokens that will be generated afterwards and must find positions.

        Returns:
            Logits `(vocab,)` after the last token.
        """
        marks = list(marks)
        logits = None
        # The rest of the last answer comes first; once read, it belongs to that answer's mark.
        settled = transcript.tokens + len(self.pending)
        start = 0
        while start < len(ids):
            size = self.chunk
            if self.budget.automatic:
                size = make_room(self, len(ids) - start, transcript, messages, spans, marks)
            chunk = list(ids[start : start + size])
            start += size
            last = start >= len(ids)
            self._make_room(len(chunk) + (room if last else 0))
            if self.prune is not None:
                everything = [*transcript.known_marks, *marks]
                self.cache.arm(protect=_token_spans(everything, spans))
            collect = last and self.evict_by == "attention"
            with _collecting(self._config.num_hidden_layers if collect else 0) as masses:
                logits = self._forward(chunk, keep=1)
            if collect:
                self._attention = self._mass(masses)
            transcript.extend(chunk)
            if self.pending and transcript.tokens >= settled:
                transcript.settle(settled)
                self.pending = []
            while marks and marks[0].tokens <= transcript.tokens:
                transcript.extend((), [marks.pop(0)])
            if not last:
                self.enforce(transcript, messages, spans, coming=marks)
        assert logits is not None, "a chat always ends with the header of the answer"
        return logits[-1]

    def read(self, ids: Sequence[int]) -> torch.Tensor:
        """Read `ids` unpruned; logits `(len(ids), vocab)`."""
        return self._forward(ids, keep=0, decode=True)

    def probe(self, ids: Sequence[int]) -> torch.Tensor:
        """As `read`, for tokens that will be taken back; makes room for them if need be."""
        self._make_room(len(ids))
        return self._forward(ids, keep=0, decode=True)

    def take_back(self, tokens: int) -> None:
        """Forget the newest `tokens` tokens read."""
        self.cache.crop(-tokens)

    def read_overlay(self, ids: Sequence[int]) -> None:
        """Read `ids`, unpruned, outside of any call; `pending` is among them."""
        with self.attached():
            for start in range(0, len(ids), self.chunk):
                chunk = ids[start : start + self.chunk]
                self._make_room(len(chunk))
                self._forward(chunk, keep=1)
        self.pending = []

    def read_again(self, start: int, end: int, ids: Sequence[int]) -> None:
        """Forget everything from place `start` on, then read `ids` from place `end` on, unpruned.

        The positions are the old ones. Where they have been closed up there are no old ones: reading then goes on
        right behind what is stored before `start`.

        Raises:
            BudgetError: `ids` do not fit the window behind what is stored before; nothing has changed then.
        """
        before = int((self.cache.stored_index() < start).sum())
        if before + len(ids) > self.window:
            raise BudgetError(
                f"reading {len(ids)} tokens anew behind {before} stored ones exceeds the window of {self.window}"
            )
        pending = self.pending
        self.cache.crop(start - self.cache.get_seq_length())
        self.cache.skip(end - start)
        self.shift = end - (self._last_position() + 1) if self.shift else 0
        self.read_overlay(ids)
        self.pending = pending

    def back_to(self, tokens: int) -> None:
        """Forget everything read after the first `tokens` tokens."""
        self.cache.rollback()
        self.pending = []
        self._attention = None
        self.cache.crop(tokens - self.cache.get_seq_length())
        if self.shift:
            # Positions were closed up once; go on right behind the last token that is still stored.
            self.shift = tokens - (self._last_position() + 1)

    def _last_position(self) -> int:
        """The highest position of a stored token; -1 where none is stored."""
        return max((int(layout.positions.max()) for layout in self.cache.layouts() if layout.width), default=-1)

    @property
    def next_position(self) -> int:
        """Position of the next token read."""
        return self.cache.get_seq_length() - self.shift

    def fused(self, tokens: int, decode: bool) -> FusedDecoder | None:
        """What reads the next `tokens` tokens; None: the model. `decode`: they are generated or drafted ones."""
        if self.cache.prunes_next(tokens):
            return None
        return self._short.decoder(tokens, decode)

    def _forward(self, ids: Sequence[int], keep: int, decode: bool = False) -> torch.Tensor:
        if current.seat is not None:  # the session is used by a job of a pool
            return current.seat.forward(self, ids, keep, decode)
        return self.forward(ids, keep, decode)

    def forward(self, ids: Sequence[int], keep: int, decode: bool) -> torch.Tensor:
        """Read `ids` in a forward call of their own; logits `(keep or len(ids), vocab)`, on the CPU."""
        start = self.next_position
        fused = self.fused(len(ids), decode)
        if fused is not None:
            return fused.read(self.cache, ids, start, keep)
        device = self.model.device
        with torch.no_grad():
            output = self.model(
                input_ids=torch.tensor([list(ids)], device=device),
                position_ids=torch.arange(start, start + len(ids), device=device).unsqueeze(0),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=keep,
            )
        logits: torch.Tensor = output.logits[0]
        return logits.cpu()

    def _mass(self, masses: dict[int, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Places `(n,)` of stored tokens, and the mean over layers of what the newest token paid each `(n,)`."""
        index = self.cache.stored_index().cpu()
        total = torch.zeros(len(index))
        for layer, mass in masses.items():
            column = torch.searchsorted(index, self.cache.layout(layer).index[0].cpu())
            total.index_add_(0, column, mass[0].cpu() / len(masses))
        return index, total

    # Evicting ---------------------------------------------------------------------------------------------

    def enforce(
        self,
        transcript: Transcript,
        messages: Claims,
        spans: Spans,
        coming: Sequence[Mark] = (),
        limit: int | None = None,
    ) -> None:
        """Evict until every layer stores at most what the budget says; under an automatic one, until an answer fits.

        Args:
            coming: marks of messages that are not read to their end yet.
            limit: tokens to leave stored, instead of the budget.

        Raises:
            BudgetError: system and goal alone exceed it.
        """
        if self.budget.automatic and limit is None:
            make_room(self, 0, transcript, messages, spans, coming)
            return
        budget = self.budget.tokens(transcript.tokens) if limit is None else limit
        if budget is None or max(self.cache.kept_lengths()) <= budget:
            return
        started = time.perf_counter()
        index = self.cache.stored_index().cpu()
        tier = self.tiers(index, transcript, messages, spans, coming)
        scores = self._scores(index)

        def gone(layout: Any) -> torch.Tensor:
            own = layout.index[0].cpu()
            place = torch.searchsorted(index, own)
            return ~stay(own, tier[place], scores[place], budget).to(layout.index.device)

        self.evicted += self.cache.drop(gone)
        self.evict_seconds += time.perf_counter() - started
        if limit is None:
            why = self.budget.limit(read=transcript.tokens, window=None)
            self.dropped_because = f"more tokens were stored than {why.reason} allows" if why else None

    def tiers(
        self, index: torch.Tensor, transcript: Transcript, messages: Claims, spans: Spans, coming: Sequence[Mark]
    ) -> torch.Tensor:
        """Tier `(n,)` of each stored token, see `erecap.session.eviction`."""
        if not self.stale_first:
            messages = {number: {**message, "stale": []} for number, message in numbered(messages).items()}
        return tiers(index, [*transcript.known_marks, *coming], messages, spans, self.cache.config.sinks)

    def drop_together(self, index: torch.Tensor, tier: torch.Tensor, budget: int) -> None:
        """Evict down to `budget` tokens, the same ones in all layers: what one layer keeps takes a position in all."""
        started = time.perf_counter()
        kept = index[stay(index, tier, self._scores(index), budget)]
        self.evicted += self.cache.drop(lambda layout: ~torch.isin(layout.index[0], kept.to(layout.index.device)))
        self.evict_seconds += time.perf_counter() - started

    def _scores(self, index: torch.Tensor) -> torch.Tensor:
        if self.cache.read_scores is not None:
            return self.cache.read_scores.of(index, self.cache.get_seq_length())
        if self.evict_by == "random":
            row = index.unsqueeze(0)
            context = ScoreContext(row, row, torch.ones_like(row, dtype=torch.bool), self.seed, None)
            return RandomScorer().score(0, row.unsqueeze(-1), context)[0]
        if self.evict_by == "attention" and self._attention is not None:
            # Tokens generated since have not been asked about; they are the newest, and rank first.
            scores = torch.ones(len(index))
            places, mass = self._attention
            column = torch.searchsorted(places, index).clamp(max=len(places) - 1)
            # What was not stored then, and was read anew since, got nothing.
            scores[index <= places[-1]] = 0.0
            asked = places[column] == index
            scores[asked] = mass[column[asked]]
            return scores
        return index.to(torch.float64)

    # Positions --------------------------------------------------------------------------------------------

    def _make_room(self, tokens: int) -> None:
        """Close up positions if `tokens` more would leave the model's window."""
        if self.next_position + tokens <= self.window:
            return
        if self.why_fixed is not None:
            raise BudgetError(
                f"{tokens} tokens from position {self.next_position} on exceed the model's window of {self.window}; "
                f"no room can be made: {self.why_fixed}; give the whole chat, whose oldest messages are then left out"
            )
        self.close_up()
        if self.next_position + tokens > self.window:
            raise BudgetError(
                f"{self.next_position} stored tokens and {tokens} more exceed the model's window of {self.window}; "
                + ("shorten them" if self.budget.automatic else "lower kv_tokens")
            )

    def close_up(self) -> None:
        """Give the stored tokens consecutive positions from 0, turning their keys."""
        if self._rotator is None:
            self._rotator = KeyRotator(self.model)
        read = self.cache.get_seq_length()
        index = self.cache.stored_index()
        self.cache.move(self._rotator, index, torch.arange(len(index), device=index.device))
        self.shift = read - len(index)


@contextmanager
def _collecting(layers: int) -> Iterator[dict[int, torch.Tensor]]:
    """Collect the attention mass of the newest token in all layers; nothing for 0 layers."""
    masses: dict[int, torch.Tensor] = {}
    probe.current.collect = masses if layers else None
    try:
        yield masses
    finally:
        probe.current.collect = None


def _token_spans(marks: Sequence[Mark], spans: Spans) -> list[tuple[int, int]]:
    """Protected characters as places of tokens."""
    by_message = {mark.message: mark for mark in marks}
    found = []
    for message, start, end in spans:
        mark = by_message.get(message)
        if mark is not None and mark.starts:
            low, high = mark.places(start, end)
            found += [(low, high)] if low < high else []
    return found
