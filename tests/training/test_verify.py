"""The figures on a card come out again: episodes are played anew, and the shipped weights are scored."""

from __future__ import annotations

import io
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))
from tinyworld import ENTRY, tiny_suite

from erecap.envs import ENVIRONMENTS
from erecap.errors import ConfigError
from erecap.models.adapters import describe_adapter
from erecap.training.collect.collect import collect
from erecap.training.collect.episode import Recipe
from erecap.training.collect.replay import recipe_of, replay
from erecap.training.collect.trajectories import read_trajectories, source_facts
from erecap.training.planner.settings import PlannerTraining
from erecap.training.planner.train import train_planner
from erecap.training.pruner.base_model import load_base
from erecap.training.pruner.run import run_pruner
from erecap.training.pruner.settings import PrunerSettings
from erecap.training.saliency.files import read_labels
from erecap.training.saliency.run import SaliencySettings, run_saliency
from erecap.training.verify import Figure, verify_planner, verify_pruner
from tests.training.chatworld import save_model

SUITES = {"tiny": tiny_suite(disturbances={"slip": 0.2})}
PLAY = partial(replay, suites=SUITES)


def silent(line: str) -> None:
    """Nobody waits."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A planner and a pruner for it, of a few episodes in the tiny world."""
    folder = tmp_path_factory.mktemp("trained")
    quiet = Console(file=io.StringIO())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENTS, "tiny", ENTRY)
        data = folder / "data"
        collect(Recipe(episodes=8, perturb=0.5, seed=3), SUITES, data, console=quiet)
        base = save_model(folder / "base")
        settings = PlannerTraining(
            (str(data),), model=str(base), rank=4, lr=0.005, epochs=2, accumulate=2, held_out=0.3, amp="none",
            device="cpu", max_tokens=1024,
        )  # fmt: skip
        planner = train_planner(settings, folder / "planner", say=silent)
        model, tokenizer, known = load_base(str(base), "cpu", str(folder / "planner"))
        labels = SaliencySettings(stages=(1,), cache_tokens=24)
        run_saliency(model, tokenizer, known, [data], folder / "labels", labels)
        asked = PrunerSettings(task=False, epochs=2, held_out=0.3, test_samples=2, kv_tokens=180)
        pruner = run_pruner(model, known, *read_labels(folder / "labels"), folder / "pruner", asked)
        yield {
            "folder": folder,
            "options": {"model": str(base), "say": silent, "play": PLAY},
            "planner": planner.card,
            "pruner": pruner,
        }


def test_episodes_are_played_as_they_were_collected(trained: dict[str, Any]) -> None:
    data = trained["folder"] / "data"
    recipe = recipe_of(source_facts(data))
    assert recipe is not None and (recipe.perturb, recipe.seed) == (0.5, 3)
    rows = list(read_trajectories(data))
    assert PLAY(recipe, [("tiny", 5), ("tiny", 2)]) == [rows[5], rows[2]]


def test_a_planner_scores_as_its_card_says(trained: dict[str, Any]) -> None:
    card = json.loads((trained["folder"] / "planner" / "card.json").read_text())
    [part] = card["held_out"]
    assert part["folder"] == "data" and len(part["episodes"]["tiny"]) == card["data"]["held_out_transcripts"]
    assert {key: part[key] for key in card["scores"]} == card["scores"]
    figures = verify_planner(trained["folder"] / "planner", card, **trained["options"])
    assert [figure.name for figure in figures] == [f"data: {key}" for key in card["scores"]]
    assert all(figure.stated == pytest.approx(figure.measured, abs=1e-5) for figure in figures)
    part["loss"] += 0.2
    [loss, *rest] = verify_planner(trained["folder"] / "planner", card, **trained["options"])
    assert not loss.holds and all(figure.holds for figure in rest)


def test_a_pruner_is_tested_as_its_card_says(trained: dict[str, Any]) -> None:
    folder, card = trained["folder"] / "pruner", trained["pruner"]
    assert len(card["test"]["names"]) == 2 and card["test"]["names"][0].startswith("data/tiny/")
    assert card["base"]["adapter"] == describe_adapter(str(trained["folder"] / "planner"))["hash"]
    figures = verify_pruner(folder, card, str(trained["folder"] / "planner"), **trained["options"])
    assert card["test"]["sessions"]["samples"] > 0 and len(figures) == 1 + 2 * 4 + 3 * 5
    assert all(f.stated == pytest.approx(f.measured, abs=1e-4) for f in figures)


