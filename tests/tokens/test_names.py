"""The light list of names agrees with the classes behind it; the examples of the documentation run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch

import erecap
from erecap.config import parse_mode
from erecap.registries import SCORERS
from erecap.tokens import SCORER_NAMES
from erecap.tokens.scoring.scorers import make_scorer
from tests.tokens.models import prompt, tiny


def test_every_registered_scorer_can_be_made() -> None:
    assert set(SCORERS) == set(SCORER_NAMES) >= {"attention", "random", "recency"}
    for name in SCORERS:
        assert callable(make_scorer(name).score)


def test_the_scorer_of_the_documentation_works() -> None:
    page = Path(__file__).parents[2] / "docs" / "add-a-scorer.md"
    code = re.search(r"```python\n(class NormScorer.*?)```", page.read_text("utf-8"), re.S)
    assert code is not None
    names: dict = {}
    exec(code.group(1), names)
    config = erecap.PruneConfig(scorer=names["NormScorer"](), keep=0.7)
    with erecap.prune(tiny("llama"), config) as cache, torch.no_grad():
        tiny("llama")(**prompt(40), past_key_values=cache)
    assert cache.kept_lengths() == [40] * 4 + [28] * 4
    named = re.search(r"```python\n(import erecap\.tokens\n.*?)```", page.read_text("utf-8"), re.S)
    assert named is not None
    try:
        exec(named.group(1), names)
        assert parse_mode("prune[norm]").prune == "norm"
        with erecap.prune(tiny("llama"), replace(config, scorer="norm")) as by_name, torch.no_grad():
            tiny("llama")(**prompt(40), past_key_values=by_name)
    finally:
        SCORERS.pop("norm", None)
    assert by_name.kept_lengths() == cache.kept_lengths()
    assert torch.equal(by_name.stored_index(), cache.stored_index())
