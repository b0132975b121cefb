"""Profiles are made once, and again when the base, the text or an option changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from erecap.errors import ConfigError
from erecap.layers import Base, LayerPlan, apply, load_plan, save_plan
from erecap.layers.slices.making import Slicer
from erecap.layers.slices.profiles import Source, known, make, six_profiles
from erecap.layers.slices.settings import SliceSettings
from tests.layers.plans import own
from tests.layers.slices.test_slicer import IDS
from tests.tokens.models import LAYERS

BASE = Base("tiny", "sha256:" + "a" * 64)
SOURCE = Source(BASE, "float32", IDS[:4], {"texts": 4})
SETTINGS = SliceSettings(channels=0.25, multiple=4, reconstruct="gain")


def test_the_six_profiles_of_casrap() -> None:
    found = six_profiles(SliceSettings(0.5, 0.5, "output", reconstruct="gain"))
    assert list(found) == [f"{part}-{ratio}" for part in ("heads", "channels") for ratio in (0.1, 0.2, 0.3)]
    assert found["heads-0.2"] == SliceSettings(0.2, 0.0, "output", reconstruct="gain")
    assert found["channels-0.3"] == SliceSettings(0.0, 0.3, "output", reconstruct="gain")


def test_a_profile_is_an_ordinary_plan_that_says_how_it_was_made(tmp_path: Path) -> None:
    plan = make(tmp_path / "thin", Slicer(own(), IDS[:4]), SOURCE, SETTINGS, "erecap layers slice tiny")
    again = load_plan(tmp_path / "thin")
    assert again.digest() == plan.digest() and again.base == BASE
    assert again.found["calibration"] == {"texts": 4} and again.found["settings"]["channels"] == 0.25
    assert again.found["gone"]["channels"].startswith("96 of 384") and again.found["missed"]["after"] < 1
    assert again.found["command"] == "erecap layers slice tiny"
    with apply(own(), replace(again, base=None)) as applied:
        assert applied.removed_bytes == 96 * 3 * 32 * 4  # a channel has a row in two projections and a column in one


def test_a_profile_is_known_by_all_that_it_is_made_from(tmp_path: Path) -> None:
    folder = tmp_path / "thin"
    assert known(folder, SOURCE, SETTINGS) is None
    made = make(folder, Slicer(own(), IDS[:4]), SOURCE, SETTINGS, "")
    found = known(folder, SOURCE, SETTINGS)
    assert found is not None and found.digest() == made.digest()
    others = [
        replace(SOURCE, base=replace(BASE, hash="sha256:" + "b" * 64)),
        replace(SOURCE, base=replace(BASE, adapter="sha256:" + "c" * 64)),
        replace(SOURCE, dtype="bfloat16"),
        replace(SOURCE, ids=IDS[1:5]),
    ]
    assert all(known(folder, other, SETTINGS) is None for other in others)
    for value in ({"channels": 0.3}, {"heads": 0.25}, {"reconstruct": "none"}, {"multiple": 8}, {"spread": "global"}):
        assert known(folder, SOURCE, replace(SETTINGS, **value)) is None
    assert known(folder, replace(SOURCE, texts={"texts": 5}), SETTINGS) is not None  # words about the same text
    (folder / "plan.safetensors").write_bytes(b"damaged")
    assert known(folder, SOURCE, SETTINGS) is None
    assert make(folder, Slicer(own(), IDS[:4]), SOURCE, SETTINGS, "").digest() == made.digest()


def test_by_weights_no_text_counts(tmp_path: Path) -> None:
    settings = SliceSettings(channels=0.25, multiple=4, importance="weights")
    make(tmp_path, Slicer(own()), Source(BASE, "float32"), settings, "")
    assert known(tmp_path, SOURCE, settings) is not None
    assert "calibration" not in json.loads((tmp_path / "card.json").read_text())["found"]


def test_a_plan_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    save_plan(tmp_path / "hand", LayerPlan(LAYERS, mlp=(1,), base=BASE, found={"method": "by hand"}))
    with pytest.raises(ConfigError, match="hand holds a layer plan of another kind; choose another folder"):
        known(tmp_path / "hand", SOURCE, SETTINGS)


def test_the_same_inputs_give_the_same_plan() -> None:
    settings = replace(SETTINGS, heads=0.25, reconstruct="least-squares")
    first, second = (Slicer(own(), IDS[:4]).plan(settings) for _ in range(2))
    assert first.digest() == second.digest()
    assert all(not tensor.requires_grad and tensor.dtype == torch.float32 for tensor in first.tuned.values())
