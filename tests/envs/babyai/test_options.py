"""Options of the BabyAI environment, without the simulator."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from erecap.config import load_suite
from erecap.envs.babyai.options import LEVELS, BabyAIOptions


@pytest.mark.parametrize("value", ["BabyAI-GoTo-v0", list(LEVELS)])
def test_levels_that_are_played(value):
    assert BabyAIOptions(level=value).level == value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("BabyAI-GotoLocal-v0", r"got 'BabyAI-GotoLocal-v0' \(did you mean 'BabyAI-GoToLocal-v0'\?\); allowed: "),
        (["BabyAI-GoTo-v0", "BabyAI-KeyInBox-v0"], "got 'BabyAI-KeyInBox-v0'.*; allowed: BabyAI-ActionObjDoor-"),
        ([], "got an empty list; allowed: one level or more"),
    ],
)
def test_levels_that_are_not(value, said: str):
    with pytest.raises(ValidationError, match=said):
        BabyAIOptions(level=value)


@pytest.mark.parametrize("options", [{"skill_steps": 0}, {"skill_steps": "many"}, {"views": 3}])
def test_other_bad_options(options):
    with pytest.raises(ValidationError):
        BabyAIOptions(**options)


@pytest.mark.parametrize("name", ["babyai-demo", "babyai-mixed", "babyai-train"])
def test_packaged_suites_are_valid(name: str):
    suite = load_suite(name)
    BabyAIOptions.model_validate(suite.options)
    assert suite.env == "babyai" and suite.name == name
