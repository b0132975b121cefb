"""The common part of engines whose layers all store the same tokens: what is known, reading in chunks, refusals.

One column of token indices and one of positions then describe a conversation. Engines add columns of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from erecap.engines.chunks import in_chunks
from erecap.engines.protocol import BetweenChunks, Capability, EngineSettings, Stored, refuse

CHUNK = 512  # tokens of one prefill chunk
SUPPORTS: frozenset[Capability] = frozenset({"reposition", "newest"})


def empty_column() -> np.ndarray:
    """A column of no tokens, `(0,)` int64."""
    return np.empty(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class HeldTokens:
    """The tokens that a conversation stores. Exchanged as a whole, so that an interrupt comes before or after a change.

    Every array is a column `(n,)` with a row for each stored token.

    Attributes:
        index: int64 rising token indices.
        position: the positions that their keys stand for.
        tokens: tokens read.
        shift: tokens less the next position.
    """

    index: np.ndarray = field(default_factory=empty_column)
    position: np.ndarray = field(default_factory=empty_column)
    tokens: int = 0
    shift: int = 0

    def where(self, stay: np.ndarray) -> Self:
        """The rows of which `stay` is true."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return replace(self, **{name: value[stay] for name, value in values.items() if isinstance(value, np.ndarray)})


HeldT = TypeVar("HeldT", bound=HeldTokens)


class HeldConversation(Generic[HeldT]):
    """One conversation's stored tokens, and the edits that only change what is known of them."""

    _held: HeldT

    @property
    def tokens(self) -> int:
        """Tokens read."""
        return self._held.tokens

    @property
    def next_position(self) -> int:
        """Position of the next token."""
        return self._held.tokens - self._held.shift

    def rollback(self, to: int) -> None:
        """Forget everything read after the first `to` tokens."""
        held = self._held
        if not 0 <= to <= held.tokens:
            raise ValueError(f"cannot roll back to {to} tokens, {held.tokens} were read")
        left = held.where(held.index < to)
        shift = to - (int(left.position[-1]) + 1 if len(left.position) else 0) if held.shift else 0
        self._held = replace(left, tokens=to, shift=shift)

    def skip(self, tokens: int, gap: bool) -> None:
        """Count `tokens` as read without storing them."""
        held = self._held
        self._held = replace(held, tokens=held.tokens + tokens, shift=held.shift + (0 if gap else tokens))


class UniformModel(Protocol):
    """The model of such an engine; see `SessionEngine` for what is called the same there."""

    @property
    def shape(self) -> str:
        """The model in short."""
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
    def layers(self) -> int:
        """Layers that store keys and values."""
        ...

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values of a token, in all layers."""
        ...

    @property
    def why_fixed(self) -> str | None:
        """Reason why the positions of stored keys cannot be changed; None: they can."""
        ...

    def fingerprint(self) -> Mapping[str, str]:
        """Digests of all that stored keys depend on."""
        ...


class UniformEngine(HeldConversation[HeldT], ABC):
    """The part of a `SessionEngine` that does not depend on the library behind it.

    Args:
        model: of the class `serves`.
        settings: see `EngineSettings`.

    Raises:
        ValueError: another kind of model, or settings that such an engine cannot serve.
    """

    name: str
    supports: frozenset[str] = SUPPORTS
    prune_seconds = 0.0
    serves: ClassVar[type[Any]]  # class of its models, which are `UniformModel`
    opened_by: ClassVar[str]  # an example of the call that opens one
    packed: ClassVar[str]  # advice to those who ask for packed weights
    model: UniformModel

    def __init__(self, model: Any, settings: EngineSettings | None = None) -> None:
        self.settings = settings or EngineSettings()
        if not isinstance(model, self.serves):
            raise ValueError(
                f"the engine {self.name!r} serves a {self.serves.__name__}, got {type(model).__name__}; "
                f"open one: {self.opened_by}"
            )
        if self.settings.prune is not None:
            refuse(self.name, "prune at prefill", self.supports, "leave prune=None")
        if self.settings.decode_weights != "same":
            refuse(self.name, "packed weights", self.supports, self.packed)
        if not isinstance(self.settings.evict_by, str):
            refuse(self.name, "read scores", self.supports, "evict by recency or random")
        if self.settings.evict_by == "attention":
            refuse(self.name, "attention scores", self.supports, "evict by recency or random")
        self.model = model
        self.chunk = self.settings.prefill_chunk or CHUNK

    @abstractmethod
    def _pass(self, ids: Sequence[int], every: bool) -> np.ndarray:
        """Read `ids` as one chunk; logits `(len(ids), vocab)` of every one, or `(1, vocab)` after the last."""

    # What is known ----------------------------------------------------------------------------------------

    @property
    def shape(self) -> str:
        """The model in short."""
        return self.model.shape

    @property
    def revision(self) -> int:
        """0: a model that was opened does not change."""
        return 0

    def fingerprint(self) -> dict[str, str]:
        """Digests of all that stored keys depend on."""
        return dict(self.model.fingerprint())

    @property
    def vocabulary(self) -> int:
        """Token ids are below this."""
        return self.model.vocabulary

    @property
    def window(self) -> int:
        """Positions that the model can take."""
        return self.model.window

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values of a token, in all layers."""
        return self.model.bytes_per_token

    @property
    def why_fixed(self) -> str | None:
        """Reason why the positions of stored keys cannot be changed; None: they can."""
        return self.model.why_fixed

    def stored(self) -> Stored:
        """The tokens stored now; all layers store the same."""
        return Stored((self._held.index,), (0,) * self.model.layers)

    def kv_bytes(self) -> int:
        """Bytes of the keys and values of the tokens stored now, shared ones included."""
        return self.bytes_per_token * len(self._held.index)

    def own_ids(self, text: str) -> list[int] | None:
        """Ids of a text by the model's own tokenizer, without special tokens around it; None: it has none."""
        return None

    # Reading ----------------------------------------------------------------------------------------------

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Nothing needs to be prepared."""
        yield

    def read(
        self,
        ids: Sequence[int],
        between_chunks: BetweenChunks | None = None,
        *,
        protected: Sequence[tuple[int, int]] | None = None,
        scores: bool = False,
    ) -> np.ndarray:
        """Prefill `ids` in chunks, see `SessionEngine.read`; logits `(vocab,)` after the last token."""
        rows = None
        for chunk in in_chunks(ids, self.chunk, between_chunks):
            rows = self._pass(chunk, every=False)
        assert rows is not None, "a read has at least one token"
        return rows[-1]

    # Edits ------------------------------------------------------------------------------------------------

    def scores(self, indices: np.ndarray) -> np.ndarray | None:
        """None: the library tells no scores, so sessions rank by recency or at random."""
        return None

    def revive(self, span: tuple[int, int] | None) -> int:
        """Refuse: nothing is pruned, so nothing can come back."""
        refuse(self.name, "revive", self.supports, "read the text again")
        return 0
