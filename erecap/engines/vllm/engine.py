"""The engine on vLLM: a conversation's kept tokens are an entry of the connector's store; a pass is a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from erecap.engines.files import read_file, write_file
from erecap.engines.forwarder import current
from erecap.engines.protocol import EngineSettings
from erecap.engines.uniform import UniformEngine
from erecap.engines.vllm.files import parts_of, problem_of, tensors_of
from erecap.engines.vllm.kept import NEVER, Entry, Held, KeptTokens
from erecap.engines.vllm.library import library
from erecap.engines.vllm.model import VllmModel
from erecap.engines.vllm.opening import open_model
from erecap.errors import RunError


class VllmEngine(KeptTokens, UniformEngine[Held]):
    """Keys and values of one conversation, kept by the connector of a vLLM in this process.

    vLLM numbers the tokens of a prompt from 0. So a request's kept keys are turned such that all distances are those of
    the conversation: gaps of evicted tokens stay, until the session repositions.

    Args:
        model: made by `VllmModel.open`; engines share it, and take turns.
        settings: see `EngineSettings`.

    Raises:
        ValueError: another kind of model, or settings that vLLM cannot serve, with this model.
    """

    name = "vllm"
    serves, opened_by = VllmModel, "VllmModel.open(name)"
    packed = 'use decode_weights="same", or a model that is packed'
    open_model = staticmethod(open_model)
    library = staticmethod(library)
    model: VllmModel

    def __init__(self, model: VllmModel, settings: EngineSettings | None = None) -> None:
        UniformEngine.__init__(self, model, settings)
        KeptTokens.__init__(self, model)
        if self.settings.evicts and model.why_fixed is not None:
            # vLLM numbers the tokens that are left from 0, so their keys must be turned.
            raise ValueError(
                f"the engine 'vllm' cannot evict tokens here: {model.why_fixed}; "
                "give no budget, or use engine transformers"
            )
        self._lost = 0

    def own_ids(self, text: str) -> list[int]:
        """Ids of a text by the tokenizer of the model's folder."""
        return list(self.model.tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def revision(self) -> int:
        """Another number when the store has lost what this engine goes on from: a session then reads it again."""
        entry = self._held.entry
        if entry is not None and not self.model.holds(entry.name):
            self._lost, self._held = self._lost + 1, replace(self._held, entry=None)
        return self._lost

    # Reading ----------------------------------------------------------------------------------------------

    def verify(self, ids: Sequence[int]) -> np.ndarray:
        """Read `ids` in one pass; logits `(len(ids), vocab)`."""
        return self._pass(ids, every=True)

    def _pass(self, ids: Sequence[int], every: bool) -> np.ndarray:
        """Read `ids` in a request of its own; in a pool, together with those of the other sessions."""
        ask = self.ask(ids)
        ticket = self.model.submit(ask, len(ids) if every else 1)
        try:
            if current.seat is not None:  # the session is used by a job of a pool
                current.seat.give_way()
            answer, logits = self.model.collect(ticket)
        except BaseException:
            # vLLM may have blocks of this pass that were not computed, or whose logits are gone: none finds them again.
            self._held = replace(self._held, ahead=NEVER)
            raise
        finally:
            self.model.abandon(ticket)
        self.took(ask, answer)
        assert logits is not None, "rows were asked for"
        return logits

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
        self._held = Held(
            index=index, position=position, row=np.arange(len(index)), ids=ids, entry=entry, ahead=NEVER,
            tokens=tokens, shift=shift,
        )  # fmt: skip
        return arrays, known
