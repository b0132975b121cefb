"""Options of the household environment: allowed values, and nothing heavy is loaded for them."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from erecap.envs.household.games.generate import Recipe, generate
from erecap.envs.household.options import TASK_TYPES, HouseholdOptions
from erecap.errors import ConfigError


def test_defaults_play_all_task_types_in_unseen_rooms():
    options = HouseholdOptions()
    assert (options.split, options.task_types, options.games_dir) == ("unseen", TASK_TYPES, None)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"split": "test"}, "split"),
        ({"task_types": []}, "task_types"),
        ({"task_types": ["fly"]}, "task_types"),
        ({"task_types": ["pick_two_obj_and_place"] * 2}, "more than once"),
        ({"max_objects": 0}, "max_objects"),
        ({"horizon": 5}, "horizon"),
        ({"games_dir": "games", "split": "train"}, "no meaning together with games_dir"),
    ],
)
def test_bad_options_are_refused(options, reason):
    with pytest.raises(ValidationError, match=reason):
        HouseholdOptions.model_validate(options)


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (("nowhere", 0, 1), "split: got 'nowhere', allowed are train, seen, unseen"),
        (("train", 0, 0), "count: got 0"),
        (("train", 0, 1, ("fly",)), "task_types: got \\['fly'\\]"),
    ],
)
def test_bad_arguments_of_generate_are_refused(arguments, reason):
    with pytest.raises(ConfigError, match=reason):
        generate(*arguments)


def test_cache_folders_differ_by_all_that_changes_a_game(monkeypatch, tmp_path):
    monkeypatch.setenv("ERECAP_CACHE", str(tmp_path))
    recipes = [
        Recipe("train", 0),
        Recipe("seen", 0),
        Recipe("train", 1),
        Recipe("train", 0, TASK_TYPES[:2]),
        Recipe("train", 0, TASK_TYPES[1::-1]),
        Recipe("train", 0, max_objects=20),
    ]
    assert len({recipe.folder() for recipe in recipes}) == len(recipes)
    assert all(tmp_path in recipe.folder().parents for recipe in recipes)


def test_options_and_generator_import_without_the_simulator():
    code = (
        "import sys, erecap.envs.household.options, erecap.envs.household.games.generate;"
        "print([name for name in ('torch', 'textworld', 'alfworld', 'gymnasium', 'numpy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
