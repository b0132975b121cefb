"""A tiny deterministic language model with explicit memory, and its engine. Without torch.

The model is an attention of integer hashes. A token's value is a hash of the token and of the values that it attended
to when it was read; it keeps them when those tokens are evicted. A query gives each stored token a weight, which
depends on the token's value and on the distance between their positions. The logit of a vocabulary entry is the sum of
the weights of its stored tokens. So evicting, repositioning and re-reading change answers as they do in a transformer,
in microseconds. For tests of policies, and as the smallest complete example of a `SessionEngine`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from erecap.engines.chunks import in_chunks
from erecap.engines.files import read_file, write_file
from erecap.engines.protocol import BetweenChunks, EngineSettings, Stored, refuse
from erecap.errors import RunError

CHUNK = 32  # tokens of one prefill chunk
BYTES = 32  # of one stored token: index, position, id and value
SUPPORTS = frozenset({"reposition", "newest", "attention scores"})
_COLUMNS = ("index", "position", "token", "value")


@dataclass(frozen=True)
class TinyModel:
    """The tiny model's parameters."""

    vocabulary: int = 128  # token ids are below this
    window: int = 1 << 20  # positions that it takes
    seed: int = 0  # another seed is another model
    end: int | None = None  # token id that ends an answer, beside the tokenizer's
    generation_config: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "generation_config", SimpleNamespace(eos_token_id=self.end))

    def weights(self, values: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """Attention weights `(n,)` in (0, 1] that a query gives stored tokens.

        Args:
            values: `(n,)` uint64.
            distances: `(n,)` positions of the query less theirs.
        """
        mixed = _mix(values ^ (distances.astype(np.uint64) + np.uint64(self.seed)))
        return ((mixed >> np.uint64(40)).astype(np.float64) + 1.0) / (1 << 24)

    def value(self, token: int, values: np.ndarray, distances: np.ndarray) -> np.uint64:
        """The value of `token` when it is read behind stored tokens with these values and distances."""
        absorbed = np.bitwise_xor.reduce(_mix(values + distances.astype(np.uint64)), initial=np.uint64(0))
        return np.uint64(_mix(np.asarray([absorbed ^ np.uint64(token * 2 + 1)], np.uint64))[0])

    def logits(self, tokens: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Logits `(vocabulary,)` float32 from stored `tokens` `(n,)` and their weights `(n,)`."""
        return np.bincount(tokens, weights, minlength=self.vocabulary).astype(np.float32)


class TinyEngine:
    """The memory of one conversation with a `TinyModel`: four columns, one row per stored token.

    Raises:
        ValueError: another kind of model, or settings that it does not support.
    """

    name = "tiny"
    supports: frozenset[str] = SUPPORTS
    prune_seconds = 0.0

    def __init__(self, model: TinyModel, settings: EngineSettings | None = None) -> None:
        self.settings = settings or EngineSettings()
        if not isinstance(model, TinyModel):
            raise ValueError(f"the engine 'tiny' serves a TinyModel, got {type(model).__name__}")
        if self.settings.prune is not None:
            refuse(self.name, "prune at prefill", SUPPORTS, "leave prune=None")
        if self.settings.decode_weights != "same":
            refuse(self.name, "packed weights", SUPPORTS, 'use decode_weights="same"')
        if not isinstance(self.settings.evict_by, str):
            refuse(self.name, "read scores", SUPPORTS, "name what to evict by")
        self.model = model
        self.shape = f"tiny-{model.vocabulary}-{model.seed}"
        self.chunk = self.settings.prefill_chunk or CHUNK
        self.forwards = 0  # tokens run through the model so far
        self._memory: dict[str, np.ndarray] = {}
        self._tokens = self._shift = 0
        self._newest = np.empty(0)  # attention weights that the newest token gave
        self._attention: tuple[np.ndarray, np.ndarray] | None = None
        self.reset()

    # What is known ----------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """0: the model never changes."""
        return 0

    def fingerprint(self) -> dict[str, str]:
        """The model's parameters."""
        return {"model": repr(self.model)}

    @property
    def vocabulary(self) -> int:
        """Token ids are below this."""
        return self.model.vocabulary

    @property
    def window(self) -> int:
        """Positions that the model can take."""
        return self.model.window

    @property
    def tokens(self) -> int:
        """Tokens read."""
        return self._tokens

    @property
    def next_position(self) -> int:
        """Position of the next token."""
        return self._tokens - self._shift

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one row of the memory."""
        return BYTES

    @property
    def why_fixed(self) -> str | None:
        """None: positions can be changed."""
        return None

    @property
    def positions(self) -> np.ndarray:
        """`(n,)` position of each stored token, in the order of `stored()`."""
        return self._memory["position"].copy()

    def stored(self) -> Stored:
        """The tokens stored now; there is one layer."""
        return Stored((self._memory["index"],), (0,))

    def kv_bytes(self) -> int:
        """Bytes of the memory."""
        return BYTES * len(self._memory["index"])

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
        """Prefill `ids` in chunks; logits `(vocabulary,)` after the last."""
        logits = None
        for chunk in in_chunks(ids, self.chunk, between_chunks):
            logits = self.verify(chunk)[-1]
            if scores and self.settings.evict_by == "attention":
                self._attention = (self._memory["index"], self._newest)
        assert logits is not None, "a read has at least one token"
        return logits

    def verify(self, ids: Sequence[int]) -> np.ndarray:
        """Read `ids`; logits `(len(ids), vocabulary)`."""
        bad = next((token for token in ids if not 0 <= token < self.model.vocabulary), None)
        if bad is not None:
            raise ValueError(f"token id {bad} is not in the vocabulary of {self.model.vocabulary}")
        return np.stack([self._step(token) for token in ids])

    def _step(self, token: int) -> np.ndarray:
        memory, position = self._memory, self.next_position
        value = self.model.value(token, memory["value"], position - memory["position"])
        row = (self._tokens, position, token, value)
        self._memory = {
            name: np.append(memory[name], np.asarray([entry], memory[name].dtype))
            for name, entry in zip(_COLUMNS, row, strict=True)
        }
        self._tokens += 1
        self.forwards += 1
        self._newest = self.model.weights(self._memory["value"], position - self._memory["position"])
        return self.model.logits(self._memory["token"], self._newest)

    def rollback(self, to: int) -> None:
        """Forget everything read after the first `to` tokens."""
        if not 0 <= to <= self._tokens:
            raise ValueError(f"cannot roll back to {to} tokens, {self._tokens} were read")
        self._keep(self._memory["index"] < to)
        if self._attention is not None and to <= self._attention[0][-1]:
            self._attention = None
        self._tokens = to
        if self._shift:
            self._shift = to - self._end()

    def skip(self, tokens: int, gap: bool) -> None:
        """Count `tokens` as read without storing them."""
        self._tokens += tokens
        self._shift += 0 if gap else tokens

    # Edits ------------------------------------------------------------------------------------------------

    def scores(self, indices: np.ndarray) -> np.ndarray | None:
        """Attention weights that the last token of the last prompt gave `(n,)` stored tokens; newer ones get 1."""
        if self._attention is None:
            return None
        asked, weights = self._attention
        found = np.where(indices <= asked[-1], 0.0, 1.0)
        column = np.searchsorted(asked, indices).clip(max=len(asked) - 1)
        known = asked[column] == indices
        found[known] = weights[column[known]]
        return found

    def evict(self, gone: Sequence[Sequence[int] | np.ndarray]) -> int:
        """Forget the tokens with these indices."""
        [indices] = gone
        before = len(self._memory["index"])
        self._keep(~np.isin(self._memory["index"], indices))
        return before - len(self._memory["index"])

    def reposition(self) -> None:
        """Give the stored tokens consecutive positions; their values keep what they absorbed."""
        count = len(self._memory["index"])
        self._memory = self._memory | {"position": np.arange(count)}
        self._shift = self._tokens - count

    def revive(self, span: tuple[int, int] | None) -> int:
        """Refuse: nothing is pruned, so nothing can come back."""
        refuse(self.name, "revive", SUPPORTS, "read the text again")
        return 0

    # Copies -----------------------------------------------------------------------------------------------

    def fork(self) -> TinyEngine:
        """An independent engine; the columns are never changed in place, and so are shared."""
        twin = TinyEngine(self.model, self.settings)
        twin._memory, twin._tokens, twin._shift = self._memory, self._tokens, self._shift
        twin._attention = self._attention
        return twin

    def reset(self) -> None:
        """Forget everything."""
        kinds = (np.int64, np.int64, np.int64, np.uint64)
        self._memory = {name: np.empty(0, kind) for name, kind in zip(_COLUMNS, kinds, strict=True)}
        self._tokens = self._shift = 0
        self._newest, self._attention = np.empty(0), None

    def save(self, path: Path, arrays: Mapping[str, np.ndarray], known: Mapping[str, Any]) -> None:
        """Write the memory with `arrays` and `known` to one safetensors file."""
        from safetensors.numpy import save

        memory = {f"tiny.{name}": column for name, column in self._memory.items()}
        write_file(path, save, {**memory, **arrays}, known, self)

    def restore(self, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Fill this engine from `path`.

        Raises:
            RunError: no such file, a damaged one, or one of another engine.
        """
        arrays, known = read_file(path, "np", self)
        memory = {name: arrays.pop(f"tiny.{name}", np.empty(0)) for name in _COLUMNS}
        tokens, shift = known.get("logical"), known.get("state", {}).get("shift")
        if type(tokens) is not int or type(shift) is not int or not self._fits(memory, tokens, tokens - shift):
            raise RunError(f"{path.name}: damaged session file: its columns are not those of {tokens} tokens")
        self._memory, self._tokens, self._shift = memory, tokens, shift
        return arrays, known

    def _fits(self, memory: dict[str, np.ndarray], tokens: int, following: int) -> bool:
        """Return True if the columns are those of tokens read before `tokens`, at positions before `following`."""
        if any(column.shape != memory["index"].shape or column.ndim != 1 for column in memory.values()):
            return False
        if any(memory[name].dtype != column.dtype for name, column in self._memory.items()):
            return False
        bounds = {"index": tokens, "position": following, "token": self.model.vocabulary}
        inside = all(bool(((memory[name] >= 0) & (memory[name] < below)).all()) for name, below in bounds.items())
        return inside and all(bool((np.diff(memory[name]) > 0).all()) for name in ("index", "position"))

    def _keep(self, stay: np.ndarray) -> None:
        self._memory = {name: column[stay] for name, column in self._memory.items()}

    def _end(self) -> int:
        """The position behind the last stored token."""
        return int(self._memory["position"][-1]) + 1 if len(self._memory["position"]) else 0


def _mix(x: np.ndarray) -> np.ndarray:
    """A hash of each uint64 (the finaliser of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
