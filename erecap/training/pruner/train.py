"""Stage 2: train a pruner on saliency labels, the model frozen."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from erecap.errors import ConfigError, RunError
from erecap.files import write_atomic
from erecap.generation import JsonRow
from erecap.tokens.scoring.learned import Pruner
from erecap.training.checkpointing import read_facts, restore, save_state
from erecap.training.planner.data import order
from erecap.training.pruner.age import fit_age
from erecap.training.pruner.loss import ranking, regression, targets
from erecap.training.pruner.settings import PrunerSettings
from erecap.training.pruner.soft_pruning import SoftPruning, dense_logits, divergence
from erecap.training.pruner.test import correlations
from erecap.training.saliency.files import Labelled

Say = Callable[[str], None]


def split(rows: Sequence[Labelled], share: float, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Samples to train on, and held-out ones: drawn once, by seed.

    Raises:
        ConfigError: fewer than two samples.
    """
    if len(rows) < 2:
        raise ConfigError(f"the labels hold {len(rows)} sample; two or more are needed, one of them to test on")
    numbers = list(range(len(rows)))
    random.Random(f"held out {seed}").shuffle(numbers)
    held = set(numbers[: min(len(rows) - 1, max(1, round(share * len(rows))))])
    return [row for n, row in enumerate(rows) if n not in held], [row for n, row in enumerate(rows) if n in held]


