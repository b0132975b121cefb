"""Shipped checkpoints load, belong together, and stay small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erecap.models import fingerprint
from erecap.models.adapters import WEIGHTS, check_adapter, describe_adapter, locate_adapter
from erecap.tokens.scoring.pruner_files import beats_random, find_pruner, load_pruner, read_card

PLANNER, PRUNER = "smollm2-135m-planner", "smollm2-135m-pruner"
EMBODIED, TEAM = "smollm2-135m-embodied", "smollm2-135m-team"
LARGEST = 25_000_000  # bytes


def test_the_embodied_planner_is_a_mean_that_starts_from_the_household_planner() -> None:
    folder = locate_adapter(EMBODIED)
    card = json.loads((folder / "card.json").read_text())
    assert card["scores"]["plans"] > 0 and len(card["held_out"]) >= 4 and card["data"]["sources"]
    assert card["average"]["with"]["hash"] == describe_adapter(PLANNER)["hash"]
    for path in folder.iterdir():
        assert path.stat().st_size < LARGEST and path.suffix in (".json", ".md", ".safetensors"), path
        if path.suffix != ".safetensors":
            assert str(Path(__file__).parents[2]) not in path.read_text(), path


def test_the_planner_for_teams_says_how_its_planners_shared_what_they_saw() -> None:
    card = json.loads((locate_adapter(TEAM) / "card.json").read_text())
    assert card["name"] == TEAM and card["scores"]["plans"] > 0 and card["held_out"]
    teams = [source["team"] for source in card["data"]["sources"]]
    assert {len(team["agents"]) for team in teams} == {2, 4} and {team["observations"] for team in teams} == {"shared"}


def test_cards_tell_what_was_measured_and_nothing_of_a_machine() -> None:
    planner, pruner = locate_adapter(PLANNER), find_pruner(PRUNER)
    card = json.loads((planner / "card.json").read_text())
    assert card["scores"]["plans"] > 0 and card["held_out"] and card["data"]["sources"]
    assert read_card(pruner)["test"]["names"] and beats_random(read_card(pruner))
    assert read_card(pruner)["base"]["adapter"] == describe_adapter(PLANNER)["hash"]
    for path in (*planner.iterdir(), *pruner.iterdir(), *locate_adapter(TEAM).iterdir()):
        assert path.stat().st_size < LARGEST and path.suffix in (".json", ".md", ".safetensors", ".svg"), path
        if path.suffix != ".safetensors":
            assert str(Path(__file__).parents[2]) not in path.read_text(), path


@pytest.mark.integration
def test_they_fit_the_embedded_model(embedded_model_folder: Path) -> None:
    check_adapter(locate_adapter(EMBODIED), embedded_model_folder)
    check_adapter(locate_adapter(TEAM), embedded_model_folder)
    planner = locate_adapter(PLANNER)
    check_adapter(planner, embedded_model_folder)
    assert (planner / WEIGHTS).stat().st_size > 1_000_000
    config = json.loads((embedded_model_folder / "config.json").read_text())
    pruner = load_pruner(
        PRUNER,
        hidden_size=config["hidden_size"],
        layers=config["num_hidden_layers"],
        base=fingerprint(embedded_model_folder),
        adapter=describe_adapter(PLANNER)["hash"],
    )
    assert pruner.session_stage in pruner.stages
