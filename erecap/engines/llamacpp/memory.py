"""A context of llama.cpp: cells with keys and values, which several sequences may share.

A sequence is one engine's conversation. Forks are sequences of one context, and share the cells of what both have read.
A context has as many cells as were needed so far; one that is full is replaced by a larger one with the same content.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any
from weakref import finalize

import numpy as np

from erecap.engines.llamacpp.library import last_words, library
from erecap.engines.llamacpp.model import TYPES, LlamaCppModel
from erecap.errors import RunError

SEQUENCES = 16  # of one context; the last one is for short use within a call
SPARE = SEQUENCES - 1
ROWS = 64  # most tokens of one pass whose logits are all wanted
BLOCK = 256  # cells come in blocks of so many
HEAD = 4  # 32-bit words of a sequence's state before its cells: a mark, the sequence, streams (1), cells
CELL = 3  # words of a cell before keys and values: its position, sequences (1), the sequence


class Seat:
    """A sequence in use; it is free again when nobody holds its seat."""

    def __init__(self, memory: Memory, number: int) -> None:
        self.memory, self.number = memory, number
        finalize(self, memory.left.append, number)


class Memory:
    """Cells of one context, and the forward passes that fill them. Its methods are called with `lock` held.

    Args:
        cells: tokens that it holds at first.
        batch: most tokens of one pass.

    Raises:
        RunError: llama.cpp cannot make a context of that size.
    """

    def __init__(self, model: LlamaCppModel, cells: int, batch: int) -> None:
        self.model = model
        self.lock = threading.RLock()
        self.left: deque[int] = deque()  # sequences that nobody uses any more, still with their cells
        self._free = list(range(SPARE - 1, -1, -1))
        self._batch = _Batch(batch)
        self.most = batch
        self._open(cells)

    def _open(self, cells: int) -> None:
        api, model, options = library(), self.model, self.model.options
        params = api.llama_context_default_params()
        params.n_ctx = self.cells = -(-cells // BLOCK) * BLOCK
        params.n_batch, params.n_ubatch = self.most, min(self.most, 512)
        params.n_seq_max, params.kv_unified = SEQUENCES, True
        params.n_outputs_max = ROWS
        params.n_threads = params.n_threads_batch = options.own_threads
        params.type_k = params.type_v = TYPES[options.kv][0]
        params.flash_attn_type = -1 if options.flash is None else int(options.flash)
        params.no_perf = True
        last_words()
        self.ctx = api.llama_init_from_model(model.handle, params)
        if not self.ctx:
            raise RunError(f"engine llamacpp: no context of {self.cells:,} tokens{last_words()}")
        self._closing = finalize(self, api.llama_free, self.ctx)
        self.memory = api.llama_get_memory(self.ctx)
        if model.adapter is not None:
            one = (api.llama_adapter_lora_p_ctypes * 1)(model.adapter)
            if api.llama_set_adapters_lora(self.ctx, one, 1, (ctypes.c_float * 1)(1.0)) != 0:
                raise RunError(f"engine llamacpp: the adapter cannot be applied{last_words()}")

    # Sequences --------------------------------------------------------------------------------------------

    def seat(self) -> Seat | None:
        """A free sequence without cells; None: all are in use."""
        self._clear()
        return Seat(self, self._free.pop()) if self._free else None

    def shared(self) -> bool:
        """True if more than one sequence is in use."""
        self._clear()
        return len(self._free) < SPARE - 1

    def _clear(self) -> None:
        while self.left:
            number = self.left[0]
            self.remove(number, 0, -1)
            self._free.append(number)
            self.left.popleft()

    def remove(self, number: int, start: int, end: int) -> None:
        """Free the cells of a sequence at positions from `start` to before `end` (-1: to the last)."""
        if not library().llama_memory_seq_rm(self.memory, number, start, end):
            raise RunError(f"engine llamacpp: llama.cpp cannot forget positions {start} to {end}{last_words()}")

    def copy(self, source: int, target: int, start: int = 0, end: int = -1) -> None:
        """Let sequence `target` hold the cells of `source` as well."""
        library().llama_memory_seq_cp(self.memory, source, target, start, end)

    def shift(self, number: int, start: int, end: int, by: int) -> None:
        """Move a sequence's cells to other positions; `settle_shift` then rotates their keys."""
        library().llama_memory_seq_add(self.memory, number, start, end, by)

    def settle_shift(self) -> None:
        """Rotate keys that were moved; llama.cpp does it before a pass, so this makes one over a token of no use."""
        self.remove(SPARE, 0, -1)
        self.read(SPARE, [0], 0, every=False)
        self.remove(SPARE, 0, -1)

    def last(self, number: int) -> int:
        """The highest position of a sequence; -1 where it has no cells."""
        return int(library().llama_memory_seq_pos_max(self.memory, number))

    # Passes -----------------------------------------------------------------------------------------------

    def read(self, number: int, ids: Sequence[int], start: int, every: bool) -> np.ndarray:
        """Read `ids` at positions from `start` on; logits `(len(ids) or 1, vocabulary)` float32.

        Args:
            every: logits of all tokens, at most `ROWS`; else of the last one.

        Raises:
            RunError: llama.cpp failed; the sequence then holds what it held.
        """
        api = library()
        self._clear()
        batch = self._batch.filled(api, number, ids, start, every)
        code = api.llama_decode(self.ctx, batch)
        if code == 1:  # no cells left
            self._grow(len(ids))
            code = api.llama_decode(self.ctx, batch)
        if code != 0:
            self.remove(number, start, -1)
            raise RunError(f"engine llamacpp: llama_decode returned {code}{last_words()}")
        rows = len(ids) if every else 1
        logits = api.llama_get_logits(self.ctx) if every else api.llama_get_logits_ith(self.ctx, -1)
        return np.ctypeslib.as_array(logits, shape=(rows * self.model.vocabulary,)).reshape(rows, -1).copy()

    def _grow(self, more: int) -> None:
        """Move everything to a context with room for `more` tokens."""
        api = library()
        state = np.empty(api.llama_state_get_size(self.ctx), np.uint8)
        size = api.llama_state_get_data(self.ctx, _bytes(state), len(state))
        before = self.ctx, self.memory, self.cells, self._closing
        try:
            self._open(max(2 * self.cells, self.cells + more))
            if api.llama_state_set_data(self.ctx, _bytes(state), size) != size:
                raise RunError(f"engine llamacpp: a larger context does not take over the stored tokens{last_words()}")
        except BaseException:
            if self.ctx != before[0]:
                self._closing()
            self.ctx, self.memory, self.cells, self._closing = before
            raise
        before[3]()

    # States -----------------------------------------------------------------------------------------------

    def state(self, number: int) -> np.ndarray:
        """All cells of a sequence as bytes `(n,)` uint8: keys as they are rotated, and their positions."""
        api = library()
        state = np.empty(api.llama_state_seq_get_size(self.ctx, number), np.uint8)
        if api.llama_state_seq_get_data(self.ctx, _bytes(state), len(state), number) != len(state):
            raise RunError(f"engine llamacpp: the stored tokens cannot be copied{last_words()}")
        return state

    def take(self, number: int, state: np.ndarray) -> bool:
        """Make a sequence hold what `state` says, in cells of its own; False: llama.cpp refuses it."""
        api = library()
        for attempt in range(2):
            if api.llama_state_seq_set_data(self.ctx, _bytes(state), len(state), number) == len(state):
                return True
            self.remove(number, 0, -1)
            if not attempt:
                self._grow(positions_of(state).shape[0])
        return False


