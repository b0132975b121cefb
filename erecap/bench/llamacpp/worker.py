"""llama.cpp behind a pipe: run by an interpreter that has `llama-cpp-python`, never imported by ours.

One JSON object a line comes in, one goes out; `{"error": ...}` where something failed. What `do` may be:

- `convert`: `source`, `target`, `type` (float32, float16 or bfloat16): write the model anew with unpacked weights.
- `load`: `model` (GGUF file), `window`, `threads`, `batch`, `flash`, `kv` (type of keys and values), `whole` (also a
  context that returns logits of every token, as the library's own drafting needs). Answers what was loaded.
- `tokenize`: `text`. Answers `ids`, special tokens parsed, none added.
- `read`: `ids`: forget everything, then read these; they are the prompt cache from here on. Answers `ms`.
- `call`: `variant`, `ids` (the new tokens), `count`, `never` (ids that no answer holds). Goes back to the end of what
  `read` read, then reads and decodes. Answers `prefill_ms`, `decode_ms`, `ids`, `drafted`, `accepted`.
- `floor`: as `call`, on an empty context.

Variants: `plain` and `lookup-N` drive the C functions; `generate` and `generate-lookup-N` are `Llama.generate`. N is
the number of tokens that `LlamaPromptLookupDecoding` proposes. The choice is greedy in all of them.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

FILE_TYPES = {"float32": 0, "float16": 1, "bfloat16": 32}  # llama_ftype
KV_TYPES = {"float32": 0, "float16": 1, "bfloat16": 30}  # ggml_type
NGRAM = 2  # tokens that must match before a draft: the library's default


class Reader:
    """One context of llama.cpp, read and decoded through its C functions, with logits only where they are needed."""

    def __init__(self, llama: Any, batch: int) -> None:
        import llama_cpp

        self._api, self._ctx, self._vocab, self._most = llama_cpp, llama.ctx, llama.n_vocab(), batch
        self._batch = llama_cpp.llama_batch_init(batch, 0, 1)
        self.tokens = 0

    def back_to(self, tokens: int) -> None:
        """Forget all tokens after the first `tokens`."""
        if not self._api.llama_memory_seq_rm(self._api.llama_get_memory(self._ctx), 0, tokens, -1):
            raise RuntimeError("llama.cpp cannot forget the end of its context")
        self.tokens = tokens

    def read(self, ids: Sequence[int], every: bool = False) -> None:
        """Read `ids`; logits of the last token, or of every token, are then at hand."""
        batch = self._batch
        for start in range(0, len(ids), self._most):
            part = ids[start : start + self._most]
            batch.n_tokens = len(part)
            for place, token in enumerate(part):
                batch.token[place], batch.pos[place] = token, self.tokens + place
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
                batch.logits[place] = every
            batch.logits[len(part) - 1] = True
            code = self._api.llama_decode(self._ctx, batch)
            if code != 0:
                raise RuntimeError(f"llama_decode returned {code} at token {self.tokens} of the context")
            self.tokens += len(part)

    def choice(self, place: int, never: Sequence[int]) -> int:
        """The most probable token after token `place` of the last batch (-1: its last)."""
        row = np.ctypeslib.as_array(self._api.llama_get_logits_ith(self._ctx, place), shape=(self._vocab,))
        row[never] = -np.inf
        return int(row.argmax())


def decode(reader: Reader, ids: Sequence[int], before: Sequence[int], count: int, never: list[int], draft: int) -> Any:
    """Read `ids` and choose `count` tokens, verifying up to `draft` proposals from the whole text in each pass.

    Args:
        before: ids that the context holds already.
    """
    started = time.perf_counter()
    reader.read(ids)
    token = reader.choice(-1, never)
    prefilled = time.perf_counter()
    out, drafted, accepted = [token], 0, 0
    text = np.empty(len(before) + len(ids) + count, dtype=np.intc)
    text[: len(before)], text[len(before) : len(before) + len(ids)] = before, ids
    prompt = len(before) + len(ids)
    while len(out) < count:
        text[prompt + len(out) - 1] = token
        proposal = _lookup(text[: prompt + len(out)], draft)[: count - len(out) - 1] if draft else []
        reader.read([token, *proposal], every=True)
        drafted += len(proposal)
        for place in range(len(proposal) + 1):
            token = reader.choice(place, never)
            out.append(token)
            if place == len(proposal) or token != proposal[place]:
                break
            text[prompt + len(out) - 1] = token
            accepted += 1
        if place < len(proposal):
            reader.back_to(prompt + len(out) - 1)
    ended = time.perf_counter()
    return {
        "prefill_ms": 1e3 * (prefilled - started),
        "decode_ms": 1e3 * (ended - prefilled),
        "ids": out,
        "drafted": drafted,
        "accepted": accepted,
    }


def _lookup(text: Any, draft: int) -> list[int]:
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    return LlamaPromptLookupDecoding.find_candidate_pred_tokens(text, NGRAM, draft).tolist()


class Server:
    """The loaded model and what it has read, behind the requests of the pipe."""

    def __init__(self) -> None:
        self._history: list[int] = []
        self._whole: Any = None

    def convert(self, source: str, target: str, type: str) -> dict[str, Any]:
        import llama_cpp

        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype, settings.allow_requantize = FILE_TYPES[type], True
        code = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(settings))
        if code != 0:
            raise RuntimeError(f"llama_model_quantize returned {code}")
        return {"bytes": os.path.getsize(target)}

    def load(
        self, model: str, window: int, threads: int, batch: int, flash: bool, kv: str, whole: bool
    ) -> dict[str, Any]:
        import llama_cpp

        def context(tokens: int, every: bool) -> Any:
            return llama_cpp.Llama(
                model, n_ctx=tokens, n_batch=batch, n_ubatch=batch, n_threads=threads, n_threads_batch=threads,
                flash_attn=flash, type_k=KV_TYPES[kv], type_v=KV_TYPES[kv], logits_all=every, verbose=False,
            )  # fmt: skip

        self._llama, self._alone = context(window, False), context(min(window, 2048), False)
        self._whole = context(window, True) if whole else None
        self._reader, self._empty = Reader(self._llama, batch), Reader(self._alone, batch)
        name = ctypes.create_string_buffer(128)
        llama_cpp.llama_model_desc(self._llama.model, name, 128)
        return {
            "version": llama_cpp.__version__,
            "model": name.value.decode(),
            "weight_bytes": int(llama_cpp.llama_model_size(self._llama.model)),
            "features": llama_cpp.llama_print_system_info().decode().strip(),
        }

    def tokenize(self, text: str) -> dict[str, Any]:
        return {"ids": self._llama.tokenize(text.encode(), add_bos=False, special=True)}

    def read(self, ids: list[int]) -> dict[str, Any]:
        self._history = ids
        started = time.perf_counter()
        self._reader.back_to(0)
        self._reader.read(ids)
        took = 1e3 * (time.perf_counter() - started)
        if self._whole is not None:
            self._copy(self._llama, self._whole)
        return {"ms": took}

    def _copy(self, source: Any, target: Any) -> None:
        """Reading the history twice would give the same keys and values, and take twice as long."""
        import llama_cpp

        size = llama_cpp.llama_state_seq_get_size(source.ctx, 0)
        state = (ctypes.c_uint8 * size)()
        llama_cpp.llama_state_seq_get_data(source.ctx, state, size, 0)
        if llama_cpp.llama_state_seq_set_data(target.ctx, state, size, 0) == 0:
            raise RuntimeError("llama.cpp does not take over the state of another context")

    def call(self, variant: str, ids: list[int], count: int, never: list[int]) -> dict[str, Any]:
        kind, _, draft = variant.rpartition("lookup-")
        if kind.startswith("generate") or variant == "generate":
            return self._generate(ids, count, int(draft) if kind else 0)
        self._reader.back_to(len(self._history))
        return decode(self._reader, ids, self._history, count, never, 0 if variant == "plain" else int(draft))

    def floor(self, variant: str, ids: list[int], count: int, never: list[int]) -> dict[str, Any]:
        self._empty.back_to(0)
        return decode(self._empty, ids, [], count, never, 0 if variant == "plain" else int(variant.split("-")[1]))

    def _generate(self, ids: list[int], count: int, draft: int) -> dict[str, Any]:
        """`Llama.generate`, which finds the cached prefix itself, and may choose ids that end an answer."""
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

        llama, known = self._whole if draft else self._llama, len(self._history)
        # Only what an earlier call left behind the history is taken away here; the call itself does the rest.
        llama._ctx.kv_cache_seq_rm(0, known, -1)
        llama.n_tokens, llama.input_ids[:known] = known, self._history
        llama.draft_model = LlamaPromptLookupDecoding(NGRAM, draft) if draft else None
        started = time.perf_counter()
        tokens = llama.generate([*self._history, *ids], temp=0.0)
        out = [int(next(tokens))]
        prefilled = time.perf_counter()
        out += [int(next(tokens)) for _ in range(count - 1)]
        ended = time.perf_counter()
        tokens.close()
        return {
            "prefill_ms": 1e3 * (prefilled - started),
            "decode_ms": 1e3 * (ended - prefilled),
            "ids": out,
            "drafted": None,
            "accepted": None,
        }


def main() -> None:
    """Serve requests until the input ends."""
    # The library writes to the standard output; the answers must not be among that.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server = Server()
    known = {name: getattr(server, name) for name in ("convert", "load", "tokenize", "read", "call", "floor")}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = known[request.pop("do")](**request)
        except (ImportError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
