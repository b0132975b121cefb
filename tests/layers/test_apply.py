"""A plan is the model with those parts as identities; its undo is bit for bit."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from transformers import DynamicCache, StaticCache

from erecap.errors import ModelError
from erecap.layers import Base, LayerPlan, apply, masked, plan_of, with_plan
from erecap.models import fingerprint
from tests.layers.plans import PLANS, expected_logits, identities, logits, own, weights
from tests.tokens.models import ARCHITECTURES, LAYERS, padded, prompt, tiny

EACH = pytest.mark.parametrize("kind", PLANS)
NAMED = pytest.mark.parametrize("name", ARCHITECTURES)
IDS = prompt(40)["input_ids"]


@EACH
@NAMED
def test_a_plan_equals_the_model_with_identities(name: str, kind: str) -> None:
    model = own(name)
    before, config, dense = weights(model), model.config.to_dict(), logits(model, IDS)
    with apply(model, PLANS[kind]) as applied:
        found = logits(model, IDS, use_cache=False)
        assert plan_of(model) is PLANS[kind] is applied.plan
    expected = expected_logits(name, PLANS[kind], IDS)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(found, dense, atol=1e-2 * float(dense.abs().max()))  # the plan does something
    after = weights(model)
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)
    assert torch.equal(logits(model, IDS), dense) and model.config.to_dict() == config and plan_of(model) is None


@EACH
@NAMED
def test_masking_is_the_same_without_changing_a_module(name: str, kind: str) -> None:
    model = tiny(name)
    with masked(model, PLANS[kind]):
        found = logits(model, IDS)
    assert torch.allclose(found, expected_logits(name, PLANS[kind], IDS), atol=1e-4)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@EACH
@NAMED
def test_generate_equals_the_model_with_identities(name: str, kind: str) -> None:
    """Plain `generate`, a padded batch and beams too: stock caches count right, whatever stores nothing."""
    model, plan = own(name), PLANS[kind]
    batch = padded((30, 22))
    for inputs in (prompt(30), batch):
        for options in ({}, {"num_beams": 2}):
            with identities(tiny(name), plan):
                expected = tiny(name).generate(**inputs, max_new_tokens=12, do_sample=False, **options)
            with apply(model, plan):
                assert torch.equal(model.generate(**inputs, max_new_tokens=12, do_sample=False, **options), expected)


@pytest.mark.parametrize("kind", ["attention", "all"])
def test_other_stock_caches_and_eager_attention(kind: str) -> None:
    model = own("llama", "eager")
    with apply(model, PLANS[kind]):
        whole = logits(model, IDS, use_cache=False)
        for cache in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=64)):
            for part in (IDS[:, :25], IDS[:, 25:26], IDS[:, 26:]):
                found = logits(model, part, past_key_values=cache)
            assert torch.allclose(found, whole[:, 26:], atol=1e-3)


@pytest.mark.parametrize("kind", PLANS)
def test_layers_are_numbered_anew(kind: str) -> None:
    model = own("gemma3")
    with apply(model, PLANS[kind]):
        layers = model.model.layers
        assert [layer.self_attn.layer_idx for layer in layers] == list(range(len(layers)))
        assert model.config.num_hidden_layers == len(layers) == len(model.config.layer_types)
        assert [layer.self_attn.layer_type for layer in layers if hasattr(layer.self_attn, "layer_type")] == [
            model.config.layer_types[n] for n, layer in enumerate(layers) if hasattr(layer.self_attn, "layer_type")
        ]
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == list(range(LAYERS))


def test_tuned_weights_replace_the_base_s_and_go_again() -> None:
    model = own()
    tuned = torch.randn(32, 48)
    plan = LayerPlan(LAYERS, blocks=(1,), tuned={"layers.5.mlp.down_proj.weight": tuned})
    old = model.model.layers[5].mlp.down_proj.weight
    with apply(model, plan):
        assert torch.equal(model.model.layers[4].mlp.down_proj.weight, tuned)
    assert model.model.layers[5].mlp.down_proj.weight is old
    sliced = LayerPlan(LAYERS, channels={5: (0,)}, tuned={"layers.5.mlp.down_proj.weight": tuned[:, 1:]})
    with apply(model, sliced):
        assert torch.equal(model.model.layers[5].mlp.down_proj.weight, tuned[:, 1:])
        assert model.model.layers[5].mlp.down_proj.in_features == 47
    with pytest.raises(ModelError, match=r"tuned weight layers.5.mlp.down_proj.weight is \[32, 48\], .* \[32, 47\]"):
        apply(model, LayerPlan(LAYERS, channels={5: (0,)}, tuned={"layers.5.mlp.down_proj.weight": tuned}))
    with pytest.raises(ModelError, match=r"tuned weight layers.5.mlp.down_proj.bias: the model has none"):
        apply(model, LayerPlan(LAYERS, tuned={"layers.5.mlp.down_proj.bias": tuned[:, 0]}))
    assert torch.equal(logits(model, IDS), logits(tiny("llama"), IDS))


def test_half_precision() -> None:
    model = own().bfloat16()
    with apply(model, PLANS["all"]):
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}


@EACH
def test_memory_is_freed_on_request_and_measured(kind: str) -> None:
    model, plan = own(), PLANS[kind]
    weight_bytes = lambda: sum(p.untyped_storage().nbytes() for p in model.parameters())  # noqa: E731
    before, watched = weight_bytes(), [weakref.ref(p) for p in model.parameters()]
    applied = apply(model, plan)
    gc.collect()
    assert all(ref() is not None for ref in watched) and applied.freed_bytes == 0
    assert applied.removed_bytes == before - weight_bytes() > 0
    assert applied.free() == applied.removed_bytes == applied.freed_bytes
    left = {id(p) for p in model.parameters()}
    assert all(ref() is None or id(ref()) in left for ref in watched)
    with pytest.raises(ModelError, match="the memory of what the layer plan removed was freed; load the model again"):
        applied.undo()
    expected = expected_logits("llama", plan, IDS)
    assert torch.allclose(logits(model, IDS), expected, atol=1e-4 * float(expected.abs().max()))


def test_memory_that_somebody_holds_is_not_counted_as_freed() -> None:
    model = own()
    held = model.model.layers[4].mlp.down_proj.weight
    applied = apply(model, PLANS["blocks"])
    assert applied.free() == applied.removed_bytes - held.nbytes
    del held
    assert applied.freed_bytes == applied.removed_bytes


def test_an_undone_plan_frees_nothing() -> None:
    model = own()
    applied = apply(model, PLANS["blocks"])
    applied.undo()
    applied.undo()
    with pytest.raises(ModelError, match="was undone; there is nothing to free"):
        applied.free()


def test_a_model_with_a_plan_beside_the_model_shares_its_weights() -> None:
    model = own("gemma3")
    dense = logits(model, IDS)
    twin = with_plan(model, PLANS["all"])
    assert torch.equal(logits(model, IDS), dense) and plan_of(model) is None and plan_of(twin) is PLANS["all"]
    expected = expected_logits("gemma3", PLANS["all"], IDS)
    assert torch.allclose(logits(twin, IDS), expected, atol=1e-4 * float(expected.abs().max()))
    assert twin.model.embed_tokens.weight is model.model.embed_tokens.weight
    assert twin.model.layers[1].mlp.up_proj.weight is model.model.layers[1].mlp.up_proj.weight
    assert twin.config is not model.config and model.config.num_hidden_layers == LAYERS


def test_what_is_refused_leaves_the_model_as_it_was() -> None:
    model = own()
    base = Base("tiny", fingerprint(model))
    cases = {
        LayerPlan(6, blocks=(1,)): "for a model of 6 layers, this one has 8",
        LayerPlan(LAYERS, heads={2: (1,)}): r"heads of layer 2: head 1 cannot go without the rest of its KV group 0, 1",
        LayerPlan(LAYERS, heads={2: (4, 5)}): "heads of layer 2: got 5; allowed: 0 to 3",
        LayerPlan(LAYERS, heads={2: (0, 1, 2, 3)}): "all 4 are named; name the layer under attention",
        LayerPlan(LAYERS, channels={2: (48,)}): "channels of layer 2: got 48; allowed: 0 to 47",
        LayerPlan(LAYERS, channels={2: tuple(range(48))}): "all 48 are named; name the layer under mlp",
        LayerPlan(LAYERS, mlp=(1,), base=Base("other", "sha256:" + "0" * 64)): (
            f"made for other, weights sha256:{'0' * 16} with no adapter; this model is LlamaForCausalLM"
        ),
        LayerPlan(LAYERS, mlp=(1,), base=Base("tiny", base.hash, "sha256:" + "1" * 64)): "with adapter sha256:1111",
    }
    before = weights(model)
    for plan, message in cases.items():
        with pytest.raises(ModelError, match=message):
            apply(model, plan)
        after = weights(model)
        assert all(torch.equal(after[key], before[key]) for key in before) and plan_of(model) is None
    apply(model, LayerPlan(LAYERS, mlp=(1,), base=base)).undo()
    with apply(model, PLANS["mlp"]), pytest.raises(ModelError, match="has a layer plan already; undo it first"):
        apply(model, PLANS["mlp"])
    with pytest.raises(ModelError, match="is in training mode"):
        apply(model.train(), PLANS["mlp"])


def test_models_that_cannot_have_a_plan() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=2)).eval()
    with pytest.raises(ModelError, match="GPT2LMHeadModel has no list of decoder layers; a layer plan needs"):
        apply(gpt2, LayerPlan(2, mlp=(1,)))
    model = own()
    model.model.layers[3].self_attn.q_proj = torch.nn.Sequential(model.model.layers[3].self_attn.q_proj)
    with pytest.raises(ModelError, match="heads of layer 3: a projection is Sequential, not a plain linear layer"):
        apply(model, LayerPlan(LAYERS, heads={3: (0, 1)}))
    model.model.layers[2].mlp.forward = lambda x: x + torch.rand(())
    with pytest.raises(ModelError, match="it computes other logits than with the same parts masked"):
        apply(model, LayerPlan(LAYERS, mlp=(1,)))
    assert plan_of(model) is None
