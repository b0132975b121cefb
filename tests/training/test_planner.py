"""Training a planner, end to end on a tiny model: it learns, repeats itself, and goes on where it stopped."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from erecap.errors import ConfigError, ModelError, RunError
from erecap.models import load
from erecap.training.planner.data import held_out_episodes, load_data, order
from erecap.training.planner.loop import Limits, read_log
from erecap.training.planner.settings import PlannerTraining
from erecap.training.planner.train import PROGRESS, Trained, train_planner
from tests.training.chatworld import row, save_model, save_rows


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("world")
    rows = [row(n, branch=n % 2 == 1) for n in range(4)]
    return {"model": save_model(folder / "base"), "data": save_rows(folder / "data", rows)}


def train(world: dict[str, Path], out: Path, limits: Limits | None = None, **changes: Any) -> Trained:
    """With the settings of these tests, changed."""
    fresh = changes.pop("fresh", False)
    settings: dict[str, Any] = {
        "data": (str(world["data"]),), "model": str(world["model"]), "device": "cpu", "amp": "none",
        "rank": None if changes.get("full") else 16, "lr": 0.005, "epochs": 4, "accumulate": 2, "max_tokens": 512,
        "held_out": 0.0,
    }  # fmt: skip
    made = PlannerTraining(**{**settings, **changes})
    return train_planner(made, out, limits=limits, fresh=fresh, say=lambda _: None)


@pytest.fixture(scope="module")
def learned(world: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """An adapter that knows the transcripts by heart."""
    return train(world, tmp_path_factory.mktemp("learned") / "first", epochs=25)


def test_it_learns_a_few_transcripts_by_heart(world: dict[str, Path], learned: Trained) -> None:
    from erecap.decoding.stopping import answer_ends
    from erecap.training.planner.model import Trainee
    from erecap.training.planner.scores import score

    losses = [r["loss"] for r in read_log(learned.folder / PROGRESS)]
    assert losses[-1] < 0.05 < 1 < losses[0]
    model, tokenizer = load(str(world["model"]), "float32", "cpu", adapter=str(learned.folder))
    settings = PlannerTraining((str(world["data"]),), held_out=0.0, max_tokens=512, full=True, amp="none")
    data = load_data(settings, tokenizer, answer_ends(model, tokenizer), lambda _: None)
    scores = score(Trainee(model, settings), data.train)
    assert scores.plan_accuracy == 1.0 and scores.plans == 8, "merged, the shipped file answers as the trained model"
    assert learned.card is not None and learned.card["data"]["branches"] == 2 and learned.end == "finished"


def test_the_merged_adapter_writes_the_plans(world: dict[str, Path], learned: Trained) -> None:
    from erecap.session import ReplanSession

    model, tokenizer = load(str(world["model"]), "float32", "cpu", adapter=str(learned.folder))
    session = ReplanSession(model, tokenizer)
    for number in range(4):
        messages = row(number)["messages"]
        for call in (2, 4):
            answer = session.generate(messages[:call], max_new_tokens=40).text
            assert answer == messages[call]["content"], "the label of a branch is the expert's plan, not the detour"


@pytest.mark.parametrize("changes", [{}, {"full": True}, {"checkpointing": True}, {"amp": "bf16"}])
def test_a_seed_reproduces_the_weights(world: dict[str, Path], tmp_path: Path, changes: dict[str, Any]) -> None:
    first, second = (train(world, tmp_path / name, epochs=1, **changes) for name in ("a", "b"))
    assert first.card is not None and second.card is not None
    assert first.card["files"] == second.card["files"]
    if not changes:
        other = train(world, tmp_path / "c", epochs=1, seed=1)
        assert other.card is not None and other.card["files"] != first.card["files"]


def test_checkpointing_activations_changes_nothing(world: dict[str, Path], tmp_path: Path) -> None:
    whole = {**world, "data": save_rows(tmp_path / "data", [row(n) for n in range(4)])}
    plain, saving = (train(whole, tmp_path / str(on), epochs=1, checkpointing=on) for on in (False, True))
    assert plain.card is not None and saving.card is not None and plain.card["files"] == saving.card["files"]
    # Branches are attended to by another way where activations are computed again, which rounds otherwise.
    plain, saving = (train(world, tmp_path / f"branches-{on}", epochs=1, checkpointing=on) for on in (False, True))
    one, other = ([r["loss"] for r in read_log(side.folder / PROGRESS) if "loss" in r] for side in (plain, saving))
    assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize("changes", [{}, {"full": True}])
def test_stopped_and_resumed_equals_uninterrupted(
    world: dict[str, Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"epochs": 3, "held_out": 0.25, "accumulate": 1, **changes}
    whole = train(world, tmp_path / "whole", **options)
    parts = [train(world, tmp_path / "parts", Limits(stop_after=4), **options) for _ in range(3)]
    part = parts[-1]
    assert [p.end for p in parts] == ["time", "time", "finished"]
    assert whole.card is not None and part.card is not None
    assert part.card["files"] == whole.card["files"]
    assert part.card["curve"] == whole.card["curve"] and part.card["scores"] == whole.card["scores"]
    rows = [[{**r, "seconds": 0} for r in read_log(tmp_path / name / PROGRESS)] for name in ("whole", "parts")]
    assert rows[0] == rows[1]


def test_stopped_in_time_the_present_weights_are_shipped_if_they_are_better(
    world: dict[str, Path], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"epochs": 30, "held_out": 0.25, "accumulate": 1, "evaluations": 1}
    part = train(world, tmp_path / "part", Limits(stop_after=2), lr=0.02, **options)
    assert part.card is not None and part.card["curve"][-1]["step"] == 0, "nothing was evaluated since"
    assert part.end == "time" and part.card["training"]["chosen_step"] == 2
    assert part.card["scores"]["loss"] < part.card["curve"][0]["loss"]
    worse = train(world, tmp_path / "worse", Limits(stop_after=2), lr=1.0, clip=1e6, warmup=0.0, **options)
    assert worse.card is not None and worse.card["training"]["chosen_step"] == 0


def test_an_interrupt_keeps_the_last_step(
    world: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from erecap.training.planner import loop

    whole = train(world, tmp_path / "whole")
    real, calls = loop.batch_loss, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:  # in the middle of the second step
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "batch_loss", interrupted)
    part = train(world, tmp_path / "parts")
    assert part.end == "interrupted" and part.card is None
    rest = train(world, tmp_path / "parts")
    assert rest.card is not None and whole.card is not None and rest.card["files"] == whole.card["files"]
    assert [r["step"] for r in read_log(tmp_path / "parts" / PROGRESS)] == list(range(1, 9))


def test_a_finished_training_is_not_done_again(world: dict[str, Path], tmp_path: Path) -> None:
    first = train(world, tmp_path / "out", epochs=1)
    before = (tmp_path / "out" / PROGRESS / "log.jsonl").stat().st_mtime_ns, first.card
    again = train(world, tmp_path / "out", epochs=1)
    assert again.card == first.card and read_log(tmp_path / "out" / PROGRESS)
    with pytest.raises(RunError, match=r"holds a training with lr 0.005, now it is 0.01; --fresh starts anew"):
        train(world, tmp_path / "out", epochs=1, lr=0.01)
    anew = train(world, tmp_path / "out", epochs=1, lr=0.01, fresh=True)
    assert anew.card is not None and before[1] is not None and anew.card["files"] != before[1]["files"]


def test_held_out_plans_end_it_early(world: dict[str, Path], tmp_path: Path) -> None:
    # With such a rate it gets worse at once, and never better.
    trained = train(world, tmp_path / "out", epochs=50, lr=1.0, held_out=0.5, patience=2, evaluations=2, warmup=0.0)
    assert trained.end == "early" and trained.card is not None
    training, scores = trained.card["training"], trained.card["scores"]
    assert training["steps"] < training["planned_steps"]
    best = max(trained.card["curve"], key=lambda r: (r["plan_accuracy"], -r["loss"]))
    assert training["chosen_step"] == best["step"]
    assert scores["plans"] == 4 and abs(scores["loss"] - best["loss"]) < 0.05 * best["loss"]


def test_going_on_from_an_adapter(world: dict[str, Path], tmp_path: Path, learned: Trained) -> None:
    init = str(learned.folder)
    second = train(world, tmp_path / "second", epochs=1, rank=None, init=init, lr=1e-6)
    assert read_log(tmp_path / "second" / PROGRESS)[0]["loss"] < 0.1
    assert second.card is not None and second.card["rank"] == 16 and second.card["init"]["name"] == "first"
    with pytest.raises(ConfigError, match="--rank is 4, but first has rank 16"):
        train(world, tmp_path / "third", rank=4, init=init)
    full = train(world, tmp_path / "full", epochs=1, full=True, init=init, lr=1e-6)
    assert read_log(tmp_path / "full" / PROGRESS)[0]["loss"] < 0.1
    assert full.card is not None and full.card["kind"] == "full"


def test_a_full_training_gives_a_model_folder(world: dict[str, Path], tmp_path: Path) -> None:
    from erecap.models.inspection import inspect_folder

    train(world, tmp_path / "out", full=True, epochs=2, lr=0.002)
    assert inspect_folder(tmp_path / "out")["dtype"] == "bfloat16"
    trained, tokenizer = load(str(tmp_path / "out"), "float32", "cpu")
    base, _ = load(str(world["model"]), "float32", "cpu")
    moved = [not torch.equal(a, b) for a, b in zip(trained.parameters(), base.parameters(), strict=True)]
    assert all(moved) and tokenizer.chat_template


def test_the_card_says_what_was_done(world: dict[str, Path], tmp_path: Path) -> None:
    trained = train(world, tmp_path / "planner", epochs=3, held_out=0.25)
    card = json.loads((tmp_path / "planner" / "card.json").read_text())
    assert card == trained.card and card["base"]["fingerprint"].startswith("sha256:")
    assert card["data"]["sources"][0]["suites"] == ["tiny"] and card["data"]["held_out_transcripts"] == 1
    assert card["command"].startswith("erecap train planner data --model base --out planner ")
    assert "--lr 0.005 --epochs 3 " in card["command"] and card["training"]["steps"] == 6
    for name in ("card.json", "card.md", "curves.svg", "adapter_config.json"):
        text = (tmp_path / "planner" / name).read_text()
        assert str(tmp_path) not in text and str(world["data"].parent) not in text
    assert "plans right" in (tmp_path / "planner" / "card.md").read_text()


def test_a_loss_that_is_not_finite_names_transcript_and_step(
    world: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from erecap.training.planner import loop

    real = loop.batch_loss

    def planted(trainee: Any, batch: Any, mays: Any) -> Any:
        loss = real(trainee, batch, mays)
        return loss * float("nan") if batch[0].name == "data/tiny/2" else loss

    monkeypatch.setattr(loop, "batch_loss", planted)
    with pytest.raises(RunError, match=r"^the loss is nan at step [12] of 8, transcript data/tiny/2: stopped"):
        train(world, tmp_path / "out")


def test_a_gradient_that_is_not_finite_names_transcript_and_step(
    world: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from erecap.training.planner import loop

    real = loop.batch_loss

    def planted(trainee: Any, batch: Any, mays: Any) -> Any:
        loss = real(trainee, batch, mays)
        if batch[0].name == "data/tiny/3":
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    monkeypatch.setattr(loop, "batch_loss", planted)
    with pytest.raises(RunError, match=r"^the gradient is (nan|inf) at step [12] of 8, transcript data/tiny/3"):
        train(world, tmp_path / "out")


def test_what_cannot_be_trained_on_is_one_line(world: dict[str, Path], tmp_path: Path) -> None:
    empty = save_rows(tmp_path / "empty", [])
    with pytest.raises(ConfigError, match="no episode with a plan to learn from"):
        train({**world, "data": empty}, tmp_path / "a")
    with pytest.raises(ConfigError, match=r"holds no meta\.json"):
        train({**world, "data": tmp_path / "nowhere"}, tmp_path / "a")
    with pytest.raises(ConfigError, match="--max-tokens is 4096; allowed: at most 1024"):
        train(world, tmp_path / "a", max_tokens=4096)
    with pytest.raises(ConfigError, match="0 fit into --max-tokens 32, 4 do not"):
        train(world, tmp_path / "a", max_tokens=32)
    with pytest.raises(ModelError, match="no adapter 'nothing'"):
        train(world, tmp_path / "a", init="nothing")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(RunError, match="holds no training but is not empty"):
        train(world, tmp_path / "mine", fresh=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_damaged_checkpoint_is_one_line(world: dict[str, Path], tmp_path: Path) -> None:
    train(world, tmp_path / "out", Limits(stop_after=2))
    path = tmp_path / "out" / PROGRESS / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"state.safetensors is damaged.*--fresh starts anew"):
        train(world, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 64}, "--rank is 64; allowed: 1 to 32"),
        ({"lr": float("nan")}, "--lr is nan"),
        ({"held_out": 0.9}, "--held-out is 0.9; allowed: 0 to 0.5"),
        ({"amp": "fp16"}, "--amp is 'fp16'; allowed: auto, bf16, none"),
        ({"full": True, "rank": 4}, "--rank is of an adapter"),
        ({"data": ("a", "a")}, "named twice"),
    ],
)
def test_bad_settings_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PlannerTraining(**{"data": ("a",), **changes})


def test_settings_are_given_by_name() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        PlannerTraining(("a",), "smollm2-135m-instruct")  # type: ignore[misc]


def test_the_learning_rate_rises_and_falls() -> None:
    for schedule, last in (("cosine", 0.1), ("linear", 0.0)):
        settings = PlannerTraining(("a",), lr=1.0, warmup=0.1, schedule=schedule)  # type: ignore[arg-type]
        rates = [settings.learning_rate(step, 100) for step in range(101)]
        assert rates[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
        assert all(a >= b for a, b in pairwise(rates[9:]))
        assert rates[100] == pytest.approx(last)


def test_the_split_follows_episodes_not_folders() -> None:
    keys = [("s", n) for n in range(40)]
    out = held_out_episodes(keys, 0.1, 0)
    assert len(out) == 4 and out == held_out_episodes([*keys, *keys][::-1], 0.1, 0) != held_out_episodes(keys, 0.1, 1)
    assert not held_out_episodes(keys, 0.0, 0)
    assert sorted(order(9, 0, 1)) == list(range(9)) and order(9, 0, 1) == order(9, 0, 1) != order(9, 0, 2)
