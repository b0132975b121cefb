"""Adapters of peft on a wrapped model: keys and values of other weights are never reused."""

from __future__ import annotations

import copy

import pytest
import torch

import erecap
from tests.tokens.models import tiny
from tests.wrapping.test_session_model import GREEDY, ids_of, rows_of, whole

peft = pytest.importorskip("peft")


@pytest.mark.parametrize("change", ["none", "other adapter", "no adapter"])
def test_adapters(change: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    model = peft.get_peft_model(copy.deepcopy(tiny("llama")), settings).eval()
    model.add_adapter("other", settings)
    wrapped, ids = erecap.wrap(model, log=tmp_path), ids_of(40, 1)
    for turn in range(4):
        if turn == 2 and change == "other adapter":
            model.set_adapter("other")
        if turn == 2 and change == "no adapter":
            model.base_model.disable_adapter_layers()
        expected = model.generate(**whole(ids), **GREEDY)
        assert torch.equal(wrapped.generate(**whole(ids), **GREEDY), expected)
        ids = torch.cat([expected, ids_of(9, turn)], 1)
    kept = ["reused" if change == "none" else "read"]
    assert [row["decision"] for row in rows_of(tmp_path)] == ["read", "reused", *kept, "reused"]


def test_tuned_prompts_are_passed_on() -> None:
    settings = peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    model, ids = peft.get_peft_model(copy.deepcopy(tiny("llama")), settings).eval(), ids_of(40, 1)
    with pytest.warns(UserWarning, match="passes every call on"):
        answer = erecap.wrap(model).generate(**whole(ids), **GREEDY)
    assert torch.equal(answer, model.generate(**whole(ids), **GREEDY))