def terms_of(
    pruner: Pruner, row: Labelled, settings: PrunerSettings, model: Any, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """The terms of the loss of one sample that are asked for; each is a mean over all stages.

    Where the task term runs the model, the other terms use the hidden states of that pruned pass, and all labelled
    tokens; otherwise the hidden states that stage 1 kept.
    """
    terms: dict[str, torch.Tensor] = {}
    if settings.task and row.sample.sequence.tokens <= settings.max_tokens:
        soft = SoftPruning(
            model, pruner, row.sample, keep=settings.keep, temperature=settings.temperature, generator=generator
        )
        terms["task"] = divergence(soft.logits(), dense_logits(model, row.sample))
        scores = [soft.scores[stage][row.valid.to(soft.scores[stage].device)].cpu() for stage in pruner.stages]
        saliency = row.scores[:, row.valid]
    else:
        device = next(pruner.parameters()).device
        scores = [pruner(stage, row.hidden[n].to(device)).cpu() for n, stage in enumerate(pruner.stages)]
        saliency = row.scores[:, row.columns]
    if saliency.shape[1] > 1:
        wanted = targets(saliency)
        pairs = list(zip(scores, wanted, strict=True))
        if settings.mse:
            terms["mse"] = torch.stack([regression(one, other) for one, other in pairs]).mean()
        if settings.rank:
            terms["rank"] = torch.stack([ranking(one, other, generator) for one, other in pairs]).mean()
    return terms


def train_pruner(
    rows: Sequence[Labelled],
    meta: JsonRow,
    settings: PrunerSettings,
    out: Path,
    *,
    model: Any = None,
    say: Say = lambda line: None,
) -> tuple[Pruner, list[JsonRow], list[Labelled]]:
    """Train a pruner, epoch by epoch; an interrupted training goes on where its last epoch ended, to the same result.

    Args:
        rows, meta: as `read_labels` gives them.
        out: folder for the state and `log.jsonl`.
        model: the frozen model in float32; only needed for the task term.

    Returns:
        The pruner of the best epoch, with the stage of the highest rank correlation for sessions and the weight of age
        for it; the log, one row an epoch; and the held-out samples.

    Raises:
        ConfigError: too few samples, or `out` holds a training of other labels or settings.
        RunError: a loss or gradient that is not finite.
    """
    stages = tuple(meta["settings"]["stages"])
    train, held = split(rows, settings.held_out, settings.seed)
    torch.manual_seed(settings.seed)
    pruner = Pruner(meta["hidden_size"], stages)
    if model is not None:
        pruner.to(model.device)
    weights = dict(pruner.named_parameters())
    optimizer = torch.optim.Adam(weights.values(), lr=settings.lr)
    facts: JsonRow = {"asked": _asked(rows, meta, settings), "log": [], "best_epoch": -1}
    best: dict[str, torch.Tensor] = {}
    known = read_facts(out)
    if known is not None:
        if known.get("asked") != facts["asked"]:
            raise ConfigError(f"{out}: holds a training of other labels or settings; give another --out, or --fresh")
        best = restore(out, weights, optimizer)
        facts = {key: known[key] for key in facts}
        say(f"going on after epoch {len(facts['log'])}")
    log: list[JsonRow] = facts["log"]
    for epoch in range(len(log), settings.epochs):
        if log and epoch - facts["best_epoch"] > settings.patience:
            break
        started = time.perf_counter()
        means = _epoch(pruner, optimizer, train, epoch, settings, model)
        found = correlations(pruner, held)
        held_out = sum(found.values()) / len(found)
        log.append({"epoch": epoch, **means, "spearman": held_out, "by_stage": {str(k): v for k, v in found.items()}})
        if facts["best_epoch"] < 0 or held_out > log[facts["best_epoch"]]["spearman"]:
            facts["best_epoch"] = epoch
            best = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        save_state(out, facts, weights, best, optimizer)
        losses = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
        say(f"epoch {epoch + 1}: {losses}; held-out Spearman {held_out:.3f} ({time.perf_counter() - started:.1f} s)")
    write_atomic(out / "log.jsonl", "".join(_line(row) for row in log))
    by_stage = log[facts["best_epoch"]]["by_stage"]
    chosen = Pruner(meta["hidden_size"], stages, max(stages, key=lambda stage: by_stage[str(stage)]))
    chosen.load_state_dict(best | {"age_weight": chosen.age_weight})
    chosen.age_weight.fill_(fit_age(chosen, train))
    say(f"weight of a token's age: {float(chosen.age_weight):.3f} for each logarithm of it")
    return chosen.eval().requires_grad_(False), log, held


def _epoch(
    pruner: Pruner,
    optimizer: torch.optim.Optimizer,
    train: Sequence[Labelled],
    epoch: int,
    settings: PrunerSettings,
    model: Any,
) -> dict[str, float]:
    """One step for each sample; the mean of every term."""
    sums: dict[str, list[float]] = {}
    for step, number in enumerate(order(len(train), settings.seed, epoch)):
        row = train[number]
        # A function of seed, epoch and sample: an interruption changes nothing.
        generator = torch.Generator().manual_seed((settings.seed * 1_000_003 + epoch) * 1_000_003 + number)
        terms = terms_of(pruner, row, settings, model, generator)
        if not terms:
            continue  # a sample longer than the task term takes, where it is the only term
        for name, value in terms.items():
            if not bool(torch.isfinite(value)):
                raise RunError(f"epoch {epoch + 1}, step {step + 1}, {row.name}: the term {name} is not finite")
            sums.setdefault(name, []).append(value.item())
        optimizer.zero_grad()
        torch.stack([value.cpu() for value in terms.values()]).sum().backward()
        for name, parameter in pruner.named_parameters():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                raise RunError(f"epoch {epoch + 1}, step {step + 1}, {row.name}: the gradient of {name} is not finite")
        optimizer.step()
    if not sums:
        raise ConfigError(f"no sample has at most {settings.max_tokens} tokens, which is what the task term takes")
    return {name: sum(values) / len(values) for name, values in sums.items()}


def _asked(rows: Sequence[Labelled], meta: JsonRow, settings: PrunerSettings) -> JsonRow:
    """Settings that must be the same for a training to go on."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.name.encode())
        digest.update(row.scores.numpy().tobytes())
    # More epochs may be asked for, and the test at the end is none of the training's business.
    free = ("epochs", "patience", "budget", "test_samples", "kv_tokens")
    kept = {name: value for name, value in asdict(settings).items() if name not in free}
    return {"labels": digest.hexdigest(), "base": meta["base"], "settings": kept}


def _line(row: JsonRow) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
