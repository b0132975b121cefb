"""Training of a pruner from labels to its test, on a tiny model, within seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from erecap.errors import ConfigError, ModelError, RunError
from erecap.tokens.scoring.learned import LearnedScorer, Pruner
from erecap.tokens.scoring.pruner_files import load_pruner, read_card
from erecap.training.pruner.age import FLOOR, fit_age
from erecap.training.pruner.loss import ranking, targets
from erecap.training.pruner.run import run_pruner
from erecap.training.pruner.settings import PrunerSettings
from erecap.training.pruner.soft_pruning import SoftPruning, dense_logits, divergence
from erecap.training.pruner.test import identity_correlation, trial
from erecap.training.pruner.train import split, terms_of, train_pruner
from erecap.training.rank_correlation import spearman
from erecap.training.saliency import run as saliency_run
from erecap.training.saliency.files import Labelled, read_labels, shard_path
from erecap.training.saliency.run import SaliencySettings, run_saliency
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model
from tests.tokens.models import ARCHITECTURES
from tests.training.saliency_data import BASE, STAGES, samples, write_trajectories

QUICK = PrunerSettings(task=False, epochs=2, held_out=0.3, test_samples=2)


def make_labels(folder: Path, **options) -> Path:  # type: ignore[no-untyped-def]
    data = write_trajectories(folder / "data", options.pop("count", 6))
    settings = SaliencySettings(**({"stages": STAGES, "cache_tokens": 24} | options))
    run_saliency(model().requires_grad_(False), byte_level(), BASE, [data], folder / "labels", settings)
    return folder / "labels"


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labels(tmp_path_factory.mktemp("labels"))


# Stage 1 on disk ------------------------------------------------------------------------------------------


def test_labels_come_back_as_they_were_made(labels: Path) -> None:
    meta, rows = read_labels(labels)
    assert meta["samples"] == len(rows) == 6 and [row["stage"] for row in meta["statistics"]] == list(STAGES)
    first = rows[0]
    assert first.hidden.shape == (3, 24, 32) and first.columns.tolist() == sorted(first.columns.tolist())
    assert bool(first.valid[first.columns].all()) and first.by_call.shape[0] == first.sample.calls == 3
    assert first.sample.sequence.branches  # the plan that was not played


def test_an_interrupted_stage_1_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saliency_run, "SHARD", 2)
    whole = make_labels(tmp_path / "a")
    done = [0]
    label = saliency_run.label

    def dies(*args, **options):  # type: ignore[no-untyped-def]
        done[0] += 1
        if done[0] == 4:
            raise KeyboardInterrupt
        return label(*args, **options)

    monkeypatch.setattr(saliency_run, "label", dies)
    with pytest.raises(KeyboardInterrupt):
        make_labels(tmp_path / "b")
    with pytest.raises(ConfigError, match="not finished"):
        read_labels(tmp_path / "b" / "labels")
    half = make_labels(tmp_path / "b")
    assert done[0] == 8  # two of the first run, not labelled again; one that was lost; four of the second
    for number in range(3):
        assert shard_path(half, number).read_bytes() == shard_path(whole, number).read_bytes()
    with pytest.raises(ConfigError, match="another settings discount"):
        make_labels(tmp_path / "b", discount=0.5)


def test_damaged_labels_are_named(tmp_path: Path) -> None:
    folder = make_labels(tmp_path, count=2)
    shard = shard_path(folder, 0)
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(ConfigError, match=r"labels-00000.safetensors: damaged"):
        read_labels(folder)
    shard.unlink()
    with pytest.raises(ConfigError, match="shard of labels is missing"):
        read_labels(folder)
    with pytest.raises(ConfigError, match="so no labels"):
        read_labels(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "saliency"}, "allowed: language-model"),
        ({"stages": (2, 8)}, "rising layers from 1 to 7"),
        ({"discount": 0.0}, "above 0"),
        ({"cache_tokens": 1}, "8 or more"),
    ],
)
def test_impossible_settings_of_stage_1(tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_labels(tmp_path, **options)


# The loss -------------------------------------------------------------------------------------------------


def test_spearman_is_that_of_the_formula() -> None:
    one, other = torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([2.0, 1, 4, 3, 50])
    assert spearman(one, other) == pytest.approx(1 - 6 * 4 / (5 * 24), abs=1e-6)
    assert spearman(one, -other) == pytest.approx(-0.8, abs=1e-6)
    assert spearman(torch.tensor([1.0, 1, 2]), torch.tensor([1.0, 1, 3])) == pytest.approx(1, abs=1e-6)
    assert spearman(one, torch.ones(5)) == 0


def test_targets_keep_the_order_and_are_standardised() -> None:
    saliency = torch.rand(2, 50, generator=torch.Generator().manual_seed(1)) + 0.01
    found = targets(saliency)
    assert torch.equal(found.argsort(), saliency.argsort())
    assert torch.allclose(found.mean(-1), torch.zeros(2), atol=1e-5)
    assert torch.isfinite(targets(torch.zeros(1, 5))).all()


def test_ranking_prefers_the_right_order() -> None:
    saliency = torch.arange(20.0)
    losses = [
        float(ranking(scores, saliency, torch.Generator().manual_seed(0)))
        for scores in (saliency, 0 * saliency, -saliency)
    ]
    assert losses[0] < losses[1] == pytest.approx(0.6931, abs=1e-3) and losses[1] < losses[2]


@pytest.mark.parametrize("term", ["task", "mse", "rank"])
def test_every_stage_gets_a_gradient_from_every_term(labels: Path, term: str) -> None:
    row = read_labels(labels)[1][1]
    torch.manual_seed(1)
    pruner = Pruner(32, STAGES)
    settings = PrunerSettings(**{name: name == term for name in ("task", "mse", "rank")})
    terms = terms_of(pruner, row, settings, model().requires_grad_(False), torch.Generator().manual_seed(2))
    assert list(terms) == [term]
    terms[term].backward()
    for name, parameter in pruner.named_parameters():
        # An offset of all scores of a stage changes no order, and so no loss.
        if not name.endswith("outer.bias"):
            assert parameter.grad is not None and bool((parameter.grad != 0).any()), name
    assert all(p.grad is None for p in model().parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_simulated_pruning_that_keeps_everything_is_the_dense_model(tmp_path: Path, name: str) -> None:
    sample = samples(tmp_path, name)[0]
    frozen = model(name).requires_grad_(False)
    soft = SoftPruning(frozen, Pruner(32, STAGES), sample, keep=1.0, temperature=1.0, generator=None)
    # Nothing lies below the threshold but the lowest score itself, which is the threshold.
    dense = dense_logits(frozen, sample)
    soft.fixed[:] = True
    assert (soft.logits() - dense).abs().max() <= 1e-4 * dense.abs().max()
    half = SoftPruning(frozen, Pruner(32, STAGES), sample, keep=0.5, temperature=1.0, generator=None)
    pruned = half.logits()
    assert float(divergence(pruned.detach(), dense)) > 1e-6
    counts = [half.kept[stage] for stage in STAGES]
    assert sample.sequence.transcript > counts[0] > counts[1] > counts[2]  # what is dropped stays dropped


def test_simulated_pruning_is_the_masked_model(tmp_path: Path) -> None:
    """Against one stock forward pass whose masks hide, from each stage on, what the stages so far have dropped."""
    sample = samples(tmp_path, branches=False)[0]
    frozen, pruner = model().requires_grad_(False), Pruner(32, (4,))
    soft = SoftPruning(frozen, pruner, sample, keep=0.6, temperature=1.0, generator=None)
    got = soft.logits()
    sequence = sample.sequence
    visible = sequence.visible(None)[0, 0]
    pruned = visible & (soft.together | (soft.remaining > 0.5))
    assert int((visible & ~pruned).sum()) > 50
    handles = [
        layer.register_forward_pre_hook(
            lambda m, a, k, number=number: (
                a,
                k | {"attention_mask": (pruned if number >= 4 else visible)[None, None]},
            ),
            with_kwargs=True,
        )
        for number, layer in enumerate(frozen.get_decoder().layers)
    ]
    try:
        with torch.no_grad():
            expected = frozen(sequence.ids.unsqueeze(0), use_cache=False).logits[0, sequence.rows]
    finally:
        for handle in handles:
            handle.remove()
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


# Training -------------------------------------------------------------------------------------------------


def test_regression_learns_what_can_be_foreseen(tmp_path: Path) -> None:
    """Labels that are a function of the hidden state are learned; held-out samples show it."""
    meta, rows = read_labels(make_labels(tmp_path, count=12))
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))

    def foreseeable(row: Labelled) -> Labelled:
        normed = row.hidden.float() / row.hidden.float().square().mean(-1, keepdim=True).sqrt()
        scores = row.scores.clone()
        scores[:, row.columns] = (normed @ direction).exp()
        return replace(row, scores=scores)

    settings = PrunerSettings(task=False, epochs=12, held_out=0.25, lr=3e-3)
    _, log, _ = train_pruner([foreseeable(row) for row in rows], meta, settings, tmp_path / "out")
    assert log[-1]["spearman"] > 0.7 > log[0]["spearman"] - 0.2
    assert log[-1]["mse"] < log[0]["mse"] and log[-1]["rank"] < log[0]["rank"]


@pytest.mark.parametrize("task", [False, True])
def test_the_same_seed_gives_the_same_weights_interrupted_or_not(labels: Path, tmp_path: Path, task: bool) -> None:
    meta, rows = read_labels(labels)
    frozen = model().requires_grad_(False)
    rows, settings = rows[:4], replace(QUICK, task=task, patience=9)

    def weights(folder: str, *epochs: int) -> dict[str, torch.Tensor]:
        for count in epochs:
            pruner, _, _ = train_pruner(rows, meta, replace(settings, epochs=count), tmp_path / folder, model=frozen)
        return pruner.state_dict()

    whole, resumed, again = weights("a", 2), weights("b", 1, 2), weights("c", 2)
    assert all(torch.equal(whole[name], resumed[name]) and torch.equal(whole[name], again[name]) for name in whole)
    assert (tmp_path / "a" / "log.jsonl").read_bytes() == (tmp_path / "b" / "log.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="other labels or settings"):
        train_pruner(rows, meta, replace(settings, lr=0.5), tmp_path / "a", model=frozen)


def test_what_is_not_finite_stops_the_training(labels: Path, tmp_path: Path) -> None:
    meta, rows = read_labels(labels)
    train, _ = split(rows, QUICK.held_out, QUICK.seed)
    hidden = train[0].hidden.clone()
    hidden[1, 3] = torch.nan
    broken = [replace(row, hidden=hidden) if row is train[0] else row for row in rows]
    with pytest.raises(RunError, match=rf"epoch 1, step \d, {train[0].name}: the term mse is not finite"):
        train_pruner(broken, meta, QUICK, tmp_path)


def test_a_pruner_is_trained_tested_written_and_used(labels: Path, tmp_path: Path) -> None:
    meta, rows = read_labels(labels)
    frozen = model().requires_grad_(False)
    card = run_pruner(frozen, BASE, meta, rows, tmp_path, replace(QUICK, task=True, epochs=1))
    written = read_card(tmp_path)
    assert {name: written[name] for name in card} == card
    assert card["test"]["samples"] == 2 and card["test"]["calls"] == 6
    assert set(card["test"]["rankers"]) == {"learned", "attention", "recency", "random"}
    assert all(row["kl"] > 0 and 0 <= row["agreement"] <= 1 for row in card["test"]["rankers"].values())
    words = (tmp_path / "card.md").read_text()
    assert "| recency |" in words and "beat" in words and (tmp_path / "curves.svg").stat().st_size > 1000
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == card["epochs"]
    pruner = load_pruner(tmp_path, hidden_size=32, layers=8, base=BASE["hash"], allow_untested=True)
    assert LearnedScorer(pruner).layer in STAGES
    assert LearnedScorer(pruner).age_weight == pytest.approx(card["age_weight"], abs=1e-6)
    with pytest.raises(ConfigError, match="with hash sha256:0, the model is tiny with sha256:9"):
        run_pruner(frozen, BASE | {"hash": "sha256:9"}, meta, rows, tmp_path / "b", QUICK)
    # A verdict is read from the figures, not from a flag that says so.
    worse = json.loads((tmp_path / "card.json").read_text()) | {"passed": True}
    worse["test"]["rankers"]["learned"]["kl"] = 1 + worse["test"]["rankers"]["random"]["kl"]
    (tmp_path / "card.json").write_text(json.dumps(worse))
    with pytest.raises(ModelError, match="beats random"):
        load_pruner(tmp_path, hidden_size=32, layers=8)


@pytest.mark.parametrize(("slope", "decay"), [(0.5, 0.8), (1.0, 0.0), (-0.5, 0.8), (0.5, -0.8)])
def test_the_weight_of_age_is_that_of_the_attention_still_to_come(labels: Path, slope: float, decay: float) -> None:
    torch.manual_seed(1)
    pruner = Pruner(32, STAGES, STAGES[1]).requires_grad_(False)
    made = []
    for row in read_labels(labels)[1]:
        assert row.sample.calls == 3 and row.sample.newest[0] <= row.sample.head < row.sample.newest[1]
        scores = torch.zeros(row.by_call.shape[1])
        scores[row.columns] = pruner(STAGES[1], row.hidden[1])
        # Of three calls, the second is the only one with open tokens before it and a plan after it.
        age = (row.sample.prompt(1) - torch.arange(len(scores))).clamp(min=1)
        by_call = torch.zeros_like(row.by_call)
        by_call[2] = (slope * scores - decay * age.log()).exp() - FLOOR
        made.append(replace(row, by_call=by_call))
    expected = max(0.0, decay / slope) if slope > 0 else 0.0
    assert fit_age(pruner, made) == pytest.approx(expected, abs=1e-3)


def test_gradient_labels_know_no_age(tmp_path: Path) -> None:
    rows = read_labels(make_labels(tmp_path, kind="plan-loss"))[1]
    assert fit_age(Pruner(32, STAGES).requires_grad_(False), rows) == 0


def test_the_mean_label_of_an_id_is_learned_by_heart(labels: Path) -> None:
    rows = read_labels(labels)[1]
    by_id = [replace(row, scores=row.sample.sequence.ids[: len(row.valid)].float().expand(3, -1) + 1) for row in rows]
    # Ids that training has not seen all get the same guess.
    other = replace(
        by_id[0],
        sample=replace(
            rows[0].sample, sequence=replace(rows[0].sample.sequence, ids=rows[0].sample.sequence.ids + 1000)
        ),
    )
    assert identity_correlation([other], by_id[:1]) == 0
    assert identity_correlation(by_id, by_id[:1]) == pytest.approx(1, abs=1e-4)


def test_a_whole_history_changes_no_plan(labels: Path, tmp_path: Path) -> None:
    row = read_labels(labels)[1][:1]
    found = trial(model(), Pruner(32, STAGES), row, budget=1.0, kv_tokens=10_000)
    assert all(one == {"kl": pytest.approx(0, abs=1e-6), "agreement": 1.0} for one in found["rankers"].values())
    assert found["sessions"] is None  # nothing would have been evicted


def test_under_a_budget_the_plans_change_by_ranker(labels: Path) -> None:
    rows = read_labels(labels)[1][:3]
    pruner = Pruner(32, STAGES)
    assert "learned, without age" not in trial(model(), pruner, rows, budget=0.9, kv_tokens=50)["sessions"]["rankers"]
    pruner.age_weight.fill_(0.3)
    sessions = trial(model(), pruner, rows, budget=0.9, kv_tokens=50)["sessions"]
    assert set(sessions["rankers"]) == {
        "learned", "learned, without age", "oracle", "attention", "recency", "random"
    }  # fmt: skip
    assert sessions["samples"] == 3 and 0 < sessions["tokens"] < sum(len(row.sample.sequence.labels) for row in rows)
    assert all(row["kl"] > 0 for row in sessions["rankers"].values())
    assert len({row["kl"] for row in sessions["rankers"].values()}) == 6
    assert 0 < sessions["plans"] < sum(row.sample.calls for row in rows)
    assert all(0 <= row["plans_agreement"] <= row["agreement"] < 1 for row in sessions["rankers"].values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mse": False, "rank": False}, "at least one"),
        ({"epochs": 0}, "epochs: got 0"),
        ({"lr": 0.0}, "lr: got 0"),
        ({"keep": 1.0}, "between 0 and 1"),
    ],
)
def test_impossible_settings_of_stage_2(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(QUICK, **changes)


def test_one_sample_is_too_few(labels: Path, tmp_path: Path) -> None:
    meta, rows = read_labels(labels)
    with pytest.raises(ConfigError, match="two or more are needed"):
        train_pruner(rows[:1], meta, QUICK, tmp_path)
