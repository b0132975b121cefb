"""Slices of tiny models: what is useless goes first, slicing equals masking, a fit misses less, and all is undone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from erecap.errors import ModelError
from erecap.layers import LayerPlan, apply, plan_of
from erecap.layers.slices.fitting import Fit
from erecap.layers.slices.making import Slicer
from erecap.layers.slices.settings import SliceSettings
from tests.layers.plans import expected_logits, logits, own, weights
from tests.tokens.models import LAYERS, prompt

IDS = torch.randint(2, 97, (24, 32), generator=torch.Generator().manual_seed(1)).tolist()
X = prompt(40)["input_ids"]
GQA = ("llama", "gemma3", "phi3")  # plain, with norms behind its sublayers, with joined projections
USELESS = {1: (1,), 4: (0,), 6: (1,)}  # KV groups by layer
IDLE = {0: (3, 40), 5: tuple(range(7, 17))}  # channels by layer


def planted(name: str) -> Any:
    """A tiny model with groups and channels that add next to nothing: what they make and what reads it is small."""
    model = own(name)
    with torch.no_grad():
        for number, groups in USELESS.items():
            attention = model.model.layers[number].self_attn
            dim, size = attention.head_dim, attention.num_key_value_groups
            for group in groups:
                columns = slice(group * size * dim, (group + 1) * size * dim)
                attention.o_proj.weight[:, columns] *= 1e-3
                value = attention.qkv_proj.weight[-2 * dim :] if name == "phi3" else attention.v_proj.weight
                value[group * dim : (group + 1) * dim] *= 1e-3
        for number, channels in IDLE.items():
            mlp = model.model.layers[number].mlp
            mlp.down_proj.weight[:, list(channels)] *= 1e-3
            up = mlp.gate_up_proj.weight[48:] if name == "phi3" else mlp.up_proj.weight
            up[list(channels)] *= 1e-3
    return model


@pytest.mark.parametrize("importance", ["activation", "output", "weights"])
@pytest.mark.parametrize("name", GQA)
def test_what_is_useless_goes_first(name: str, importance: str) -> None:
    model = planted(name)
    settings = SliceSettings(3 / 16, 12 / 384, importance, "global", multiple=1)
    plan = Slicer(model, IDS if importance != "weights" else ()).plan(settings)
    assert plan.heads == {
        number: tuple(h for g in groups for h in (2 * g, 2 * g + 1)) for number, groups in USELESS.items()
    }
    assert plan.channels == IDLE
    assert plan.found["gone"] == {"heads": "6 of 32 (0.188)", "channels": "12 of 384 (0.0312)"}


@pytest.mark.parametrize("name", GQA)
def test_slicing_equals_masking_and_leaves_the_model_as_it_was(name: str) -> None:
    model = own(name)
    before, dense = weights(model), logits(model, X)
    plan = Slicer(model, IDS).plan(SliceSettings(0.25, 0.3, multiple=4, reconstruct="least-squares"))
    assert {number: len(own_) for number, own_ in plan.channels.items()}.keys() == set(range(LAYERS))
    bare = replace(plan, tuned={})
    with apply(model, bare):
        found = logits(model, X)
    expected = expected_logits(name, bare, X)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    with apply(model, plan):
        assert not torch.allclose(logits(model, X), found, atol=1e-3)
        assert all(layer.mlp.down_proj.in_features % 4 == 0 for layer in model.model.layers)
    after = weights(model)
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)
    assert torch.equal(logits(model, X), dense) and plan_of(model) is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", GQA)
def test_a_fit_lowers_the_error_on_the_calibration_text(name: str) -> None:
    model, settings = own(name), SliceSettings(0.25, 0.3, multiple=4)
    ids = torch.tensor(IDS)
    dense, slicer, errors, missed = logits(model, ids), Slicer(model, IDS), {}, {}
    for kind in ("none", "gain", "channel-gain", "least-squares"):
        plan = slicer.plan(replace(settings, reconstruct=kind))
        with apply(model, plan):
            errors[kind] = float((logits(model, ids) - dense).square().mean())
        missed[kind] = plan.found.get("missed", {}).get("after")
        assert len(plan.tuned) == (0 if kind == "none" else 4 + LAYERS)  # 4 of 16 groups, all MLPs
    assert missed["least-squares"] < missed["channel-gain"] < missed["gain"]
    assert errors["least-squares"] < 0.85 * errors["none"]


def test_least_squares_start_from_the_factors_and_are_never_worse() -> None:
    torch.manual_seed(3)
    inputs, weight = torch.randn(50, 6) @ torch.randn(6, 6), torch.randn(4, 6)
    wanted = inputs @ torch.randn(6, 4) + 0.1 * torch.randn(50, 4)
    fit = Fit(6, 4, torch.device("cpu"))
    fit.add(inputs[:20], wanted[:20])
    fit.add(inputs[20:], wanted[20:])
    missed = lambda w: float((inputs @ w.T - wanted).square().sum() / wanted.square().sum())  # noqa: E731
    assert fit.missed(weight) == pytest.approx(missed(weight), rel=1e-4)
    one = fit.solve(weight, "gain", 0.01)
    assert torch.allclose(one, weight * ((inputs @ weight.T) * wanted).sum() / (inputs @ weight.T).square().sum())
    each = fit.solve(weight, "channel-gain", 0.01)
    exact = fit.solve(weight, "least-squares", 1e-9)
    assert torch.allclose(exact, torch.linalg.lstsq(inputs, wanted).solution.T, atol=1e-3)
    held, frozen = fit.solve(weight, "least-squares", 1.0), fit.solve(weight, "least-squares", 1e12)
    assert missed(exact) < missed(held) < missed(each) < missed(one) < missed(weight)
    assert torch.allclose(frozen, each, atol=1e-4)
    zero = fit.solve(torch.zeros(4, 6), "channel-gain", 0.01)
    assert torch.equal(zero, torch.zeros(4, 6))


def test_a_layer_is_fitted_to_what_it_gives_behind_the_slices_before_it() -> None:
    """Written down for the second layer: its inputs are those of the model whose first layer is sliced and fitted."""
    model = own("llama")
    ids = torch.tensor(IDS)
    plan = Slicer(model, IDS).plan(SliceSettings(channels=0.5, multiple=24, reconstruct="least-squares", damping=1e-4))
    first = {name: tensor for name, tensor in plan.tuned.items() if name.startswith("layers.0.")}
    seen: dict[str, torch.Tensor] = {}
    down = model.model.layers[1].mlp.down_proj
    with apply(model, LayerPlan(LAYERS, channels={0: plan.channels[0]}, tuned=first)):
        handles = [
            down.register_forward_hook(lambda m, args, out: seen.update(x=args[0], y=out)),
            model.model.layers[1].register_forward_pre_hook(lambda m, args: seen.update(hidden=args[0])),
        ]
        logits(model, ids)
        for handle in handles:
            handle.remove()
    kept = [channel for channel in range(48) if channel not in plan.channels[1]]
    share = 1 / seen["hidden"].flatten(0, 1).norm(dim=-1, keepdim=True)  # every token by the size of its hidden state
    x, y = ((seen[name].flatten(0, 1) * share).double() for name in ("x", "y"))
    x = x[:, kept]
    missed = float((x @ plan.tuned["layers.1.mlp.down_proj.weight"].double().T - y).square().sum())
    best = float((x @ torch.linalg.lstsq(x, y).solution - y).square().sum())
    cut = float((x @ down.weight.detach()[:, kept].double().T - y).square().sum())
    assert best <= missed < 1.001 * best < 0.9 * cut


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_one_layer_at_a_time(dtype: torch.dtype) -> None:
    model = own("qwen2").to(dtype)  # with biases
    plan = Slicer(model, IDS[:4]).plan(SliceSettings(0.25, 0.3, "output", reconstruct="least-squares", multiple=8))
    assert {tensor.dtype for tensor in plan.tuned.values()} == {dtype}
    with apply(model, plan):
        assert bool(logits(model, X).isfinite().all())


def test_texts_of_different_lengths_are_read_apart() -> None:
    model = own("mistral")
    texts = [IDS[0], IDS[1][:7], IDS[2], IDS[3][:7], []]
    settings = SliceSettings(channels=0.25, multiple=4, reconstruct="gain")
    plan = Slicer(model, texts).plan(settings)
    assert plan.channels and Slicer(model, texts[::-1]).plan(settings).channels == plan.channels


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "calibration: no tokens; give texts"),
        ([[]], "calibration: no tokens; give texts"),
        ([[5, 97]], "calibration: token 97 is not among the model's 97"),
    ],
)
def test_texts_that_cannot_be_read(ids: list[list[int]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Slicer(own(), ids).plan(SliceSettings(channels=0.25, multiple=4))


def test_models_that_cannot_be_sliced() -> None:
    model = own()
    with apply(model, LayerPlan(LAYERS, mlp=(1,))), pytest.raises(ModelError, match="has a layer plan already"):
        Slicer(model, IDS)
    model.model.layers[2].mlp.down_proj = torch.nn.Sequential(model.model.layers[2].mlp.down_proj)
    with pytest.raises(ModelError, match="channels of layer 2: a projection is Sequential; only plain linear layers"):
        Slicer(model, IDS).plan(SliceSettings(channels=0.25, multiple=4))
    assert Slicer(model, IDS).plan(SliceSettings(heads=0.25)).heads  # its attention is as ever
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"importance of heads of layer 1 is not finite"):
        Slicer(model, IDS).plan(SliceSettings(heads=0.25))


def test_a_kv_group_is_never_split() -> None:
    plan = Slicer(own(), IDS).plan(SliceSettings(heads=0.25))
    layer, heads = next(iter(plan.heads.items()))
    with pytest.raises(ModelError, match=f"heads of layer {layer}: head .* cannot go without the rest of its KV group"):
        apply(own(), LayerPlan(LAYERS, heads={layer: heads[:1]}))
