"""Several transcripts in one padded pass: the logits, losses and steps of one at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from erecap.training.planner import loop
from erecap.training.planner.batches import batch_logits, batches
from erecap.training.planner.loop import read_log
from erecap.training.planner.settings import PlannerTraining
from erecap.training.planner.train import PROGRESS, train_planner
from erecap.training.sequences import PlanSequence, plan_logits
from tests.session import chats
from tests.tokens import models
from tests.training.chatworld import row, save_model, save_rows
from tests.training.test_sequences import PLANS, sequence, targets, transcript


def test_groups_are_of_similar_length_and_within_the_limit() -> None:
    made = [_sequence(tokens) for tokens in (30, 100, 90, 20, 400, 25)]
    lengths = [[one.tokens for one in group] for group in batches(made, 200)]
    assert lengths == [[400], [100, 90], [30, 25, 20]]
    assert [[one.tokens for one in group] for group in batches(made[:3], None)] == [[30], [100], [90]]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_a_batch_answers_as_each_alone(name: str, masked: bool) -> None:
    model = chats.model(name)
    plain = [sequence(transcript(PLANS[:n]), targets(PLANS[:n])) for n in (3, 1)]
    made = [*plain, sequence(transcript(["look", PLANS[1], "go to drawer 10"]), targets())] if masked else plain
    mays = [None, _without(made[1], 20) if masked else None, *([None] if masked else [])]
    with torch.no_grad():
        together = batch_logits(model, made, mays)
        alone = [plan_logits(model, one, may) for one, may in zip(made, mays, strict=True)]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    if masked:
        assert not torch.allclose(together[1], plan_logits(model, made[1]), atol=1e-3)


@pytest.mark.parametrize("budget", [None, 28])
def test_a_training_in_batches_takes_the_same_steps(
    tmp_path: Path, budget: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = loop.batch_loss, []

    def counted(trainee: Any, batch: Any, mays: Any) -> Any:
        sizes.append(len(batch))
        return real(trainee, batch, mays)

    monkeypatch.setattr(loop, "batch_loss", counted)
    base = save_model(tmp_path / "base")
    data = save_rows(tmp_path / "data", [row(number, branch=number % 2 == 1) for number in range(6)])
    losses = []
    for tokens in (None, 4000):
        settings = PlannerTraining(
            (str(data),), model=str(base), rank=4, lr=0.005, epochs=2, accumulate=3, batch_tokens=tokens,
            max_tokens=512, held_out=0.2, amp="none", device="cpu", kv_tokens=budget,
        )  # fmt: skip
        out = tmp_path / f"out-{tokens}"
        train_planner(settings, out, say=lambda line: None)
        losses.append([entry["loss"] for entry in read_log(out / PROGRESS) if "loss" in entry])
    episodes = sum(sizes) // 4  # of two epochs of two trainings
    assert sizes[: 2 * episodes] == [1] * (2 * episodes) and max(sizes[2 * episodes :]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    card = json.loads((tmp_path / "out-4000" / "card.json").read_text(encoding="utf-8"))
    assert "--batch-tokens 4000" in card["command"]


def _sequence(tokens: int) -> PlanSequence:
    """Tokens with labels on the last ones."""
    ids = torch.arange(tokens)
    rows = torch.arange(tokens - 6, tokens - 1)
    return PlanSequence(f"s{tokens}", ids, rows, ids[rows + 1], torch.zeros_like(rows), (), 0)


def _without(sequence: PlanSequence, first: int) -> torch.Tensor:
    """All but the first tokens, for what stands further behind."""
    may = torch.ones(sequence.tokens, sequence.tokens, dtype=torch.bool)
    may[first + 5 :, 1:first] = False
    return may[None, None]
