"""A model with a layer plan beside the whole model: how their next tokens differ, and how long each takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from erecap.bench.layer_clock import LayerClock, clock
from erecap.bench.replan.history import wander
from erecap.context.tokenize import render_prompt
from erecap.engines.token_bytes import bytes_per_token
from erecap.layers.slices.flops import ModelFlops


@dataclass(frozen=True)
class LayersBench:
    """Settings of `erecap layers check`."""

    tokens: int = 1024  # that are read
    decoded: int = 32  # that are decoded after them
    repetitions: int = 5
    seed: int = 0  # of the household text


@dataclass(frozen=True)
class LayersResult:
    """Both models on the same text; of times the median, of their ratio the median over pairs measured in turn."""

    tokens: int
    agreement: float  # share of tokens after which both name the same next one
    divergence: float  # Kullback-Leibler divergence of the next token, in nats, mean over tokens
    largest: float  # difference of two logits
    prefill_ms: tuple[float, float]  # whole model, with the plan
    decode_ms: tuple[float, float]  # a token
    prefill_speed_up: float
    decode_speed_up: float
    prefill_flop_ratio: float  # of the whole model over the one with the plan
    decode_flop_ratio: float
    weight_bytes: tuple[int, int]
    kv_bytes_per_token: tuple[int, int]


def household_ids(bench: LayersBench, tokenizer: Any) -> list[int]:
    """Ids of `bench.tokens` tokens of a walk through a household game."""
    count = lambda messages: len(render_prompt(messages, tokenizer).input_ids)  # noqa: E731
    return render_prompt(wander(bench.tokens, count, seed=bench.seed), tokenizer).input_ids[: bench.tokens]


def layers_bench(bench: LayersBench, model: Any, planned: Any, ids: Sequence[int]) -> LayersResult:
    """Compare `planned`, the model with a plan, with `model`, which has none.

    Args:
        ids: the text that both read.

    Raises:
        ConfigError: lengths that do not fit the window, or a model that no session serves.
    """
    whole, thin = clock((model, planned), ids, LayerClock(bench.tokens, bench.decoded, bench.repetitions))
    rows = [_logits(one, ids) for one in (model, planned)]
    dense, other = (F.log_softmax(row, -1) for row in rows)
    flops = [ModelFlops(one) for one in (model, planned)]
    read, decoded = ([one.prefill(len(ids)) for one in flops], [one.decode(len(ids), bench.decoded) for one in flops])
    return LayersResult(
        tokens=len(ids),
        agreement=float((rows[0].argmax(-1) == rows[1].argmax(-1)).float().mean()),
        divergence=float((dense.exp() * (dense - other)).sum(-1).mean()),
        largest=float((rows[0] - rows[1]).abs().max()),
        prefill_ms=(whole.median("prefill"), thin.median("prefill")),
        decode_ms=(whole.median("decode"), thin.median("decode")),
        prefill_speed_up=whole.speed_up(thin, "prefill"),
        decode_speed_up=whole.speed_up(thin, "decode"),
        prefill_flop_ratio=read[0] / read[1],
        decode_flop_ratio=decoded[0] / decoded[1],
        weight_bytes=(_weight_bytes(model), _weight_bytes(planned)),
        kv_bytes_per_token=(bytes_per_token(model), bytes_per_token(planned)),
    )


def _logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Logits `(tokens, vocab)` of the model over `ids`, on the CPU."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([list(ids)], device=model.device), use_cache=False).logits[0]
    return logits.float().cpu()


def _weight_bytes(model: Any) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())
