"""Stage 2 from labels to a checkpoint: train, test, and write weights, card and curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from erecap.errors import ConfigError
from erecap.generation import JsonRow
from erecap.tokens.scoring.pruner_files import beats_random, save_pruner
from erecap.training.pruner.card import draw_curves, write_words
from erecap.training.pruner.settings import PrunerSettings
from erecap.training.pruner.test import identity_correlation, trial
from erecap.training.pruner.train import split, train_pruner
from erecap.training.saliency.files import Labelled


def run_pruner(
    model: Any,
    base: JsonRow,
    meta: JsonRow,
    rows: Sequence[Labelled],
    out: Path,
    settings: PrunerSettings,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> JsonRow:
    """Train on labels, test on held-out samples, and write the checkpoint into `out`.

    Args:
        model: in float32 and evaluation mode, attention implementation `sdpa`.
        base: description of the model: `name`, `hash`, `adapter`.
        meta, rows: the labels, as `read_labels` gives them.

    Returns:
        The card, with `passed`: whether it beats `random` at the same budget.

    Raises:
        ConfigError: labels of another model, or settings that do not fit them.
        RunError: something that is not finite.
    """
    for name in ("hash", "adapter"):
        if meta["base"][name] != base[name]:
            raise ConfigError(
                f"the labels are of {meta['base']['name']} with {name} {str(meta['base'][name])[:23]}, the model is "
                f"{base['name']} with {str(base[name])[:23]}; label the data with this model first"
            )
    pruner, log, held = train_pruner(rows, meta, settings, out, model=model, say=say)
    pruner.to(model.device)
    test = trial(
        model,
        pruner,
        held[: settings.test_samples],
        budget=settings.budget,
        kv_tokens=settings.kv_tokens,
        seed=settings.seed,
        say=say,
    )
    train, _ = split(rows, settings.held_out, settings.seed)
    test["spearman_identity"] = round(identity_correlation(train, held), 4)
    card: JsonRow = {
        "base": base,
        "stages": list(pruner.stages),
        "session_stage": pruner.session_stage,
        "age_weight": round(float(pruner.age_weight), 6),
        "labels": {name: meta[name] for name in ("settings", "data", "samples", "tokens")},
        "settings": asdict(settings),
        "epochs": len(log),
        "best_spearman": max(row["spearman"] for row in log),
        "test": test,
    }
    card["passed"] = beats_random(card)
    save_pruner(out, pruner, card)
    write_words(out, card)
    draw_curves(out, log)
    return card