class _Batch:
    """The arrays of a `llama_batch` of one sequence."""

    def __init__(self, most: int) -> None:
        self._number = ctypes.c_int32(0)
        self._token, self._position = np.zeros(most, np.int32), np.zeros(most, np.int32)
        self._count, self._wanted = np.ones(most, np.int32), np.zeros(most, np.int8)
        self._sequences = (ctypes.POINTER(ctypes.c_int32) * most)(*[ctypes.pointer(self._number)] * most)

    def filled(self, api: Any, number: int, ids: Sequence[int], start: int, every: bool) -> Any:
        """The batch of these tokens."""
        count = len(ids)
        self._number.value = number
        self._token[:count] = ids
        self._position[:count] = np.arange(start, start + count)
        self._wanted[:count] = every
        self._wanted[count - 1] = 1
        words = ctypes.POINTER(ctypes.c_int32)
        return api.llama_batch(
            n_tokens=count,
            token=self._token.ctypes.data_as(words),
            embd=None,
            pos=self._position.ctypes.data_as(words),
            n_seq_id=self._count.ctypes.data_as(words),
            seq_id=ctypes.cast(self._sequences, ctypes.POINTER(words)),
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )


def positions_of(state: np.ndarray) -> np.ndarray:
    """Positions `(n,)` int32 of the cells in a sequence's state, a view of it.

    Raises:
        RunError: the state is not laid out as llama.cpp's are.
    """
    words = state[: len(state) // 4 * 4].view(np.int32)
    if len(words) >= HEAD and words[2] == 1 and 0 <= words[3] <= (len(words) - HEAD) // CELL:
        cells = words[HEAD : HEAD + CELL * int(words[3])].reshape(-1, CELL)
        if bool((cells[:, 1] == 1).all()):
            return cells[:, 0]
    raise RunError("engine llamacpp: the state of a sequence is laid out otherwise than llama.cpp 0.3.36 does it")


def _bytes(state: np.ndarray) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
