"""Layer dropout and early-exit loss: the losses written out, and layers that learn to name tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from erecap.decoding.exits.states import HeadOf, layer_states
from erecap.decoding.stopping import answer_ends
from erecap.errors import ConfigError
from erecap.models import load
from erecap.training.planner.data import load_data
from erecap.training.planner.early import EarlyLayers
from erecap.training.planner.model import Trainee
from erecap.training.planner.settings import PlannerTraining
from erecap.training.planner.train import train_planner
from tests.training.chatworld import row, save_rows


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.context.small_tokenizers import byte_level
    from tests.session.chats import model

    place = tmp_path_factory.mktemp("early")
    model("llama", 1024).save_pretrained(place / "base")
    byte_level().save_pretrained(place / "base")
    return {"model": place / "base", "data": save_rows(place / "data", [row(n) for n in range(3)])}


def settings_of(world: dict[str, Path], **changes: object) -> PlannerTraining:
    options = {"model": str(world["model"]), "device": "cpu", "amp": "none", "max_tokens": 512, "held_out": 0.0}
    return PlannerTraining((str(world["data"]),), **(options | changes))  # type: ignore[arg-type]


def test_losses_after_early_layers_are_weighted_in(world: dict[str, Path]) -> None:
    settings = settings_of(world, full=True, early_loss=0.5, early_turns=3)
    model, tokenizer = load(str(world["model"]), "float32", "cpu")
    sequence = load_data(settings, tokenizer, answer_ends(model, tokenizer), lambda _: None).train[0]
    early = EarlyLayers(Trainee(model, settings), 0.0, 0.5, 3)
    for step, turn in ((0, (3, 6)), (1, (1, 4)), (5, (2, 5))):
        weights = early.weights(step)
        assert set(weights) == {*turn, 7} and sum(weights.values()) == pytest.approx(1)
        assert weights[turn[0]] < weights[turn[1]] < weights[7]
        states, head = layer_states(model, sequence.ids.tolist(), sequence.rows.tolist()), HeadOf(model)
        wanted = sum(
            weight * cross_entropy(head.logits(head.normed(states[layer])), sequence.labels, reduction="sum")
            for layer, weight in weights.items()
        )
        with torch.no_grad():
            assert float(early.loss([sequence], [None], step)) == pytest.approx(float(wanted), rel=1e-4)


def test_deeper_layers_are_left_out_more_often_and_the_first_never(world: dict[str, Path]) -> None:
    settings = settings_of(world, full=True, layer_dropout=0.8)
    model, tokenizer = load(str(world["model"]), "float32", "cpu")
    early = EarlyLayers(Trainee(model, settings), 0.8, 0.0, 8)
    torch.manual_seed(0)
    counts = torch.zeros(8)
    for _ in range(400):
        counts[list(early.dropped())] += 1
    shares = counts / 400
    wanted = torch.tensor([0.8 * (2 ** (n / 7) - 1) for n in range(8)])
    assert shares[0] == 0 and (shares - wanted).abs().max() < 0.08
    # What is left out changes nothing; hooks go with the pass.
    sequence = load_data(settings, tokenizer, answer_ends(model, tokenizer), lambda _: None).train[0]
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(early, "dropped", lambda: frozenset({5, 6, 7}))
        found = float(early.loss([sequence], [None], 0))
        states, head = layer_states(model, sequence.ids.tolist(), sequence.rows.tolist()), HeadOf(model)
        wanted_loss = cross_entropy(head.logits(head.normed(states[4])), sequence.labels, reduction="sum")
        assert found == pytest.approx(float(wanted_loss), rel=1e-4)
    assert not any(layer._forward_hooks for layer in model.model.layers)


def test_an_adapter_trained_for_it_names_tokens_earlier(world: dict[str, Path], tmp_path: Path) -> None:
    def right(adapter: Path) -> float:
        """Share of the plan tokens that the first three layers name."""
        model, tokenizer = load(str(world["model"]), "float32", "cpu", adapter=str(adapter))
        data = load_data(settings_of(world), tokenizer, answer_ends(model, tokenizer), lambda _: None)
        head = HeadOf(model)
        found = []
        for sequence in data.train:
            states = layer_states(model, sequence.ids.tolist(), sequence.rows.tolist())
            found.append(head.logits(head.normed(states[2])).argmax(-1) == sequence.labels)
        return float(torch.cat(found).float().mean())

    usual = {"lr": 0.005, "epochs": 8, "accumulate": 1}
    for name, more in (("plain", {}), ("early", {"early_loss": 1.0, "early_turns": 2})):
        trained = train_planner(settings_of(world, **usual, **more), tmp_path / name, say=lambda _: None)
        assert trained.card is not None
        assert ("--early-loss 1.0" in trained.card["command"]) == (name == "early")
    assert right(tmp_path / "early") > right(tmp_path / "plain") + 0.1


def test_settings_out_of_range(world: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"--layer-dropout is 1\.0; allowed: 0 to 0\.9"):
        settings_of(world, layer_dropout=1.0)
    with pytest.raises(ConfigError, match="--gradient-checkpointing goes without --layer-dropout and --early-loss"):
        settings_of(world, early_loss=0.1, checkpointing=True)
