"""Whole blocks and equal slices become folders that transformers loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from erecap.errors import ModelError
from erecap.layers import LayerPlan, apply, export, plan_of
from tests.layers.plans import PLANS, expected_logits, logits, own
from tests.tokens.models import ARCHITECTURES, LAYERS, prompt

IDS = prompt(40)["input_ids"]
EXPRESSIBLE = {
    "blocks": LayerPlan(LAYERS, blocks=(0, 4, 5)),
    # Other heads and channels in each layer, but as many.
    "heads": LayerPlan(LAYERS, heads={n: ((0, 1) if n % 2 else (2, 3)) for n in range(LAYERS)}),
    "channels": LayerPlan(LAYERS, channels={n: tuple(range(n, n + 16)) for n in range(LAYERS)}),
    "all": LayerPlan(
        LAYERS, blocks=(1,), heads={n: (0, 1) for n in range(LAYERS) if n != 1},
        channels={n: (n,) for n in range(LAYERS) if n != 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", EXPRESSIBLE)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_folder_loads_as_the_model_with_the_plan(name: str, kind: str, tmp_path: Path) -> None:
    model, plan = own(name), EXPRESSIBLE[kind]
    config = model.config.to_dict()
    with apply(model, plan):
        assert export(model, tmp_path / "thin") == tmp_path / "thin"
        assert plan_of(model) is plan
    after = model.config.to_dict()
    changed = {key for key in {*after, *config} if after.get(key) != config.get(key)}
    assert changed <= {"architectures", "dtype"}  # which `save_pretrained` notes
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "thin", local_files_only=True).eval()
    assert type(loaded) is type(model) and loaded.num_parameters() < model.num_parameters()
    expected = expected_logits(name, plan, IDS)
    assert torch.allclose(logits(loaded, IDS), expected, atol=1e-4 * float(expected.abs().max()))
    inputs = prompt(20)
    with apply(model, plan):
        wanted = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert torch.equal(loaded.generate(**inputs, max_new_tokens=6, do_sample=False), wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["thin"]


@pytest.mark.parametrize(
    "kind, message",
    [
        ("attention", "layer 0 is without its attention, which no Hugging Face configuration says"),
        ("mlp", "layer 1 is without its MLP"),
        ("heads", r"layers 0 and 1 lose different numbers of heads \(0 and 2\)"),
        ("channels", r"layers 0 and 2 lose different numbers of channels \(0 and 3\)"),
    ],
)
def test_what_no_configuration_says_is_refused(kind: str, message: str, tmp_path: Path) -> None:
    model = own()
    with apply(model, PLANS[kind]), pytest.raises(ModelError, match=message):
        export(model, tmp_path / "thin")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_and_a_model_without_a_plan(tmp_path: Path) -> None:
    model = own()
    with pytest.raises(ModelError, match="the model has no layer plan to export"):
        export(model, tmp_path / "thin")
    (tmp_path / "file").write_text("mine")
    with apply(model, PLANS["blocks"]), pytest.raises(ModelError, match="holds something already"):
        export(model, tmp_path)
