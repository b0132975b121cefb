"""A wrapped model with a layer plan, and the embedded planner with its adapter."""

from __future__ import annotations

import os
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

import erecap
from erecap.config.modes import parse_mode
from erecap.language_models.build import CallSettings, ModelSettings, build_language_model, open_model
from erecap.layers import LayerPlan, apply, load_plan, save_plan
from tests.context.small_tokenizers import byte_level
from tests.layers.plans import PLANS, identities
from tests.session.chats import model as shared_model
from tests.session.chats import start, turn


def ids_of(text: str) -> torch.Tensor:
    return torch.tensor([byte_level()(text, add_special_tokens=False)["input_ids"]])


@pytest.mark.parametrize("kind", PLANS)
def test_wrapped_before_or_after_a_plan_comes_and_goes(kind: str) -> None:
    model = deepcopy(shared_model("gemma3"))
    wrapped = erecap.wrap(model)
    texts = ["Goal: find a mug.\n" + "You see a shelf 1. " * number for number in range(2, 6)]

    def generated(one) -> list[list[int]]:  # type: ignore[no-untyped-def]
        return [one.generate(ids_of(text), max_new_tokens=6, do_sample=False)[0].tolist() for text in texts]

    dense = generated(shared_model("gemma3"))
    with identities(shared_model("gemma3"), PLANS[kind]):
        expected = generated(shared_model("gemma3"))
    assert generated(wrapped) == dense
    with apply(model, PLANS[kind]):
        assert generated(wrapped) == expected
        assert generated(erecap.wrap(model)) == expected
    assert generated(wrapped) == dense


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the resident set in /proc")
def test_freed_memory_leaves_the_process(embedded_model_folder) -> None:  # type: ignore[no-untyped-def]
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    # In another format than its file's: else its weights are pages of the mapped file, which stay with the rest of it.
    opened = open_model(ModelSettings(str(embedded_model_folder), None, "bfloat16", "cpu"))
    applied = apply(opened.model, LayerPlan(30, blocks=tuple(range(2, 22))), base=opened.base)
    before = resident()
    freed = applied.free()
    assert freed == applied.removed_bytes == 20 * 2 * sum(p.numel() for p in opened.model.model.layers[0].parameters())
    assert before - resident() > 0.9 * freed


@pytest.mark.integration
def test_the_embedded_planner_with_its_adapter_merged(embedded_model_folder, tmp_path) -> None:  # type: ignore[no-untyped-def]
    settings = ModelSettings(str(embedded_model_folder), "smollm2-135m-planner", "float32", "cpu")
    whole = open_model(settings)
    plan = LayerPlan(30, blocks=(6, 10), attention=(24,), heads={3: (0, 1, 2)}, channels={4: (0, 7)}, base=whole.base)
    save_plan(tmp_path, plan)
    planned = open_model(ModelSettings(*list(vars(settings).values())[:4], layers=str(tmp_path)))
    assert planned.facts["layers"] == 28 and planned.facts["parameters"] < whole.facts["parameters"]

    def answered(opened) -> list[str]:  # type: ignore[no-untyped-def]
        language_model, messages, found = build_language_model(opened, parse_mode("reuse"), CallSettings()), start(), []
        for number in range(2):
            found.append(language_model.generate(messages, max_new_tokens=12).text)
            messages += turn(found[-1], number)
        return found

    with identities(whole.model, load_plan(tmp_path)):
        assert answered(whole) == answered(planned)
