"""The engine on vLLM: a conversation's kept tokens are an entry of the connector's store; a pass is a request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from erecap.engines.chunks import in_chunks
from erecap.engines.files import read_file, write_file
from erecap.engines.forwarder import current
from erecap.engines.protocol import BetweenChunks, Capability, EngineSettings, Stored, refuse
from erecap.engines.vllm.files import parts_of, problem_of, tensors_of
from erecap.engines.vllm.kept import NEVER, Entry, Held, KeptTokens
from erecap.engines.vllm.model import VllmModel
from erecap.engines.vllm.opening import open_model
from erecap.errors import RunError

CHUNK = 512  # tokens of one prefill chunk
SUPPORTS: frozenset[Capability] = frozenset({"reposition", "newest"})


class VllmEngine(KeptTokens):
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
        super().__init__(model)
        self.model: VllmModel = model
        self.chunk = self.settings.prefill_chunk or CHUNK
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

    # Edits ------------------------------------------------------------------------------------------------

    def scores(self, indices: np.ndarray) -> np.ndarray | None:
        """None: vLLM tells no scores, so sessions rank by recency or at random."""
        return None

    def revive(self, span: tuple[int, int] | None) -> int:
        """Refuse: nothing is pruned, so nothing can come back."""
        refuse(self.name, "revive", SUPPORTS, "read the text again")
        return 0

    # Copies -----------------------------------------------------------------------------------------------

    def fork(self) -> VllmEngine:
        """An independent engine that goes on from the same entry of the store."""
        twin = VllmEngine(self.model, self.settings)
        twin.chunk, twin._lost = self.chunk, self._lost
        self.share(twin)
        return twin

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
        assert type(tokens) is int and type(shift) is int, "checked with the columns"
        with self.model.lock:
            index, position, ids, name, arrays = parts_of(tensors, self.model, path)
        entry = None if name is None else Entry(self.model, name, "", len(index))
        self._held = Held(index, position, np.arange(len(index)), ids, entry, NEVER, tokens, shift)
        return arrays, known
