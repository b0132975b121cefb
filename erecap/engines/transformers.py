"""The engine over a causal model of transformers: a pruned cache, hooks, and a fused decoder for short reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from erecap.decoding.best import best_of, pays
from erecap.decoding.exits.drafting import LookAt
from erecap.decoding.exits.partial import Heads, read_layers
from erecap.decoding.fused import FusedDecoder
from erecap.decoding.linear import Weights
from erecap.decoding.revision import model_revision
from erecap.decoding.short import ShortReads, short_reads
from erecap.engines.cache_files import load_cache, save_cache
from erecap.engines.chunks import in_chunks
from erecap.engines.forwarder import current
from erecap.engines.model_facts import fingerprint_of, shape_of, stored_kind
from erecap.engines.newest_attention import NewestAttention, collecting
from erecap.engines.protocol import BetweenChunks, EngineSettings, Stored
from erecap.engines.refusals import problem_with, refuse_unservable
from erecap.engines.rope_lengths import RopeLengths, drops_cache, follows_length, tell_switch
from erecap.engines.rotate_keys import KeyRotator, why_fixed
from erecap.engines.token_bytes import bytes_per_token
from erecap.errors import RunError
from erecap.models.cache_argument import CACHE
from erecap.parallel.crossings import Crossings
from erecap.parallel.placement import input_device
from erecap.parallel.ranks import is_split
from erecap.registries import ENGINES, load_attribute
from erecap.tokens.cache.finishing import to_the_end
from erecap.tokens.cache.layout import Layout
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.cache.read_scores import ReadScores
from erecap.tokens.cache.ropes import reuse_window, window_of
from erecap.tokens.hooks import find_decoder
from erecap.tokens.pruning import attach
from erecap.tokens.revival import revive
from erecap.tokens.rope_hooks import rope_length
from erecap.tokens.scoring.schedule import PruneConfig
from erecap.tokens.servable import outside_inference

LEADING = "erecap.engines.leading:LeadingEngine"  # by name: it is made of this one
CHUNK = 512  # tokens of one prefill chunk
READ_IDS = "read_ids"  # of a saved session whose tokens can be read again
SUPPORTS = frozenset(
    {
        "reposition",
        "newest",
        "attention scores",
        "read scores",
        "prune at prefill",
        "revive",
        "packed weights",
        "share forward passes",
        "early exit",
        "some logits",
    }
)


class TransformersEngine:
    """Keys and values of one conversation in a `PrunedCache`, on a model that engines may share.

    Args:
        model: a causal language model of transformers, in eval mode.
        settings: see `EngineSettings`.

    Raises:
        ValueError: another kind of model; `prune` does not fit the model, or `decode_weights` that it cannot have.
    """

    name = "transformers"
    supports: frozenset[str] = SUPPORTS

    def __new__(cls, model: Any, settings: EngineSettings | None = None) -> TransformersEngine:
        """An engine; of a model that is split over processes, one that leads the other ranks."""
        if cls is TransformersEngine and is_split(model):
            return super().__new__(load_attribute(LEADING))
        return super().__new__(cls)

    def __init__(self, model: Any, settings: EngineSettings | None = None) -> None:
        if not (hasattr(getattr(model, "config", None), "get_text_config") and hasattr(model, "modules")):
            others = " or ".join(repr(name) for name in ENGINES if name != self.name)
            raise ValueError(
                "the engine 'transformers' serves a causal language model of transformers, got "
                f"{type(model).__name__}; name the engine of this model: engine={others}"
            )
        refuse_unservable(model)
        self.settings = settings = settings or EngineSettings()
        problem = problem_with(model, settings)
        if problem is not None:
            raise ValueError(problem)
        self.model = model
        # Where angles follow the length, and nothing is evicted or pruned: what it takes to read again.
        self._ropes: RopeLengths | None = None
        self._length: int | None = None  # tokens of the sequence that is being read, where angles follow it
        if follows_length(model):
            if settings.evicts or settings.prune is not None:
                tell_switch(model)
            else:
                self._ropes = RopeLengths(model)
        self.chunk = settings.prefill_chunk or CHUNK
        self.short: ShortReads = short_reads(model, settings.decode_weights)
        decoder = find_decoder(model)
        self._config, self._layers = decoder.config, len(decoder.layers)
        self._keeps_logits = bool(model._supports_logits_to_keep())
        self.cache = self._empty_cache()
        self._attention: NewestAttention | None = None
        self.shift = 0  # token index minus position of the next token; above 0 once stored tokens were repositioned
        self._rotator: KeyRotator | None = None

    def _empty_cache(self) -> PrunedCache:
        cache = PrunedCache(self.settings.prune or PruneConfig(keep=1.0, stages=()), self._layers)
        if not isinstance(self.settings.evict_by, str):
            cache.read_scores = ReadScores(self.settings.evict_by, self.settings.seed)
        return cache

    @outside_inference()
    def fork(self) -> TransformersEngine:
        """An independent engine on the same model, with a fork of the cache."""
        self.cache.rollback()
        twin = TransformersEngine(self.model, self.settings)
        twin.take_from(self)
        return twin

    def take_from(self, other: TransformersEngine) -> None:
        """Become a fork of `other`, which is on the same model; for an engine that has read nothing."""
        self.chunk = other.chunk
        self.cache = other.cache.fork()
        self._ropes = None if other._ropes is None else other._ropes.copy()
        self._attention, self.shift, self._rotator = other._attention, other.shift, other._rotator

    @outside_inference()
    def reset(self) -> None:
        """Free all keys and values; nothing has been read."""
        self.cache.rollback()
        layers = len(find_decoder(self.model).layers)
        if layers == self._layers:
            self.cache.reset()
        else:  # a layer plan came or went
            cache = PrunedCache(self.cache.config, layers)
            cache.read_scores = self.cache.read_scores
            if cache.read_scores is not None:
                cache.read_scores.clear()
            self.cache, self._layers = cache, layers
        self._attention, self.shift, self._rotator = None, 0, None
        self._ropes = None if self._ropes is None else RopeLengths(self.model)

    # What is known ----------------------------------------------------------------------------------------

    @property
    def shape(self) -> str:
        """The model in short, for people; `fingerprint` tells whether saved keys fit."""
        return shape_of(self._config, self._layers)

    @property
    def revision(self) -> int:
        """Another number whenever weights, modules or active adapters of the model were changed."""
        return model_revision(self.model)

    def fingerprint(self) -> dict[str, str]:
        """Digests of weights, adapters, configuration and precision; made once a revision."""
        return fingerprint_of(self.model, self.revision)

    @property
    def window(self) -> int:
        """Positions that the model can take, as far as stored keys and values stay those that it would compute."""
        window = reuse_window(self._config) if self._rereads is None else window_of(self._config)
        assert window is not None, "a model without a window is refused when the engine is made"
        return window

    @property
    def vocabulary(self) -> int:
        """Token ids are below this."""
        return int(self._config.vocab_size)

    @property
    def decode_weights(self) -> Weights:
        """Precision of the weights while decoding."""
        return self.settings.decode_weights

    @property
    def tokens(self) -> int:
        """Tokens read."""
        return self.cache.get_seq_length()

    @property
    def next_position(self) -> int:
        """Position of the next token read."""
        return self.cache.get_seq_length() - self.shift

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values of a token that all layers store, as the cache has them."""
        return bytes_per_token(self.model, self.cache)

    @property
    def why_fixed(self) -> str | None:
        """Reason why keys of this model cannot be rotated to other positions; None: they can."""
        return self._why_not_turned if self._rereads is None else self._rereads.why_fixed

    @property
    def _rereads(self) -> RopeLengths | None:
        """The ids that are read again where their angles no longer fit; None: angles stay, or tokens are gone."""
        return None if self._ropes is None or self._ropes.ids is None else self._ropes

    @cached_property
    def _why_not_turned(self) -> str | None:
        return why_fixed(self.model)

    @cached_property
    def _drops_cache(self) -> bool:
        return drops_cache(self.model)

    @property
    def prune_seconds(self) -> float:
        """Seconds spent pruning at prefill so far."""
        return self.cache.prune_seconds

    def stored(self) -> Stored:
        """The tokens stored now, by groups of layers that share a layout."""
        groups, layers = self._groups()
        return Stored(tuple(_indices(layout) for layout in groups), layers)

    def kv_bytes(self) -> int:
        """Bytes of keys and values of all layers."""
        return self.cache.kv_bytes()

    def crossed(self) -> Crossings:
        """Bytes that have moved between devices for this conversation's reads."""
        return replace(self.cache.crossings)

    def _groups(self) -> tuple[list[Layout], tuple[int, ...]]:
        """Distinct layouts, and the number of each layer's."""
        numbers: dict[int, int] = {}
        groups: list[Layout] = []
        layers = []
        for number in range(self.cache.layer_count):
            layout = self.cache.layout(number)
            if id(layout) not in numbers:
                numbers[id(layout)] = len(groups)
                groups.append(layout)
            layers.append(numbers[id(layout)])
        return groups, tuple(layers)

    # Reading ----------------------------------------------------------------------------------------------

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Put the hooks on the model within; its fused decoders follow what was changed since."""
        self.short.refresh()
        with attach(self.model, self.cache, attention=self.settings.evict_by == "attention"):
            try:
                yield
            finally:
                self.cache.rollback()  # another one than before, where stored tokens were read again

    @outside_inference()
    def read(
        self,
        ids: Sequence[int],
        between_chunks: BetweenChunks | None = None,
        *,
        protected: Sequence[tuple[int, int]] | None = None,
        scores: bool = False,
    ) -> np.ndarray:
        """Prefill `ids` in chunks, see `SessionEngine.read`; logits `(vocab,)` after the last token."""
        rows, done = None, 0
        with self.attached(), self._as_long_as(self.tokens + len(ids), between_chunks):
            for chunk in in_chunks(ids, self.chunk, between_chunks):
                done += len(chunk)
                if protected is not None:
                    self.cache.arm(protect=protected)
                collect = scores and done == len(ids) and self.settings.evict_by == "attention"
                with collecting(collect) as masses:
                    rows = self.forward(chunk, keep=1)
                if collect:
                    self._attention = NewestAttention.of_layers(self.cache, masses)
        assert rows is not None, "a read has at least one token"
        return _array(rows)[-1]

    @outside_inference()
    def verify(self, ids: Sequence[int]) -> np.ndarray:
        """Read `ids` unpruned in one pass; logits `(len(ids), vocab)`. Within `attached`.

        Unfinished tokens (see `begin`) must be the first of `ids`, and are finished.
        """
        if self.cache.unfinished:
            return self._finish(ids)
        if self._rereads is None:
            return _array(self.forward(ids, keep=0, decode=True))
        rows = []
        for piece, length in self._rereads.steps(self.tokens, ids):
            with self._as_long_as(length, None, generated=True):
                rows.append(_array(self.forward(piece, keep=0, decode=True)))
        return np.concatenate(rows)

    def chooses(self, tokens: int) -> bool:
        """True if a read of `tokens` tokens can name some of a few, see `ChoosingReader`. Within `attached`.

        Not in a pool, whose passes are shared with their logits, and not where the model reads by itself.
        """
        return current.seat is None and self._rereads is None and self.fused(tokens, decode=True) is not None

    @outside_inference()
    def choose(self, ids: Sequence[int], among: Sequence[Sequence[int]]) -> list[int] | None:
        """Read `ids`, and name tokens without the logits of others, see `ChoosingReader`. Within `attached`."""
        begun = sum(parked.tokens.width for parked in self.cache.unfinished)
        decoder = self.fused(len(ids), decode=True) if self.chooses(len(ids)) else None
        if decoder is None or begun > len(ids) or not pays(among, decoder.head):
            return None
        hidden = read_layers(decoder, self.cache, ids[begun:], self.next_position)
        assert hidden is not None, "nothing stops this read"
        return best_of(decoder.head, decoder.normed(hidden), among)

    @outside_inference()
    def begin(self, ids: Sequence[int], look: LookAt) -> bool:
        """Read `ids` through the first layers, see `LayerReader`. Within `attached`; passes are never shared."""
        decoder = self.fused(len(ids), decode=True)
        if decoder is None:
            return False
        heads = Heads(decoder, self.model)
        read_layers(decoder, self.cache, ids, self.next_position, partial(look, heads))
        return True

    def unfinished_bytes(self) -> int:
        """Bytes of the hidden states of tokens that were read through the first layers only."""
        return sum(parked.nbytes() for parked in self.cache.unfinished)

    def _finish(self, ids: Sequence[int]) -> np.ndarray:
        """As `verify`, where the first of `ids` were begun."""
        begun = sum(parked.tokens.width for parked in self.cache.unfinished)
        if begun > len(ids):
            raise ValueError(f"{begun} tokens were begun, and {len(ids)} are to be verified")
        decoder = self.fused(len(ids), decode=True)
        if decoder is None:  # something was put on the model meanwhile, which has to see whole passes
            self.rollback(self.tokens - begun)
            return _array(self.forward(ids, keep=0, decode=True))
        hidden = read_layers(decoder, self.cache, ids[begun:], self.next_position)
        assert hidden is not None, "nothing stops this read"
        with torch.no_grad():
            return _array(decoder.head(decoder.normed(hidden)).cpu())

    @contextmanager
    def _as_long_as(self, length: int, between: BetweenChunks | None, generated: bool = False) -> Iterator[None]:
        """Read, within, as parts of a sequence of `length` tokens. Stored keys that do not fit one are read again.

        Args:
            between: as for `read`.
            generated: the bare model reads these while it generates, and most classes then leave earlier keys alone.
        """
        ropes = self._rereads
        if ropes is None:
            yield
            return
        ropes.cut(self.tokens)
        self._length = length
        try:
            if not ropes.fit(length) and (self._drops_cache or not generated):
                self._read_again(ropes, between)
            yield
        finally:
            self._length = None

    def _read_again(self, ropes: RopeLengths, between: BetweenChunks | None) -> None:
        """Read all stored tokens anew; what is stored stays until that is done."""
        before, self.cache = self.cache, self._empty_cache()
        fresh, self._ropes = ropes.copy(), RopeLengths(self.model)
        try:
            ids = fresh.restart()
            for start in range(0, len(ids), self.chunk):
                chunk = ids[start : start + self.chunk]
                if between is not None:
                    between(0, len(chunk))
                self.forward(chunk, keep=1)
        except BaseException:
            self.cache, self._ropes = before, ropes
            raise

    @outside_inference()
    def rollback(self, to: int) -> None:
        """Forget everything read after the first `to` tokens."""
        to_the_end(partial(self._rollback, to))

    def _rollback(self, to: int) -> None:
        self.cache.rollback()
        self.cache.crop(to - self.cache.get_seq_length())
        if self._attention is not None and to <= self._attention.newest:
            self._attention = None
        if self.shift:
            # The session has repositioned; go on right behind the last token that is still stored.
            self.shift = to - (self._last_position() + 1)

    @outside_inference()
    def skip(self, tokens: int, gap: bool) -> None:
        """Count `tokens` tokens as read without storing them."""
        self._leave_ropes()
        self.cache.skip(tokens)
        self.shift += 0 if gap else tokens

    def _last_position(self) -> int:
        """The highest position of a stored token; -1 where none is stored."""
        return max((int(layout.positions[0, -1]) for layout in self._groups()[0] if layout.width), default=-1)

    def fused(self, tokens: int, decode: bool) -> FusedDecoder | None:
        """The fused decoder for the next `tokens` tokens; None: the model. `decode`: generated or drafted ones."""
        if self.cache.prunes_next(tokens):
            return None
        return self.short.decoder(tokens, decode)

    def forward(self, ids: Sequence[int], keep: int, decode: bool = False) -> torch.Tensor:
        """Read `ids` in one pass, shared with other engines where this thread belongs to a pool.

        Args:
            keep: logits of this many newest tokens; 0: of all.
            decode: they are generated or drafted tokens.

        Returns:
            Logits `(keep or len(ids), vocab)`, on the CPU.
        """
        if self._length is not None and self._ropes is not None:
            self._ropes.note(ids, self._length)
        if current.seat is not None:  # the session is used by a job of a pool
            return current.seat.forward(self, ids, keep, decode)
        return self.forward_alone(ids, keep, decode)

    @outside_inference()
    def forward_alone(self, ids: Sequence[int], keep: int, decode: bool) -> torch.Tensor:
        """As `forward`, in a pass of their own."""
        start = self.next_position
        fused = self.fused(len(ids), decode)
        if fused is not None:
            return fused.read(self.cache, ids, start, keep)
        device = input_device(self.model)
        with torch.no_grad(), rope_length(self._length):
            output = self.model(
                input_ids=torch.tensor([list(ids)], device=device),
                position_ids=torch.arange(start, start + len(ids), device=device).unsqueeze(0),
                **{CACHE: self.cache},
                use_cache=True,
                **({"logits_to_keep": keep} if self._keeps_logits else {}),
            )
        logits: torch.Tensor = output.logits[0]
        return logits.cpu() if self._keeps_logits or not keep else logits[-keep:].cpu()

    # Edits ------------------------------------------------------------------------------------------------

    def _leave_ropes(self) -> None:
        if self._rereads is not None:
            self._rereads.cut(self.tokens)
            self._rereads.leave()

    @outside_inference()
    def scores(self, indices: np.ndarray) -> np.ndarray | None:
        """Scores `(n,)` float32 of stored tokens: those taken when they were read, or the newest attention weights."""
        if self.cache.read_scores is not None:
            return self.cache.read_scores.of(torch.from_numpy(indices), self.cache.get_seq_length()).numpy()
        return None if self._attention is None else self._attention.scores(indices)

    @outside_inference()
    def evict(self, gone: Sequence[Sequence[int] | np.ndarray]) -> int:
        """Drop keys and values, see `SessionEngine.evict`."""
        self.cache.rollback()
        if any(len(indices) for indices in gone):
            self._leave_ropes()
        masks: dict[int, torch.Tensor] = {}
        for layout, indices in zip(self._groups()[0], gone, strict=True):
            mask = np.zeros(layout.width, bool)
            mask[np.searchsorted(_indices(layout), indices)] = True
            masks[id(layout)] = torch.from_numpy(mask).to(layout.index.device)
        return self.cache.drop(lambda layout: masks[id(layout)])

    @outside_inference()
    def reposition(self) -> None:
        """Give the stored tokens consecutive positions from 0, by rotating their keys.

        Exact within the window, for every rotary embedding that `KeyRotator` can measure.

        Raises:
            ValueError: another kind of position embedding.
        """
        if self._rereads is not None:
            return  # nothing was evicted, so positions are consecutive
        if self._rotator is None:
            self._rotator = KeyRotator(self.model)
        self.cache.rollback()
        index = self.cache.stored_index()
        self.cache.move(self._rotator, index, torch.arange(len(index), device=index.device))
        # An interrupt just before leaves a gap behind the stored tokens, which the next repositioning closes.
        self.shift = self.cache.get_seq_length() - len(index)

    @outside_inference()
    def revive(self, span: tuple[int, int] | None) -> int:
        """Bring parked tokens back into the deeper layers, see `erecap.tokens.revival`."""
        return revive(self.model, self.cache, span)

    # Files ------------------------------------------------------------------------------------------------

    @outside_inference()
    def save(self, path: Path, arrays: Mapping[str, np.ndarray], known: Mapping[str, Any]) -> None:
        """Write the cache with `arrays` and `known` to one safetensors file."""
        self.cache.rollback()
        if (ropes := self._rereads) is not None:
            ropes.cut(self.tokens)
            arrays = {**arrays, READ_IDS: np.asarray(ropes.ids, np.int64)}
            known = {**known, "angles": ropes.to_json()}
        save_cache(path, self.cache, arrays, known, self)

    @outside_inference()
    def restore(self, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Fill this engine, which has read nothing, from `path`; see `SessionEngine.restore`."""
        arrays, known = load_cache(path, self.cache, stored_kind(self.model, self._config, self.window), self)
        self.shift = known["state"]["shift"]
        ids, runs = arrays.pop(READ_IDS, None), known.pop("angles", None)
        if ids is not None and follows_length(self.model):
            ropes = RopeLengths(self.model)
            try:
                ropes.restore(ids, runs, self.tokens, self.vocabulary)
                if self._ropes is None:
                    ropes.leave()
            except ValueError as error:
                raise RunError(f"{path.name}: cannot be restored: {error}") from error
            self._ropes = None if self._ropes is None else ropes
        elif self._ropes is not None:
            self._ropes.ids = None
        if self.next_position > self.window:
            raise RunError(
                f"{path.name}: its {self.next_position:,} positions pass the {self.window:,} of this session"
            )
        return arrays, known


def _indices(layout: Layout) -> np.ndarray:
    """Token indices `(n,)` of a layout of one row."""
    return layout.index[0].cpu().numpy()


def _array(rows: torch.Tensor) -> np.ndarray:
    """Logits on the CPU as float32; numpy has no bfloat16."""
    return rows.float().numpy()
