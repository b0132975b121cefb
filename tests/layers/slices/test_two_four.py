"""Two of every four weights are zero: exactly, by hand; and what packs them says where it cannot."""

from __future__ import annotations

import pytest
import torch

from erecap.errors import ModelError
from erecap.layers import apply
from erecap.layers.slices.making import Slicer
from erecap.layers.slices.settings import SliceSettings
from erecap.layers.slices.two_four import is_two_four, pack, packing_problem, two_four_mask
from tests.layers.plans import logits, own, weights
from tests.layers.slices.test_slicer import IDS, X
from tests.tokens.models import LAYERS


def test_the_mask_by_hand() -> None:
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 5.0], [1.0, 1.0, 1.0, 1.0, 0.1, 9.0, 8.0, 7.0]])
    wanted = [[1, 1, 0, 0, 1, 0, 0, 1], [1, 1, 0, 0, 0, 1, 1, 0]]  # among equal ones the first
    assert two_four_mask(scores).int().tolist() == wanted
    assert is_two_four(two_four_mask(scores) * scores) and not is_two_four(scores + 1)
    assert not is_two_four(torch.zeros(2, 6)) and not is_two_four(torch.zeros(8))


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_the_largest_weights_stay(name: str) -> None:
    model = own(name)
    before, dense = weights(model), logits(model, X)
    plan = Slicer(model).plan(SliceSettings(two_four="magnitude"))
    assert len(plan.tuned) == LAYERS * (7 if name == "llama" else 4) and not plan.channels
    for key, weight in plan.tuned.items():
        whole = before[f"model.{key}"].view(-1, 4)
        kept = weight.view(-1, 4)
        assert bool(((kept != 0).sum(1) == 2).all()) and bool(((kept == 0) | (kept == whole)).all())
        assert bool((kept.abs().amin(1) == 0).all()) and torch.equal(kept.abs().amax(1), whole.abs().amax(1))
    with apply(model, plan):
        assert not torch.allclose(logits(model, X), dense, atol=1e-2)
    assert torch.equal(logits(model, X), dense)


def test_activations_decide_between_weights_of_one_size() -> None:
    model = own("llama")
    up = model.model.layers[0].mlp.up_proj
    with torch.no_grad():
        up.weight.fill_(1.0)
        model.model.layers[0].post_attention_layernorm.weight.copy_(torch.arange(32.0) + 1)
    plan = Slicer(model, IDS).plan(SliceSettings(two_four="activation"))
    seen: list[torch.Tensor] = []
    up.register_forward_hook(lambda m, args, out: seen.append(args[0].flatten(0, 1)))
    logits(model, torch.tensor(IDS))
    best = seen[0].norm(dim=0).view(-1, 4).topk(2, -1).indices.sort(-1).values
    kept = plan.tuned["layers.0.mlp.up_proj.weight"]
    assert torch.equal(kept[0].view(-1, 4).nonzero()[:, 1].view(-1, 2), best) and bool((kept == kept[:1]).all())


def test_masks_of_what_a_slice_leaves() -> None:
    model = own("llama")
    sliced = SliceSettings(channels=0.25, multiple=4, reconstruct="least-squares", two_four="magnitude")
    plan = Slicer(model, IDS).plan(sliced)
    assert plan.tuned["layers.3.mlp.down_proj.weight"].shape == (32, 48 - len(plan.channels[3]))
    assert all(is_two_four(weight) for weight in plan.tuned.values())
    with apply(model, plan):
        assert bool(logits(model, X).isfinite().all())
    with pytest.raises(
        ModelError, match=r"layers.\d.mlp.down_proj.weight has \d+ inputs; 2:4 sparsity needs a multiple"
    ):
        Slicer(model, IDS).plan(SliceSettings(channels=0.1, multiple=1, two_four="magnitude"))


def test_packing_says_where_nothing_gets_faster() -> None:
    model = own("llama")
    assert packing_problem(torch.device("cpu"), torch.float32) == (
        "cpu has no 2:4 kernels; a CUDA device of compute capability 8.0 or above has"
    )
    with pytest.raises(ModelError, match="2:4 weights get nothing faster here: cpu has no 2:4 kernels"):
        pack(model)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_packed_weights_give_what_masked_ones_do() -> None:
    if packing_problem(torch.device("cuda"), torch.float16) is not None:
        pytest.skip("the device has no 2:4 kernels")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(2)
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=97, num_key_value_heads=2, **sizes)).eval().half().cuda()
    apply(model, Slicer(model).plan(SliceSettings(two_four="magnitude"))).free()
    ids = torch.randint(2, 97, (1, 64)).cuda()
    expected = logits(model, ids)
    assert pack(model) == 14
    assert torch.allclose(logits(model, ids), expected, atol=0.02 * float(expected.abs().max()))