def test_what_a_model_has_played_cannot_be_played_again(trained: dict[str, Any]) -> None:
    card = json.loads(json.dumps(trained["planner"]))
    card["data"]["sources"][0]["options"]["planner"] = {"model": "other"}
    said: list[str] = []
    with pytest.raises(ConfigError, match="no held-out episodes that can be played again"):
        verify_planner(trained["folder"] / "planner", card, **{**trained["options"], "say": said.append})
    assert said == ["data: a model acted in it, so it is passed over"]
    del card["data"]["sources"][0]["options"]
    with pytest.raises(ConfigError, match="data: the card does not say how it was collected"):
        verify_planner(trained["folder"] / "planner", card, **trained["options"])


@pytest.mark.parametrize(
    ("name", "stated", "close", "far"),
    [
        ("data: loss", 0.070, 0.0711, 0.074),
        ("session, learned: kl", 0.030, 0.0305, 0.033),
        ("data: plan_accuracy", 0.787, 0.777, 0.760),
        ("spearman_session", 0.80, 0.79, 0.77),
        ("data: plans", 244, 244, 245),
    ],
)
def test_what_rounding_explains_is_let_pass_and_no_more(name: str, stated: float, close: float, far: float) -> None:
    assert Figure(name, stated, close).holds and not Figure(name, stated, far).holds


def test_a_pruner_without_a_test_cannot_be_verified(trained: dict[str, Any]) -> None:
    card = {**trained["pruner"], "test": None}
    with pytest.raises(ConfigError, match="names no samples that it was tested on"):
        verify_pruner(trained["folder"] / "pruner", card, None, **trained["options"])


def test_the_command_refuses_what_is_no_checkpoint(erecap: Any, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "card.json").write_text('{"format": "else"}')
    code, _, err = erecap("verify", "other")
    assert code != 0 and err.count("\n") == 1 and "format: got 'else'; allowed: 'erecap-planner-1'" in err
    code, _, err = erecap("verify", "nowhere")
    assert code != 0 and err.count("\n") == 1 and "checkpoint nowhere: no such folder" in err


def test_the_mean_of_an_adapter_and_its_start(trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    from erecap.training.average import average_adapter

    folder = trained["folder"]
    monkeypatch.setenv("ERECAP_CHECKPOINTS", str(folder / "none"))  # what it started from lies beside it
    settings = PlannerTraining(
        (str(folder / "data"),), model=trained["options"]["model"], init=str(folder / "planner"), lr=0.01, epochs=1,
        accumulate=2, held_out=0.3, amp="none", device="cpu", max_tokens=1024,
    )  # fmt: skip
    train_planner(settings, folder / "tuned", say=silent)
    out = folder / "mean"
    card = average_adapter(str(folder / "tuned"), 0.25, out, **trained["options"])
    first, second, mean = (
        load_file(folder / name / "adapter_model.safetensors") for name in ("planner", "tuned", "mean")
    )
    for name, value in mean.items():
        wanted = 0.75 * first[name].float() + 0.25 * second[name].float()
        torch.testing.assert_close(value.float(), wanted, atol=0, rtol=2**-8)  # of bfloat16
    assert any(not torch.equal(mean[name], first[name]) for name in mean)
    assert card["average"]["share"] == 0.25 and card["average"]["with"]["name"] == "planner"
    assert "**Mean**: 25% of these weights, adapter `tuned`" in (out / "card.md").read_text()
    figures = verify_planner(out, json.loads((out / "card.json").read_text()), **trained["options"])
    assert figures and all(figure.holds and figure.stated == figure.measured for figure in figures)
    with pytest.raises(ConfigError, match="is there already"):
        average_adapter(str(folder / "tuned"), 0.25, out, **trained["options"])
    with pytest.raises(ConfigError, match="between 0 and 1"):
        average_adapter(str(folder / "tuned"), 1.0, folder / "other", **trained["options"])
    with pytest.raises(ConfigError, match="did not start from another adapter"):
        average_adapter(str(folder / "planner"), 0.5, folder / "other", **trained["options"])
    assert not (folder / "other").exists()
