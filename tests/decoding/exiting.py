"""Exit predictors for tests: such that always say exit, or never, and folders that sessions open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from erecap.decoding.exits import drafting
from erecap.decoding.exits.files import save_exits
from erecap.decoding.exits.predictor import ExitPredictor, TrainedExits
from erecap.layers.applied import plan_of

SURE = 100.0  # before the sigmoid


@pytest.fixture(autouse=True)
def drafting_always_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models name hardly a token early; tests that import this are about what happens when they try."""
    monkeypatch.setattr(drafting.DraftLength, "next", lambda self: self.most)


def predictor(layers: tuple[int, ...], says: str) -> ExitPredictor:
    """A predictor that `always` or `never` says exit, or has random weights (`random`)."""
    torch.manual_seed(3)
    made = ExitPredictor(layers)
    if says != "random":
        with torch.no_grad():
            for network in made.networks.values():
                network[2].weight.zero_()
                network[2].bias.fill_(SURE if says == "always" else -SURE)
    return made.eval().requires_grad_(False)


def trained(says: str, vocabulary: int, layers: tuple[int, ...] = tuple(range(2, 8))) -> TrainedExits:
    """A predictor with a schedule and a small vocabulary."""
    return TrainedExits(predictor(layers, says), (3, 6), 0.5, torch.arange(0, vocabulary, 2))


def folder(path: Path, model: Any, says: str, **facts: Any) -> Path:
    """The same on disk, with the card of a test that it passed."""
    config = model.config.get_text_config(decoder=True)
    layers, plan = tuple(range(2, config.num_hidden_layers)), plan_of(model)
    card = {
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "vocabulary": config.vocab_size,
        "base": {"name": "tiny", "hash": None, "adapter": None, "plan": plan and plan.digest()},
        "test": {"predictor": {"saved": 0.1}, "constant": {"saved": 0.05}},
    }
    made = trained(says, config.vocab_size, layers)
    save_exits(path, TrainedExits(made.predictor, layers[1:-1:2], 0.5, made.small), card | facts)
    return path
