"""The engine over a GGUF model on llama.cpp: eviction by position, in cells that forks share. Without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from erecap.engines.files import read_file, write_file
from erecap.engines.forwarder import current
from erecap.engines.llamacpp.held import COLUMNS, Held, alike, problem_of, runs
from erecap.engines.llamacpp.library import library
from erecap.engines.llamacpp.memory import ROWS, SPARE, Memory, Seat, positions_of
from erecap.engines.llamacpp.model import LlamaCppModel
from erecap.engines.llamacpp.opening import open_model
from erecap.engines.llamacpp.tokenizer import ids_of
from erecap.engines.protocol import EngineSettings
from erecap.engines.uniform import UniformEngine
from erecap.errors import RunError
from erecap.tokens.cache.finishing import to_the_end

ANSWER = 256  # cells for an answer, in a context whose budget is known
CELLS = 1024  # of a context at first, where no budget is known
STATE = "llamacpp.state"  # of a file: the cells, as llama.cpp writes them


class LlamaCppEngine(UniformEngine[Held]):
    """Keys and values of one conversation, as a sequence of a llama.cpp context.

    Tokens keep the positions that they were read at. The context is made at the first read, with cells for the budget,
    a chunk and an answer; where more are needed it grows.

    Args:
        model: made by `LlamaCppModel.open`; engines may share one.
        settings: see `EngineSettings`.

    Raises:
        ValueError: another kind of model, or settings that llama.cpp cannot serve.
    """

    name = "llamacpp"
    serves, opened_by = LlamaCppModel, "LlamaCppModel.open('model.gguf')"
    packed = 'use decode_weights="same": a GGUF file is packed already'
    open_model = staticmethod(open_model)
    library = staticmethod(library)
    model: LlamaCppModel

    def __init__(self, model: LlamaCppModel, settings: EngineSettings | None = None) -> None:
        super().__init__(model, settings)
        self._seat: Seat | None = None
        self._held = Held()

    def own_ids(self, text: str) -> list[int] | None:
        """Ids of a text by the file's tokenizer; None: the file holds none."""
        vocab = self.model.vocab
        return ids_of(vocab, text, self.model.path.name) if library().llama_vocab_type(vocab) else None

    # Reading ----------------------------------------------------------------------------------------------

    def verify(self, ids: Sequence[int]) -> np.ndarray:
        """Read `ids`; logits `(len(ids), vocab)`. More than 64 take several passes."""
        before = self.tokens
        try:
            return np.concatenate([self._pass(ids[n : n + ROWS], every=True) for n in range(0, len(ids), ROWS)])
        except BaseException:
            self._held = replace(self._held.where(self._held.index < before), tokens=before)
            raise

    def _pass(self, ids: Sequence[int], every: bool) -> np.ndarray:
        """Read `ids` at once, as one chunk."""
        bad = next((token for token in ids if not 0 <= token < self.vocabulary), None)
        if bad is not None:
            raise ValueError(f"token id {bad} is not in the vocabulary of {self.vocabulary}")
        if current.seat is not None:  # the session is used by a job of a pool
            current.seat.give_way()
        memory, number = self._settled(len(ids))
        with memory.lock:
            start = self.next_position
            self._close_gap(memory, number, start)
            rows = memory.read(number, ids, start, every)
            held, new = self._held, np.arange(len(ids))
            self._held = replace(
                held,
                index=np.concatenate([held.index, held.tokens + new]),
                position=np.concatenate([held.position, start + new]),
                place=np.concatenate([held.place, start + new]),
                tokens=held.tokens + len(ids),
            )
        return rows

    def _settled(self, coming: int = 0) -> tuple[Memory, int]:
        """The context and the sequence, which then holds the tokens that are held here and no others."""
        if self._seat is None:
            budget = self.settings.kv_tokens
            cells = CELLS if budget is None else budget + self.chunk + ANSWER
            memory = Memory(self.model, max(cells, coming), max(self.chunk, ROWS))
            self._seat = memory.seat()
        seat, held = self._seat, self._held
        assert seat is not None, "a new context has free sequences"
        with seat.memory.lock:
            for start, end in held.gone:
                seat.memory.remove(seat.number, start, end)
            seat.memory.remove(seat.number, held.end, -1)  # rolled back, or of a pass that was broken off
            self._held = replace(held, gone=())
        return seat.memory, seat.number

    def _close_gap(self, memory: Memory, number: int, start: int) -> None:
        """Make llama.cpp take position `start` for the one behind the last stored token.

        It wants a sequence to go on at its last position + 1. Where tokens were evicted or skipped there, the cell of
        the last token is written anew under the position before `start`. Its key stays rotated for its own.
        """
        if len(self._held.place) and self._held.end != start:
            to_the_end(partial(self._move, memory, number, len(self._held.place) - 1, start - 1))

    def _move(self, memory: Memory, number: int, row: int, place: int) -> None:
        """Write a cell anew under `place`, where no other one is; can be repeated from any point of itself."""
        before = int(self._held.place[row])
        if before != place:
            memory.remove(number, place, place + 1)
            memory.remove(SPARE, 0, -1)
            memory.copy(number, SPARE, before, before + 1)
            state = memory.state(SPARE)
            positions_of(state)[:] = place
            if not memory.take(SPARE, state):
                raise RunError("engine llamacpp: llama.cpp does not take back a token that it stored")
            memory.copy(SPARE, number)
            places = self._held.place.copy()
            places[row] = place
            self._held = replace(self._held, place=places, gone=((before, before + 1),))
        memory.remove(SPARE, 0, -1)
        self._settled()

    # Edits ------------------------------------------------------------------------------------------------

    def evict(self, gone: Sequence[Sequence[int] | np.ndarray]) -> int:
        """Free the cells of the tokens with these indices; the cells of forks stay."""
        [indices] = gone
        held = self._held
        stay = ~np.isin(held.index, indices)
        self._held = replace(held.where(stay), gone=(*held.gone, *runs(held.place, ~stay)))
        if self._seat is not None:
            self._settled()
        return int((~stay).sum())

    def reposition(self) -> None:
        """Give the stored tokens consecutive positions from 0; llama.cpp rotates their keys, in one step.

        Keys are rounded to the precision of the context each time, so a session does this as rarely as it can.

        Raises:
            ValueError: llama.cpp cannot rotate the keys of this model.
        """
        if self.why_fixed is not None:
            raise ValueError(self.why_fixed)
        count = len(self._held.index)
        if count and not np.array_equal(self._held.position, np.arange(count)):
            memory, _ = self._settled()
            with memory.lock:
                if memory.shared():
                    self._part(memory)  # positions of shared cells would change for forks as well
                for row in np.flatnonzero(self._held.place != self._held.position):
                    to_the_end(partial(self._move, *self._sequence(), int(row), int(self._held.position[row])))
                to_the_end(self._move_together)
        else:
            self._held = replace(self._held, shift=self._held.tokens - count)

    def _move_together(self) -> None:
        """Move cells down to where the tokens before them end; goes on where an interrupt broke it off."""
        memory, number = self._sequence()
        # llama.cpp knows how far it has come; tokens never change their order.
        now, wanted = np.sort(positions_of(memory.state(number))), np.arange(len(self._held.index))
        for first, last in alike(wanted - now):
            if now[first] != wanted[first]:
                memory.shift(number, int(now[first]), int(now[last]) + 1, int(wanted[first] - now[first]))
        memory.settle_shift()
        self._held = replace(self._held, position=wanted, place=wanted, shift=self._held.tokens - len(wanted))

    def _sequence(self) -> tuple[Memory, int]:
        assert self._seat is not None, "tokens are stored, so there is a sequence"
        return self._seat.memory, self._seat.number

    def _part(self, memory: Memory) -> None:
        """Take a copy of all cells into a sequence of its own."""
        number = self._sequence()[1]
        seat, state = memory.seat(), memory.state(number)
        if seat is None:
            seat = self._elsewhere(len(self._held.index))
        if not seat.memory.take(seat.number, state):
            raise RunError("engine llamacpp: llama.cpp does not take over the stored tokens")
        self._seat = seat

    def _elsewhere(self, tokens: int) -> Seat:
        """A sequence in a context of its own."""
        seat = Memory(self.model, max(tokens + self.chunk, CELLS), max(self.chunk, ROWS)).seat()
        assert seat is not None, "a new context has free sequences"
        return seat

    # Copies -----------------------------------------------------------------------------------------------

    def fork(self) -> LlamaCppEngine:
        """An independent engine that holds the same cells; where its context has no free sequence, a copy of them."""
        twin = LlamaCppEngine(self.model, self.settings)
        twin.chunk = self.chunk
        if self._seat is not None:
            memory, number = self._settled()
            with memory.lock:
                seat = memory.seat()
                if seat is not None:
                    memory.copy(number, seat.number)
                else:
                    seat = self._elsewhere(len(self._held.index))
                    if not seat.memory.take(seat.number, memory.state(number)):
                        raise RunError("engine llamacpp: llama.cpp does not take over the stored tokens")
                twin._seat = seat
        twin._held = self._held
        return twin

    def reset(self) -> None:
        """Forget everything. The context is freed, unless forks use it."""
        self._held, self._seat = Held(), None

    def save(self, path: Path, arrays: Mapping[str, np.ndarray], known: Mapping[str, Any]) -> None:
        """Write the cells, their columns, `arrays` and `known` to one safetensors file."""
        from safetensors.numpy import save

        columns = {f"llamacpp.{name}": getattr(self._held, name) for name in COLUMNS}
        if len(self._held.index):
            memory, number = self._settled()
            with memory.lock:
                columns[STATE] = memory.state(number)
        write_file(path, save, {**columns, **arrays}, known, self)

    def restore(self, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Fill this engine, which has read nothing, from `path`.

        Raises:
            RunError: no such file, a damaged one, or one of another engine or model.
        """
        arrays, known = read_file(path, "np", self)
        columns = [arrays.pop(f"llamacpp.{name}", np.empty(0)) for name in COLUMNS]
        state = arrays.pop(STATE, np.empty(0, np.uint8))
        tokens, shift = known.get("logical"), known.get("state", {}).get("shift")
        problem = problem_of(columns, state, tokens, shift, self.window)
        if problem is None and len(state):
            seat = self._elsewhere(len(columns[0]))
            with seat.memory.lock:
                problem = None if seat.memory.take(seat.number, state) else "llama.cpp refuses its keys and values"
            self._seat = seat
        if problem is not None:
            self.reset()
            raise RunError(f"{path.name}: damaged session file: {problem}")
        assert type(tokens) is int and type(shift) is int, "checked with the columns"
        index, position, place = columns
        self._held = Held(index=index, position=position, place=place, tokens=tokens, shift=shift)
        return arrays, known
