"""The engine on vLLM: a conversation's kept tokens are an entry of the connector's store; a pass is a request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4
from weakref import finalize

import numpy as np

from erecap.engines.chunks import in_chunks
from erecap.engines.files import read_file, write_file
from erecap.engines.forwarder import current
from erecap.engines.protocol import BetweenChunks, Capability, EngineSettings, Stored, refuse
from erecap.engines.vllm.files import parts_of, problem_of, tensors_of
from erecap.engines.vllm.model import Answer, Ask, VllmModel
from erecap.engines.vllm.opening import open_model
from erecap.engines.vllm.wire import Asked, runs_of
from erecap.errors import RunError

CHUNK = 512  # tokens of one prefill chunk
SUPPORTS: frozenset[Capability] = frozenset({"reposition", "newest"})


class Entry:
    """An entry of the store that engines share; the store may forget it when none of them has it any more."""

    def __init__(self, model: VllmModel, name: str, salt: str, rows: int) -> None:
        self.name, self.salt, self.rows = name, salt, rows
        finalize(self, model.unused.append, name)


@dataclass(frozen=True)
class Held:
    """The tokens that an engine stores. Exchanged as a whole, so that an interrupt comes before a change or after it.

    Attributes:
        index: `(n,)` int64 rising indices of the stored tokens.
        position: `(n,)` their positions.
        row: `(n,)` their rows in the entry.
        entry: the store's; None: nothing was read.
        ahead: positions that the entry's tokens were ahead of vLLM's numbering of them, in the request that made it.
        tokens: tokens read.
        shift: tokens less the next position.
    """

    index: np.ndarray
    position: np.ndarray
    row: np.ndarray
    entry: Entry | None = None
    ahead: int = 0
    tokens: int = 0
    shift: int = 0

    def where(self, stay: np.ndarray) -> Held:
        """The rows of which `stay` is true."""
        return replace(self, index=self.index[stay], position=self.position[stay], row=self.row[stay])


_NONE = np.empty(0, np.int64)
NOTHING = Held(_NONE, _NONE, _NONE)


class VllmEngine:
    """Keys and values of one conversation, kept by the connector of a vLLM in this process.

    vLLM numbers the tokens of a prompt from 0. So a request's kept keys are turned such that all distances are those of
    the conversation: gaps of evicted tokens stay, until the session repositions.

    Args:
        model: made by `VllmModel.open`; engines share it, and take turns.
        settings: see `EngineSettings`.

    Raises:
        ValueError: another kind of model, or settings that vLLM cannot serve.
    """

    name = "vllm"
    supports: frozenset[str] = SUPPORTS
    prune_seconds = 0.0
    open_model = staticmethod(open_model)

    def __init__(self, model: VllmModel, settings: EngineSettings | None = None) -> None:
        self.settings = settings or EngineSettings()
        if not isinstance(model, VllmModel):
            raise ValueError(
                f"the engine 'vllm' serves a VllmModel, got {type(model).__name__}; open one: VllmModel.open(name)"
            )
        if self.settings.prune is not None:
            refuse(self.name, "prune at prefill", SUPPORTS, "leave prune=None")
        if self.settings.decode_weights != "same":
            refuse(self.name, "packed weights", SUPPORTS, 'use decode_weights="same", or a model that is packed')
        if not isinstance(self.settings.evict_by, str):
            refuse(self.name, "read scores", SUPPORTS, "evict by recency or random")
        if self.settings.evict_by == "attention":
            refuse(self.name, "attention scores", SUPPORTS, "evict by recency or random")
        self.model = model
        self.chunk = self.settings.prefill_chunk or CHUNK
        self._held = NOTHING
        self._salt = uuid4().hex
        self._lost = 0

    # What is known ----------------------------------------------------------------------------------------

    @property
    def shape(self) -> str:
        """The model in short."""
        return self.model.shape

    @property
    def revision(self) -> int:
        """Another number when the store has lost what this engine goes on from: a session then reads it again."""
        entry = self._held.entry
        if entry is not None and not self.model.holds(entry.name):
            self._lost, self._held = self._lost + 1, replace(self._held, entry=None)
        return self._lost

    def fingerprint(self) -> dict[str, str]:
        """Digests of the weights, and the version of vLLM."""
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
    def tokens(self) -> int:
        """Tokens read."""
        return self._held.tokens

    @property
    def next_position(self) -> int:
        """Position of the next token."""
        return self._held.tokens - self._held.shift

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values of a token, in all layers."""
        return self.model.bytes_per_token

    @property
    def why_fixed(self) -> str | None:
        """Reason why stored keys cannot be rotated; None: they can."""
        return self.model.why_fixed

    def stored(self) -> Stored:
        """The tokens stored now; all layers store the same."""
        return Stored((self._held.index,), (0,) * self.model.layers)

    def kv_bytes(self) -> int:
        """Bytes of the keys and values of the tokens stored now, shared ones included."""
        return self.bytes_per_token * len(self._held.index)

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
            rows = self._pass(chunk, 1)
        assert rows is not None, "a read has at least one token"
        return rows[-1]

    def verify(self, ids: Sequence[int]) -> np.ndarray:
        """Read `ids` in one pass; logits `(len(ids), vocab)`."""
        return self._pass(ids, len(ids))

    def _pass(self, ids: Sequence[int], rows: int) -> np.ndarray:
        """Read `ids` in a request of its own; in a pool, together with those of the other sessions."""
        ask = self.ask(ids)
        ticket = self.model.submit(ask, rows)
        try:
            if current.seat is not None:  # the session is used by a job of a pool
                current.seat.give_way()
            answer, logits = self.model.collect(ticket)
        finally:
            self.model.abandon(ticket)
        self.took(ask, answer)
        assert logits is not None, "rows were asked for"
        return logits

    def ask(self, ids: Sequence[int], most: int = 1, ends: Sequence[int] = ()) -> Ask:
        """The request that reads `ids` and answers with at most `most` tokens; give its answer to `took`.

        Raises:
            ValueError: an id that is not in the vocabulary.
            RunError: the store has lost the tokens before.
        """
        bad = next((token for token in ids if not 0 <= token < self.vocabulary), None)
        if bad is not None:
            raise ValueError(f"token id {bad} is not in the vocabulary of {self.vocabulary}")
        held = self._held
        if not len(held.index):
            return Ask(list(ids), Asked(), uuid4().hex, most, ends)
        if held.entry is None or not self.model.holds(held.entry.name):
            raise RunError("engine vllm: its store has lost the tokens before; raise store_mb, or read them again")
        kept = len(held.index)
        ahead = self.next_position - kept
        places = held.position - ahead
        keep = tuple((first, first + count) for first, count in runs_of(held.row))
        at = None if np.array_equal(places, np.arange(kept)) else runs_of(places)
        asked = Asked(held.entry.name, keep, at)
        goes_on = kept == held.entry.rows and ahead == held.ahead
        salt = held.entry.salt if goes_on else f"{asked.salt()}-{uuid4().hex}"
        known = self.model.scheduler.index.get(held.entry.name).ids[held.row]
        return Ask([*known.tolist(), *ids], asked, salt, most, ends)

    def took(self, ask: Ask, answer: Answer) -> None:
        """Go on from the answer to a request; its own tokens were read as well, but for the last."""
        held, kept, start = self._held, len(self._held.index), self.next_position
        if answer.told.entry is None:
            raise RunError(f"engine vllm: {answer.told.refused}; raise store_mb, or close other sessions")
        new = np.arange(answer.told.rows - kept)
        self._held = Held(
            np.concatenate([held.index, held.tokens + new]),
            np.concatenate([held.position, start + new]),
            np.arange(answer.told.rows),
            Entry(self.model, answer.told.entry, ask.salt, answer.told.rows),
            start - kept,
            held.tokens + len(new),
            held.shift,
        )

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

    # Edits ------------------------------------------------------------------------------------------------

    def scores(self, indices: np.ndarray) -> np.ndarray | None:
        """None: vLLM tells no scores, so sessions rank by recency or at random."""
        return None

    def evict(self, gone: Sequence[Sequence[int] | np.ndarray]) -> int:
        """Leave the tokens with these indices out of the next request."""
        [indices] = gone
        stay = ~np.isin(self._held.index, indices)
        self._held = self._held.where(stay)
        return int((~stay).sum())

    def reposition(self) -> None:
        """Give the stored tokens consecutive positions from 0; keys are turned by the next request, from their first.

        Raises:
            ValueError: the keys of this model cannot be turned.
        """
        if self.why_fixed is not None:
            raise ValueError(self.why_fixed)
        count = len(self._held.index)
        self._held = replace(self._held, position=np.arange(count), shift=self._held.tokens - count)

    def revive(self, span: tuple[int, int] | None) -> int:
        """Refuse: nothing is pruned, so nothing can come back."""
        refuse(self.name, "revive", SUPPORTS, "read the text again")
        return 0

    # Copies -----------------------------------------------------------------------------------------------

    def fork(self) -> VllmEngine:
        """An independent engine that goes on from the same entry of the store."""
        twin = VllmEngine(self.model, self.settings)
        twin.chunk, twin._held, twin._lost = self.chunk, replace(self._held, ahead=NEVER), self._lost
        self._held = replace(self._held, ahead=NEVER)  # blocks of one that reads on are none of the other's
        return twin

    def reset(self) -> None:
        """Forget everything."""
        self._held = NOTHING

    def save(self, path: Path, arrays: Mapping[str, np.ndarray], known: Mapping[str, Any]) -> None:
        """Write keys, values and their columns, with `arrays` and `known`, to one safetensors file."""
        from safetensors.torch import save

        with self.model.lock:
            tensors = tensors_of(self.model, self._held, arrays)
        write_file(path, save, tensors, known, self)

    def restore(self, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Fill this engine, which has read nothing, from `path`.

        Raises:
            RunError: no such file, a damaged one, or one of another engine or model.
        """
        tensors, known = read_file(path, "pt", self)
        tokens, shift = known.get("logical"), known.get("state", {}).get("shift")
        problem = problem_of(tensors, tokens, shift, self.model)
        if problem is not None:
            raise RunError(f"{path.name}: damaged session file: {problem}")
        with self.model.lock:
            index, position, name, arrays = parts_of(tensors, self.model, path)
        rows = np.arange(len(index))
        entry = None if name is None else Entry(self.model, name, "", len(index))
        self._held = Held(index, position, rows, entry, NEVER, tokens, shift)
        return arrays, known


NEVER = -1  # tokens are never ahead of vLLM's numbering by less than 0: no request goes on where one ended
