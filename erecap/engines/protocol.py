"""The protocol of engines, which hold one conversation's keys and values and run its forward passes.

An engine knows token ids, token indices and positions, but no chats, messages or budgets. A session
decides what is read, kept and evicted, and an engine does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from erecap.decoding.linear import Weights
    from erecap.tokens.cache.read_scores import ReadScorer
    from erecap.tokens.scoring.schedule import PruneConfig

# (tokens read so far of those to read, tokens of the next chunk; 0 after the last one) -> tokens that the next chunk
# may have instead; None: as proposed
BetweenChunks = Callable[[int, int], int | None]
Capability = Literal[
    "reposition",  # rotate stored keys to consecutive positions, or store them without positions
    "newest",  # evict even the newest token; without it that one stays whatever the policy says
    "attention scores",  # say what attention weight the newest token gave each stored token
    "read scores",  # score each token once, when it is read, by a trained scorer
    "prune at prefill",  # drop tokens layer by layer while reading
    "revive",  # bring tokens that pruning dropped back into the deeper layers
    "packed weights",  # decode with weights of 8 or 4 bits
    "share forward passes",  # be served together with other engines by a pool
    "some logits",  # choose among the tokens of a grammar without the logits of others (`erecap.decoding.choosing`)
    "early exit",  # read through the first layers only, and finish that later (`erecap.decoding.exits.drafting`)
]


@dataclass(frozen=True)
class EngineSettings:
    """Settings that an engine takes from its session's configuration."""

    prune: PruneConfig | None = None  # how many tokens reach the deeper layers at prefill; None: all
    evict_by: str | ReadScorer = "recency"  # the policy's ranking; the engine takes scores only for some of these
    seed: int = 0  # for scorers that draw
    decode_weights: Weights = "same"  # precision of the weights while decoding
    prefill_chunk: int | None = None  # tokens of one prefill chunk; None: the engine's own choice
    evicts: bool = True  # the session may evict by itself; without it an engine can read all stored tokens again
    kv_tokens: int | None = None  # the session's fixed budget; None: it has none


@dataclass(frozen=True)
class Stored:
    """The tokens that an engine stores."""

    groups: tuple[np.ndarray, ...]  # `(n,)` rising token indices, of each group of layers that store the same tokens
    layers: tuple[int, ...]  # for each layer, the number of its group

    @cached_property
    def per_layer(self) -> tuple[int, ...]:
        """Tokens that each layer stores."""
        return tuple(len(self.groups[group]) for group in self.layers)

    @property
    def most(self) -> int:
        """Tokens that the fullest layer stores."""
        return max(self.per_layer, default=0)

    @cached_property
    def indices(self) -> np.ndarray:
        """`(n,)` rising indices of the tokens that at least one layer stores."""
        if len(self.groups) == 1:
            return self.groups[0]
        return np.unique(np.concatenate(self.groups)) if self.groups else np.empty(0, np.int64)


