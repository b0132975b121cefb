"""The fused decoder gives the model's results: on every architecture, over evicted caches, in any chunks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from erecap.decoding import linear
from erecap.decoding.attention import fold_mask, grouped_attention
from erecap.decoding.fused import FusedDecoder, fused_problem, norm_in_one, norm_of_few
from erecap.decoding.linear import Head, make_product
from erecap.decoding.short import short_reads
from erecap.tokens import PruneConfig, attach
from erecap.tokens.cache.pruned_cache import PrunedCache
from tests.tokens.models import ARCHITECTURES, LAYERS, tiny

CHUNKS = (1, 1, 5, 1, 12, 20)


def _ids(count: int) -> list[int]:
    return torch.randint(2, 97, (count,), generator=torch.Generator().manual_seed(4)).tolist()


def _logits(name: str, weights: str | None, chunks: tuple[int, ...] = CHUNKS) -> tuple[torch.Tensor, PrunedCache]:
    """Logits after 20 tokens read by the model, some of them evicted, and `chunks` read fused or by the model."""
    model = tiny(name)
    cache = PrunedCache(PruneConfig(keep=1.0, stages=()), LAYERS)
    ids, rows = _ids(20 + sum(chunks)), []
    with torch.no_grad(), attach(model, cache):
        model(input_ids=torch.tensor([ids[:20]]), past_key_values=cache, use_cache=True)
        cache.drop(lambda layout: (layout.index[0] > 5) & (layout.index[0] < 9))
        place = 20
        for count in chunks:
            part = ids[place : place + count]
            if weights is None:
                rows.append(model(input_ids=torch.tensor([part]), past_key_values=cache, use_cache=True).logits[0])
            else:
                rows.append(FusedDecoder(model, weights).read(cache, part, place))  # type: ignore[arg-type]
            place += count
    return torch.cat(rows), cache


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_same_logits_and_keys_as_the_model(name: str) -> None:
    wanted, there = _logits(name, None)
    found, here = _logits(name, "same")
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    assert here.kept_lengths() == there.kept_lengths()
    for mine, theirs in zip(here.layers, there.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine.values, theirs.values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_weights_come_close(name: str) -> None:
    wanted, _ = _logits(name, None)
    found, _ = _logits(name, "int8")
    error = (found - wanted).norm() / wanted.norm()
    assert 0 < error < 0.05
    assert (found.argmax(-1) == wanted.argmax(-1)).float().mean() > 0.9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_models_in_half_precision(name: str, dtype: torch.dtype) -> None:
    model = copy.deepcopy(tiny(name)).to(dtype)
    found = []
    for weights in (None, "same", "int8", "int4"):
        cache = PrunedCache(PruneConfig(keep=1.0, stages=()), LAYERS)
        flat = FusedDecoder(model, weights) if weights else None  # type: ignore[arg-type]
        rows = []
        with torch.no_grad(), attach(model, cache):
            model(input_ids=torch.tensor([_ids(20)]), past_key_values=cache, use_cache=True)
            for place, ids in ((20, [5]), (21, [7, 8, 9])):
                if flat is None:
                    rows.append(model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True).logits[0])
                else:
                    rows.append(flat.read(cache, ids, place))
        found.append(torch.cat(rows).float())
    for logits in found[1:]:
        assert (logits - found[0]).norm() < 0.1 * found[0].norm()


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 32, 33])
@pytest.mark.parametrize("other_way", [False, True])
def test_products_in_either_order(rows: int, other_way: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_other_way_round", lambda *shape: other_way)
    generator = torch.Generator().manual_seed(6)
    first, second, x = (torch.randn(shape, generator=generator) for shape in ((24, 16), (8, 16), (rows, 16)))
    bias = torch.randn(8, generator=generator)
    wanted = torch.cat([x @ first.T, x @ second.T + bias], -1)
    torch.testing.assert_close(make_product([first, second], [None, bias], "same")(x), wanted, rtol=1e-5, atol=1e-5)


def test_rows_of_a_packed_product_do_not_influence_each_other() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, x = (torch.randn(shape, generator=generator) for shape in ((128, 64), (8, 64)))
    for product in (make_product([weight], [None], "int8"), Head(weight, None, "int8")):
        x[3] *= 1000  # a row with large values would coarsen the others if they shared a scale
        together = product(x)
        apart = torch.cat([product(row.unsqueeze(0)) for row in x])
        assert torch.equal(together, apart)
        x[3] /= 1000


def test_four_bits_where_they_lose_nothing_and_eight_elsewhere() -> None:
    generator = torch.Generator().manual_seed(2)
    steps = torch.randint(0, 16, (64, 4, 32), generator=generator)
    steps[..., 0], steps[..., 1] = 0, 15
    grid = ((steps - 7).float() * 0.125).view(64, 128)  # exact in four bits with scales that bfloat16 holds
    x = torch.randn(3, 128, generator=generator).bfloat16().float()
    exact = x @ grid.T
    assert (make_product([grid], [None], "int4")(x) - exact).norm() / exact.norm() < 4e-3
    rough = torch.randn(64, 128, generator=generator)
    eight, four = (make_product([rough], [None], kind)(x) for kind in ("int8", "int4"))
    assert torch.equal(eight, four)


def test_the_head_keeps_more_digits_than_eight_bits_of_activations() -> None:
    generator = torch.Generator().manual_seed(3)
    weight, x = (torch.randn(shape, generator=generator) for shape in ((256, 64), (4, 64)))
    scale = weight.abs().amax(1) / 127
    rounded = (weight / scale[:, None]).round() * scale[:, None]  # what is lost is the weights' share alone
    bias = torch.randn(256, generator=generator)
    wanted = x @ rounded.T + bias
    assert (Head(weight, bias, "int8")(x) - wanted).abs().max() < 2e-3 * wanted.abs().max()


@pytest.mark.parametrize("make", [norm_of_few, norm_in_one])
def test_norms_are_those_of_transformers(make: Any) -> None:
    wanted = LlamaRMSNorm(12, eps=1e-3)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        wanted.weight.copy_(torch.randn(12, generator=generator))
        x = torch.randn(5, 12, generator=generator)
        torch.testing.assert_close(make(wanted.weight, 1e-3)(x), wanted(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("queries", [1, 3, 40])
@pytest.mark.parametrize("heads", [2, 6])
def test_grouped_attention_is_attention(queries: int, heads: int) -> None:
    generator = torch.Generator().manual_seed(5)
    query = torch.randn(queries, heads, 8, generator=generator)
    key, value = torch.randn(2, 1, 2, 50, 8, generator=generator)
    mask = torch.ones(1, 1, queries, 50, dtype=torch.bool).tril(50 - queries)
    wanted = nn.functional.scaled_dot_product_attention(
        query.transpose(0, 1)[None], key, value, attn_mask=mask, scale=0.3, enable_gqa=True
    )[0]
    found = grouped_attention(query, key, value, fold_mask(mask, heads // 2, torch.float32), 0.3)
    torch.testing.assert_close(found.view(queries, heads, 8).transpose(0, 1), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("queries", [1, 40])
def test_kernels_may_return_heads_inside_tokens(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA what attention returns is laid out as (batch, rows, heads, dim), and no view of the other order."""
    query = torch.randn(queries, 6, 8, generator=torch.Generator().manual_seed(6))
    key, value = torch.randn(2, 1, 2, 50, 8, generator=torch.Generator().manual_seed(7))
    mask = fold_mask(torch.ones(1, 1, queries, 50, dtype=torch.bool).tril(50 - queries), 3, torch.float32)
    wanted = grouped_attention(query, key, value, mask, 0.3)
    real = nn.functional.scaled_dot_product_attention

    def laid_out(*args: Any, **options: Any) -> torch.Tensor:
        return real(*args, **options).transpose(1, 2).contiguous().transpose(1, 2)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", laid_out)
    assert torch.equal(grouped_attention(query, key, value, mask, 0.3), wanted)


