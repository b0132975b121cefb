"""Decoders of one model side by side: stock transformers, ours with and without the fused decoder, llama.cpp.

All sides have read the same token ids, take the same next ones, and go back after each pass. Exactness is told against
the model in float64.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from erecap.bench.replan.calls import steady
from erecap.decoding.fused import FusedDecoder
from erecap.engines.protocol import EngineSettings
from erecap.engines.transformers import TransformersEngine
from erecap.generation import JsonRow
from erecap.models.cache_argument import CACHE

STOCK, PLAIN, FUSED = "transformers", "erecap, modules", "erecap, fused"
PACKED = {"erecap, fused int8": "int8", "erecap, fused int4": "int4"}
LLAMACPP_FLOAT, LLAMACPP_FILE = "llama.cpp, float32", "llama.cpp, file"

Say = Callable[[str], None]


@dataclass(frozen=True)
class DecoderBench:
    """Settings of `erecap bench decoders`."""

    stored: int = 1024  # tokens that are stored before each pass
    steps: int = 64  # tokens by which exactness is told
    passes: tuple[int, ...] = (1, 8)  # tokens of a pass: decoding, and verifying drafts
    new_tokens: int = 100  # of a prefill behind what is stored
    repetitions: int = 15


class Side(Protocol):
    """One way to run the model; has read the context."""

    def verify(self, ids: Sequence[int]) -> np.ndarray:
        """Read in one pass of decoding; logits `(len(ids), vocab)`."""

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Read as a prompt; logits `(vocab,)` after the last token."""

    def back(self) -> None:
        """Forget everything behind the context."""


class EngineSide:
    """An engine of ours.

    Args:
        engine: a `SessionEngine` that has read nothing.
        context: token ids that it reads first.
    """

    def __init__(self, engine: Any, context: Sequence[int]) -> None:
        self.engine, self._context = engine, len(context)
        with engine.attached():
            engine.read(context)

    def verify(self, ids: Sequence[int]) -> np.ndarray:
        with self.engine.attached():
            rows: np.ndarray = self.engine.verify(ids)
        return rows

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        with self.engine.attached():
            row: np.ndarray = self.engine.read(ids)
        return row

    def back(self) -> None:
        self.engine.rollback(self._context)


class StockSide:
    """The model of transformers with its own cache, and nothing of ours."""

    def __init__(self, model: Any, context: Sequence[int]) -> None:
        from transformers import DynamicCache

        self.model, self._context = model, len(context)
        self.cache = DynamicCache(config=model.config)
        self._read(context, 1)

    def verify(self, ids: Sequence[int]) -> np.ndarray:
        return self._read(ids, 0)

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        return self._read(ids, 1)[-1]

    def back(self) -> None:
        behind = self.cache.get_seq_length() - self._context
        if behind:
            self.cache.crop(-behind)

    @torch.inference_mode()
    def _read(self, ids: Sequence[int], keep: int) -> np.ndarray:
        rows = torch.tensor([list(ids)], device=self.model.device)
        logits = self.model(rows, **{CACHE: self.cache}, use_cache=True, logits_to_keep=keep).logits[0]
        wide: torch.Tensor = logits if logits.dtype == torch.float64 else logits.float()
        return np.asarray(wide.cpu().numpy())


class ModulesEngine(TransformersEngine):
    """The engine over transformers without the fused decoder: the model's own modules read everything."""

    def fused(self, tokens: int, decode: bool) -> FusedDecoder | None:
        """Nothing is read by a fused decoder."""
        return None


def own_sides(model: Any) -> dict[str, Callable[[Sequence[int]], Side]]:
    """Ways to run a model of transformers: from the token ids of the context to a side."""
    sides: dict[str, Callable[[Sequence[int]], Side]] = {
        STOCK: lambda context: StockSide(model, context),
        PLAIN: lambda context: EngineSide(ModulesEngine(model, EngineSettings()), context),
        FUSED: lambda context: EngineSide(TransformersEngine(model, EngineSettings()), context),
    }
    for name, weights in PACKED.items():
        settings = EngineSettings(decode_weights=weights)  # type: ignore[arg-type]
        sides[name] = lambda context, settings=settings: EngineSide(TransformersEngine(model, settings), context)  # type: ignore[misc]
    return sides


def exactness(
    bench: DecoderBench, sides: Mapping[str, Callable[[Sequence[int]], Side]], model: Any, ids: Sequence[int], say: Say
) -> list[JsonRow]:
    """Errors of the logits of every side, token by token, against the model in float64.

    Returns:
        A row a side: `error`, the largest of a logit over the largest logit; `agreeing` of `tokens`, those with the
        same first choice.
    """
    context, rest = ids[: bench.stored], ids[bench.stored : bench.stored + bench.steps]
    say("the model reads them in float64")
    exact = StockSide(copy.deepcopy(model).double(), context).verify(rest)
    largest, choices = float(np.abs(exact).max()), exact.argmax(-1)
    found = []
    for name, open_side in sides.items():
        say(f"{name}: {len(rest)} tokens, one by one")
        side = open_side(context)
        rows = np.concatenate([side.verify([token]) for token in rest])
        found.append(
            {
                "side": name,
                "error": float(np.abs(rows - exact).max()) / largest,
                "agreeing": int((rows.argmax(-1) == choices).sum()),
                "tokens": len(rest),
            }
        )
    return found


def times(
    bench: DecoderBench, sides: Mapping[str, Callable[[Sequence[int]], Side]], ids: Sequence[int], say: Say
) -> list[JsonRow]:
    """Milliseconds of every side, in turn.

    Returns:
        A row a timed pass: `side`, `what` (tokens of a pass of decoding as text, or `prefill`), `repetition`, `ms`.
    """
    context, rest = ids[: bench.stored], ids[bench.stored :]
    opened = {}
    for name, open_side in sides.items():
        say(f"{name} reads {len(context)} tokens")
        opened[name] = open_side(context)
    rows: list[JsonRow] = []
    with steady() as collect:
        for repetition in range(-1, bench.repetitions):  # the first is the warm-up
            for name, side in opened.items():
                collect()
                for what in (*map(str, bench.passes), "prefill"):
                    part = rest[: bench.new_tokens] if what == "prefill" else rest[: int(what)]
                    read = side.prefill if what == "prefill" else side.verify
                    started = time.perf_counter()
                    read(part)
                    took = 1e3 * (time.perf_counter() - started)
                    side.back()
                    if repetition >= 0:
                        rows.append({"side": name, "what": what, "repetition": repetition, "ms": took})
    return rows


def summary_of(exact: Sequence[JsonRow], timed: Sequence[JsonRow]) -> list[JsonRow]:
    """A row a side: exactness, and median, least and most milliseconds of each kind of pass."""
    found = []
    for row in exact:
        own: JsonRow = {**row, "ms": {}}
        for what in dict.fromkeys(entry["what"] for entry in timed):
            values = [e["ms"] for e in timed if (e["side"], e["what"]) == (row["side"], what)]
            if values:
                own["ms"][what] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
        found.append(own)
    return found
