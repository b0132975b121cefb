"""From texts to a tested exit predictor with its card."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from erecap.bench.exits.named import small_vocabulary
from erecap.decoding.exits.files import WEIGHTS, beats_constant, save_exits
from erecap.decoding.exits.predictor import TrainedExits
from erecap.decoding.exits.states import ExitText
from erecap.decoding.fused import fused_problem
from erecap.errors import ConfigError
from erecap.files import write_atomic
from erecap.generation import JsonRow
from erecap.layers.applied import plan_of
from erecap.layers.decoder import find_decoder
from erecap.models.trained_folder import CARD
from erecap.training.exit.collect import Looks, collect_looks
from erecap.training.exit.score import best_constant, constant_score, score
from erecap.training.exit.settings import ExitTraining
from erecap.training.exit.train import fit_predictor, fit_schedule, probabilities


def train_exits(
    model: Any,
    base: JsonRow,
    texts: Sequence[ExitText],
    out: Path,
    settings: ExitTraining,
    *,
    sources: Sequence[JsonRow] = (),
    say: Callable[[str], None] = lambda line: None,
) -> JsonRow:
    """Train a predictor, test it on held-out texts beside a constant exit, and write it into `out`.

    Args:
        base: `name`, `hash` and `adapter` of the model.
        sources: of the texts, for the card.

    Returns:
        The card, with `passed`: whether it beats the best constant exit, and saves anything at all.

    Raises:
        ConfigError: a model that cannot be read layer by layer, or too few layers or tokens.
        RunError: something that is not finite.
    """
    problem = fused_problem(model)
    if problem is not None:
        raise ConfigError(f"exit: {type(model).__name__} cannot be read layer by layer: {problem}")
    shape, total = model.config.get_text_config(decoder=True), len(find_decoder(model).layers)
    first = max(1, total // 4) if settings.first is None else settings.first
    if first >= total:
        raise ConfigError(f"--first is {first}; allowed: 1 to {total - 1} of this model")
    small = small_vocabulary(texts, settings.small)
    if len(small) < 4:
        raise ConfigError(f"the texts decode {len(small)} different tokens; 4 or more are needed")
    looks = collect_looks(model, texts, range(first, total), small, tokens=settings.tokens, seed=settings.seed, say=say)
    train, held = split(looks, settings)
    predictor = fit_predictor(train, settings, say)
    static, threshold, _ = fit_schedule(predictor, train, total)
    constant = best_constant(train, total)
    tested = score(probabilities(predictor, held), held, static, threshold, total)
    plan = plan_of(model)
    card: JsonRow = {
        "layers": total,
        "hidden_size": shape.hidden_size,
        "vocabulary": shape.vocab_size,
        "base": {**base, "plan": None if plan is None else plan.digest()},
        "settings": asdict(settings),
        "sources": list(sources),
        "tokens": len(train.right),
        "small_vocabulary": len(small),
        "bytes": predictor.nbytes(),
        "test": {
            "tokens": tested.tokens,
            "predictor": asdict(tested),
            "constant": {"at": constant, **asdict(constant_score(held, constant, total))},
        },
    }
    card["passed"] = beats_constant(card)
    trained = TrainedExits(predictor, static, threshold, torch.tensor(small))
    (out / CARD).unlink(missing_ok=True)  # of a predictor before: weights and card never disagree
    save_exits(out, trained, card)
    write_words(out, {"static": static, "threshold": threshold, **card})
    return card


def refuse_taken(out: Path, fresh: bool) -> None:
    """Refuse a folder that holds something else, or a predictor that is not to be replaced.

    Args:
        fresh: replace a predictor.

    Raises:
        ConfigError: the first of the two that is so.
    """
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / CARD).exists() and not (out / WEIGHTS).exists():
        raise ConfigError(f"--out: {out} holds no exit predictor but is not empty; choose another folder")
    if not fresh:
        raise ConfigError(f"--out: {out} holds an exit predictor already; choose another folder, or give --fresh")


def split(looks: Looks, settings: ExitTraining) -> tuple[Looks, Looks]:
    """Tokens to train on, and those of held-out texts, drawn by seed; of a single text the last ones.

    Raises:
        ConfigError: one of the two would be empty.
    """
    numbers = sorted(set(looks.texts.tolist()))
    if len(numbers) > 1:
        random.Random(f"held out {settings.seed}").shuffle(numbers)
        count = min(len(numbers) - 1, max(1, round(settings.held_out * len(numbers))))
        held = torch.isin(looks.texts, torch.tensor(numbers[:count]))
    else:
        held = torch.arange(len(looks.texts)) >= round((1 - settings.held_out) * len(looks.texts))
    if bool(held.all()) or not bool(held.any()):
        raise ConfigError(f"{len(held)} decoded tokens are too few to train on some and test on others")
    return looks.part(~held), looks.part(held)


def write_words(folder: Path, card: JsonRow) -> None:
    """`card.md`: the card in words."""
    base, test = card["base"], card["test"]
    rows = [
        f"| {name} | {100 * one['saved']:.1f} % | {100 * one['exits']:.0f} % | "
        + (f"{100 * one['right']:.1f} % | {one['layer']:.1f} |" if one["right"] is not None else "– | – |")
        for name, one in (
            ("predictor", test["predictor"]),
            (f"always after layer {test['constant']['at']}", test["constant"]),
        )
    ]
    lines = [
        "# Exit predictor",
        "",
        f"For `{base['name']}` ({str(base['hash'])[:23]}), "
        + (f"with the adapter {base['adapter'][:23]}." if base["adapter"] else "without an adapter."),
        f"Looks after layers {', '.join(map(str, card['static']))} of {card['layers']} and around the last five exits; "
        f"a token leaves at a probability of {card['threshold']:g} or more.",
        "",
        f"Trained on {card['tokens']:,} decoded tokens; {card['bytes']:,} bytes.",
        "",
        "## Test",
        f"{test['tokens']:,} decoded tokens of held-out texts. It "
        + ("beats" if card["passed"] else "does not beat")
        + " the best constant exit"
        + ("." if card["passed"] else ", and is refused where it is to be used."),
        "",
        "| exits | layers saved | tokens that leave | right | mean layer |",
        "|---|---|---|---|---|",
        *rows,
    ]
    write_atomic(folder / "card.md", "\n".join(lines) + "\n")
