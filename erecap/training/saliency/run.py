"""Stage 1: label a data set, shard by shard, so that it can be interrupted and go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from erecap.decoding.stopping import answer_ends
from erecap.errors import ConfigError, RunError
from erecap.files import write_json
from erecap.generation import JsonRow
from erecap.training.rank_correlation import spearman
from erecap.training.saliency.files import (
    FORMAT,
    META,
    Labelled,
    labelled,
    read_meta,
    read_shard,
    shard_path,
    write_shard,
)
from erecap.training.saliency.labels import KINDS, label
from erecap.training.saliency.samples import load_samples, sources_facts, sources_hash

SHARD = 8  # samples of a shard; the most that an interruption loses


@dataclass(frozen=True)
class SaliencySettings:
    """Settings of `erecap train saliency`.

    Raises:
        ConfigError: a value out of range, or an unknown kind.
    """

    kind: str = "plan-attention"
    stages: tuple[int, ...] | None = None  # pruning layers; None: range(4, L-2, 3)
    max_tokens: int = 4096
    limit: int | None = None  # samples of each source
    cache_tokens: int = 256  # labelled tokens of each sample whose hidden states are kept for stage 2
    discount: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"kind: got {self.kind!r}; allowed: {', '.join(KINDS)}")
        for name, low in (("max_tokens", 32), ("cache_tokens", 8)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name}: got {getattr(self, name)}; allowed: {low} or more")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit: got {self.limit}; allowed: 1 or more")
        if not 0 < self.discount <= 1:
            raise ConfigError(f"discount: got {self.discount}; allowed: above 0, at most 1")


def resolve_stages(stages: Sequence[int] | None, layers: int) -> tuple[int, ...]:
    """The pruning layers: those asked for, or the published `range(4, L-2, 3)`.

    Raises:
        ConfigError: layers that the model has not, or none.
    """
    found = tuple(range(4, layers - 2, 3)) if stages is None else tuple(stages)
    if not found or found[0] < 1 or found[-1] >= layers or list(found) != sorted(set(found)):
        raise ConfigError(f"stages: got {list(found)}; allowed: rising layers from 1 to {layers - 1}, at least one")
    return found


def run_saliency(
    model: Any,
    tokenizer: Any,
    base: JsonRow,
    sources: Sequence[Path],
    out: Path,
    settings: SaliencySettings,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> JsonRow:
    """Label every sample of `sources` into the folder `out`, going on where an earlier run of the same kind stopped.

    Args:
        model: in float32 and evaluation mode.
        base: description of the model: `name`, `hash`, `adapter`.

    Returns:
        The folder's `meta.json`, with counts and statistics.

    Raises:
        ConfigError: unusable data or settings; or `out` holds labels that were asked for in another way.
        RunError: a label that is not finite.
    """
    config = model.config.get_text_config(decoder=True)
    stages = resolve_stages(settings.stages, config.num_hidden_layers)
    asked = asdict(settings) | {"stages": list(stages)}
    meta: JsonRow = {
        "format": FORMAT,
        "base": base,
        "hidden_size": config.hidden_size,
        "layers": config.num_hidden_layers,
        "settings": asked,
        "data": {"sources": sources_facts(sources), "hash": sources_hash(sources)},
        "done": False,
    }
    if (out / META).is_file():
        _same(out, read_meta(out), meta)
    samples = load_samples(
        sources,
        tokenizer,
        answer_ends(model, tokenizer),
        max_tokens=min(settings.max_tokens, int(config.max_position_embeddings)),
        limit=settings.limit,
    )
    write_json(out / META, meta)
    shards = -(-len(samples) // SHARD)
    say(f"{len(samples)} samples, {sum(s.sequence.tokens for s in samples):,} tokens, {shards} shards")
    rows: list[JsonRow] = []
    for number in range(shards):
        path = shard_path(out, number)
        batch = samples[number * SHARD : (number + 1) * SHARD]
        started = time.perf_counter()
        done = _finished(path, batch)
        if done is None:
            done = []
            for offset, sample in enumerate(batch):
                labels = label(model, sample, stages, settings.kind, discount=settings.discount)  # type: ignore[arg-type]
                done.append(labelled(sample, labels, settings.cache_tokens, settings.seed, number * SHARD + offset))
            write_shard(path, done)
            say(f"shard {number + 1} of {shards}: {time.perf_counter() - started:.1f} s")
        rows += [_statistics(one) for one in done]
    meta |= {"done": True, "shards": shards, "samples": len(samples), "statistics": _summary(rows, stages)}
    meta["tokens"] = sum(sample.sequence.transcript for sample in samples)
    write_json(out / META, meta)
    return meta


def _finished(path: Path, batch: Sequence[Any]) -> list[Labelled] | None:
    """A shard that an earlier run has written; None where there is none."""
    if not path.is_file():
        return None
    rows = read_shard(path)
    if [row.name for row in rows] != [sample.sequence.name for sample in batch]:
        raise RunError(f"{path}: holds other samples than the data has now; give another --out")
    return rows


def _same(out: Path, old: JsonRow, new: JsonRow) -> None:
    for key in ("base", "settings", "data"):
        if old.get(key) != new[key]:
            parts = new[key] if isinstance(new[key], dict) else {}
            before = old.get(key) if isinstance(old.get(key), dict) else {}
            name = next((part for part in parts if (before or {}).get(part) != parts[part]), "")
            raise ConfigError(
                f"{out}: holds labels made with another {key} {name}".rstrip() + f" ({(before or {}).get(name)!r}, now "
                f"{parts.get(name)!r}); give another --out, or --fresh"
            )


def _statistics(row: Labelled) -> JsonRow:
    """Per stage: mean, median and 90th percentile of a sample's labels, and their rank correlation with recency."""
    values = row.scores[:, row.valid]
    recency = torch.arange(values.shape[1], dtype=torch.float32)
    quantiles = values.quantile(torch.tensor([0.5, 0.9]), dim=1) if values.shape[1] else torch.zeros(2, len(values))
    return {
        "mean": values.mean(1).tolist() if values.shape[1] else [0.0] * len(values),
        "median": quantiles[0].tolist(),
        "p90": quantiles[1].tolist(),
        "recency": [spearman(one, recency) for one in values],
    }


def _summary(rows: Sequence[JsonRow], stages: Sequence[int]) -> list[JsonRow]:
    """Means over samples, one row a stage."""
    return [
        {"stage": stage} | {name: sum(row[name][n] for row in rows) / len(rows) for name in rows[0]}
        for n, stage in enumerate(stages)
    ]