@pytest.mark.parametrize("where", ["layer", "head"])
def test_a_read_that_fails_leaves_the_cache_as_it_was(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, cache = _logits("llama", "same", (1,))
    flat = FusedDecoder(tiny("llama"))
    part, name = (flat.blocks[3], "_down") if where == "layer" else (flat, "head")
    monkeypatch.setattr(part, name, lambda x: (_ for _ in ()).throw(MemoryError("planted")))
    before = [layer.keys.clone() for layer in cache.layers]
    with pytest.raises(MemoryError):
        flat.read(cache, [5, 6], 21)
    assert cache.get_seq_length() == 21 and cache.reading is None
    assert all(torch.equal(layer.keys, keys) for layer, keys in zip(cache.layers, before, strict=True))


def test_hooks_of_others_are_not_bypassed() -> None:
    model = tiny("llama")
    reads = short_reads(model)
    assert reads.decoder(1, decode=True) is not None and reads.decoder(1000, decode=True) is None
    handle = model.model.layers[2].mlp.register_forward_hook(lambda module, args, output: output)
    assert reads.decoder(1, decode=True) is None
    handle.remove()
    assert reads.decoder(1, decode=True) is not None


def test_packed_weights_are_made_again_when_the_model_changes() -> None:
    model = tiny("qwen2")
    first = short_reads(model, "int8").packed
    assert short_reads(model, "int8").packed is first
    with torch.no_grad():
        model.lm_head.weight.mul_(1.0)
    assert short_reads(model, "int8").packed is not first


def test_models_it_does_not_know_are_read_by_themselves() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    other = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32))
    assert fused_problem(other) is not None
    assert short_reads(other).decoder(1, decode=True) is None
    with pytest.raises(ValueError, match="GPT2LMHeadModel cannot be read with weights='int8'"):
        short_reads(other, "int8")
    with pytest.raises(ValueError, match="unknown decode weights 'int2'; allowed: same, int8, int4"):
        short_reads(tiny("llama"), "int2")  # type: ignore[arg-type]
