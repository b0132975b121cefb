"""Saliency labels on disk: shards of a few samples each, beside a `meta.json` that says how they were made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from erecap.errors import ConfigError
from erecap.files import write_atomic
from erecap.training.saliency.labels import Labels
from erecap.training.saliency.samples import ChatSpans, Sample
from erecap.training.sequences import Branch, PlanSequence
from erecap.untrusted import parse_json, read_json

FORMAT = "erecap-saliency-2"
META = "meta.json"


@dataclass(frozen=True)
class Labelled:
    """A sample with its labels, and the hidden states of some of its tokens."""

    sample: Sample
    scores: torch.Tensor  # (stages, tokens) float32
    valid: torch.Tensor  # (tokens,) bool
    by_call: torch.Tensor  # (calls, tokens) float32; (0, tokens) for gradient saliency
    columns: torch.Tensor  # (chosen,) int64: labelled tokens whose hidden states are kept
    hidden: torch.Tensor  # (stages, chosen, hidden_size) bfloat16

    @property
    def name(self) -> str:
        """Name of the sample."""
        return self.sample.sequence.name


def labelled(sample: Sample, labels: Labels, keep: int, seed: int, number: int) -> Labelled:
    """Labels with the hidden states of `keep` labelled tokens, drawn by seed and number of the sample."""
    columns = labels.valid.nonzero().squeeze(1)
    if len(columns) > keep:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        columns = columns[torch.randperm(len(columns), generator=generator)[:keep]].sort().values
    # bfloat16: some channels are too large for float16, and three digits are enough to learn from.
    hidden = labels.hidden[:, columns].to(torch.bfloat16)
    return Labelled(sample, labels.scores.contiguous(), labels.valid, labels.by_call, columns, hidden)


def shard_path(folder: Path, number: int) -> Path:
    """The file of shard `number`."""
    return folder / f"labels-{number:05d}.safetensors"


def write_shard(path: Path, rows: Sequence[Labelled]) -> None:
    """Write a shard, whole or not at all."""
    tensors: dict[str, torch.Tensor] = {}
    known: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        sequence = row.sample.sequence
        parts = {
            "ids": sequence.ids,
            "rows": sequence.rows,
            "labels": sequence.labels,
            "calls": sequence.calls,
            "scores": row.scores,
            "valid": row.valid,
            "by_call": row.by_call,
            "columns": row.columns,
            "hidden": row.hidden,
        }
        tensors |= {f"{number}.{name}": part.contiguous().clone() for name, part in parts.items()}
        known.append(
            {
                "name": sequence.name,
                "branches": [[b.start, b.end, b.prompt] for b in sequence.branches],
                "cut": sequence.cut,
                "head": row.sample.head,
                "newest": list(row.sample.newest),
                "spans": asdict(row.sample.spans) if row.sample.spans is not None else None,
            }
        )
    # One entry: several would be written in an order that differs from run to run.
    write_atomic(path, save(tensors, metadata={"erecap": json.dumps({"format": FORMAT, "samples": known})}))


def read_shard(path: Path) -> list[Labelled]:
    """The samples of a shard.

    Raises:
        ConfigError: missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = parse_json((file.metadata() or {}).get("erecap", "{}"))
            if header.get("format") != FORMAT:
                raise ConfigError(f"{path}: holds no saliency labels ({FORMAT})")
            known = header["samples"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        rows = []
        for number, one in enumerate(known):
            part = {name.partition(".")[2]: t for name, t in tensors.items() if name.partition(".")[0] == str(number)}
            branches = tuple(Branch(*values) for values in one["branches"])
            sequence = PlanSequence(
                one["name"], part["ids"], part["rows"], part["labels"], part["calls"], branches, one["cut"]
            )
            spans = ChatSpans(**{k: tuple(map(tuple, v)) for k, v in one["spans"].items()}) if one["spans"] else None
            sample = Sample(sequence, one["head"], tuple(one["newest"]), spans)
            rest = (part[name] for name in ("scores", "valid", "by_call", "columns", "hidden"))
            rows.append(Labelled(sample, *rest))
        return rows
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: a shard of labels is missing; the same `erecap train saliency` repairs it"
        ) from None
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ConfigError(
            f"{path}: damaged: {error}; delete it, and the same `erecap train saliency` repairs it"
        ) from error


def read_meta(folder: Path) -> dict[str, Any]:
    """`meta.json` of a folder of labels.

    Raises:
        ConfigError: it holds none, or damaged ones.
    """
    path = folder / META
    try:
        meta = read_json(path)
    except FileNotFoundError:
        raise ConfigError(
            f"{folder}: holds no {META}, so no labels; `erecap train saliency` makes such a folder"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ConfigError(f"{path}: not the labels of `erecap train saliency` ({FORMAT})")
    return meta


def read_labels(folder: Path) -> tuple[dict[str, Any], list[Labelled]]:
    """Everything in a folder of labels.

    Raises:
        ConfigError: damaged, or not finished.
    """
    meta = read_meta(folder)
    if not meta.get("done"):
        raise ConfigError(f"{folder}: the labels are not finished; the same `erecap train saliency` goes on with them")
    rows: list[Labelled] = []
    for number in range(meta["shards"]):
        rows += read_shard(shard_path(folder, number))
    if not rows:
        raise ConfigError(f"{folder}: holds no samples")
    return meta, rows
