"""Tiny models with planted sublayers, and searches on them."""

from __future__ import annotations

import json
from typing import Any

import torch

from erecap.layers.search import Latencies, Search, SearchOptions
from tests.layers.plans import own

LATENCIES = {
    "decode": Latencies(10.0, attention=0.5, mlp=0.4, block=1.0),
    "prefill": Latencies(100.0, attention=4.0, mlp=6.0, block=10.5),
}


def sequences(count: int = 4, length: int = 24, seed: int = 1) -> list[list[int]]:
    """Random token ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, 97, (count, length), generator=generator).tolist()


def planted(name: str = "llama", layer: int = 5, attention: bool = True, mlp: bool = True) -> Any:
    """A tiny model whose sublayers of `layer` add nothing."""
    model = own(name)
    part = model.get_decoder().layers[layer]
    with torch.no_grad():
        model.lm_head.weight.mul_(8.0)  # so that the model is sure of its next token
        if attention:
            part.self_attn.o_proj.weight.zero_()
        if mlp:
            part.mlp.down_proj.weight.zero_()
    return model


def search_of(model: Any, *, seed: int = 0, ids: list[list[int]] | None = None, **options: Any) -> Search:
    """A search; two sequences a batch unless said otherwise."""
    ids = ids or sequences()
    batch = options.pop("batch_tokens", 2 * len(ids[0]))
    return Search(model, ids, LATENCIES, SearchOptions(batch_tokens=batch, **options), seed)


def own_words(model: Any, count: int = 32, length: int = 5) -> list[list[int]]:
    """Sequences that the model itself writes, so that whatever it loses makes them less likely."""
    start = torch.arange(2, 2 + 2 * count, 2).unsqueeze(1)
    found = model.generate(start, max_new_tokens=length - 1, do_sample=False, attention_mask=torch.ones_like(start))
    return found.tolist()


def rows_of(folder: Any) -> list[dict[str, Any]]:
    """Rows of a search without the seconds, which no two runs share."""
    found = []
    for line in (folder / "search.jsonl").read_text().splitlines():
        row = json.loads(line)
        row.pop("seconds", None)
        found.append(row)
    return found