class SessionEngine(Protocol):
    """Keys and values of one conversation, on one model.

    Tokens are read in order; the n-th token read has the token index n, whatever is evicted. Any read that raises
    leaves the engine as it was before that chunk.
    """

    name: str  # as registered
    shape: str  # the model in short, for messages
    supports: frozenset[str]  # of `Capability`
    chunk: int  # most tokens of one prefill chunk

    @property
    def prune_seconds(self) -> float:
        """Seconds spent on pruning at prefill so far."""
        ...

    @property
    def revision(self) -> int:
        """Another number whenever the model computes other keys than before; a constant where it never changes."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """Digests of all that stored keys depend on, by name; where one differs, saved keys do not fit."""
        ...

    @property
    def vocabulary(self) -> int:
        """Token ids are below this."""
        ...

    @property
    def window(self) -> int:
        """Positions that the model can take."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens read; the next token has this index."""
        ...

    @property
    def next_position(self) -> int:
        """Position of the next token: its index, less what repositioning has gained."""
        ...

    @property
    def bytes_per_token(self) -> int:
        """Bytes of the keys and values of a token that all layers store."""
        ...

    @property
    def why_fixed(self) -> str | None:
        """Reason why the positions of stored tokens cannot be changed; None: they can."""
        ...

    def attached(self) -> AbstractContextManager[None]:
        """Prepare the model once for several reads made within."""
        ...

    def read(
        self,
        ids: Sequence[int],
        between_chunks: BetweenChunks | None = None,
        *,
        protected: Sequence[tuple[int, int]] | None = None,
        scores: bool = False,
    ) -> np.ndarray:
        """Prefill `ids`, at least one, in chunks.

        Args:
            between_chunks: called before each chunk and after the last. It may evict, reposition and ask for a shorter
                chunk. An engine that has to read stored tokens again calls it before each chunk of these as well, with
                0 tokens read; its answers are not heeded there.
            protected: prune as the settings say, but never token indices `(start, end)` of these; None: do not prune.
            scores: take the attention scores of the last token, where the settings rank by them.

        Returns:
            Logits `(vocab,)` float32 after the last token.
        """
        ...

    def verify(self, ids: Sequence[int]) -> np.ndarray:
        """Read generated or drafted tokens in one pass, unpruned; logits `(len(ids), vocab)` float32."""
        ...

    def rollback(self, to: int) -> None:
        """Forget everything read after the first `to` tokens; evicted tokens before stay evicted."""
        ...

    def skip(self, tokens: int, gap: bool) -> None:
        """Count `tokens` tokens as read without storing them. `gap`: leave their positions free as well."""
        ...

    def stored(self) -> Stored:
        """The tokens stored now."""
        ...

    def kv_bytes(self) -> int:
        """Bytes of the keys and values stored now."""
        ...

    def scores(self, indices: np.ndarray) -> np.ndarray | None:
        """Importance scores `(n,)` of stored tokens, finite, higher is kept longer; None where none were taken.

        Args:
            indices: `(n,)` rising token indices, all of them stored.
        """
        ...

    def evict(self, gone: Sequence[Sequence[int] | np.ndarray]) -> int:
        """Drop keys and values; positions stay.

        Args:
            gone: for each group of `stored()`, in its order, the rising token indices to evict.

        Returns:
            Tokens evicted, of the layer that lost most.
        """
        ...

    def reposition(self) -> None:
        """Give the stored tokens consecutive positions from 0.

        Raises:
            ValueError: the engine or its model cannot; the message says why.
        """
        ...

    def revive(self, span: tuple[int, int] | None) -> int:
        """Bring tokens that pruning dropped back into the deeper layers; returns how many.

        Raises:
            ValueError: the engine cannot.
        """
        ...

    def fork(self) -> SessionEngine:
        """An independent engine that has read and stores the same. Shares what it can."""
        ...

    def reset(self) -> None:
        """Free all keys and values; nothing has been read."""
        ...

    def save(self, path: Path, arrays: Mapping[str, np.ndarray], known: Mapping[str, Any]) -> None:
        """Write keys, values and their description, with `arrays` and `known`, to one safetensors file."""
        ...

    def restore(self, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Fill an engine that has read nothing from `path`; returns `arrays` and `known` as they were saved.

        `known["logical"]` are the tokens read, `known["state"]["shift"]` is `tokens - next_position`.

        Raises:
            RunError: no such file, a damaged one, or one of another model.
        """
        ...


# Called as factory(model, settings); raises ValueError for settings that the engine or the model cannot serve.
EngineFactory = Callable[[Any, EngineSettings], SessionEngine]


def refuse(engine: str, capability: str, supported: frozenset[str], instead: str) -> None:
    """Raise ValueError unless `capability` is among those `supported`; `instead` says what to do."""
    if capability not in supported:
        raise ValueError(f"the engine {engine!r} does not support: {capability}; {instead}")
