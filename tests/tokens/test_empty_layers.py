"""A layer that stores nothing: its layout has width 0, and everything else goes on as without it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erecap.decoding.fused import fused_problem
from erecap.engines.cache_files import StoredKind, load_cache, save_cache
from erecap.engines.rotate_keys import KeyRotator
from erecap.engines.transformers import TransformersEngine
from erecap.tokens import PruneConfig, attach
from erecap.tokens.cache.layout import Layout
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.revival import revive
from tests.tokens.models import LAYERS, padded, prompt, tiny, without_attention

UNPRUNED = PruneConfig(keep=1.0, stages=())
WHERE = pytest.mark.parametrize("empty", [0, 3, LAYERS - 1])


def read(model, cache: PrunedCache, ids: torch.Tensor) -> torch.Tensor:  # type: ignore[no-untyped-def]
    with attach(model, cache), torch.no_grad():
        return model(ids, past_key_values=cache).logits


def holey(empty: int, tokens: int = 30, config: PruneConfig = UNPRUNED):  # type: ignore[no-untyped-def]
    """The model, its cache after a first read, and what was read."""
    model, cache = without_attention(tiny("llama"), empty), PrunedCache(config, LAYERS)
    ids = prompt(60)["input_ids"]
    read(model, cache, ids[:, :tokens])
    return model, cache, ids


def expected(width: int, empty: int) -> list[int]:
    return [0 if layer == empty else width for layer in range(LAYERS)]


def same(one: PrunedCache, other: PrunedCache) -> None:
    assert one.kept_lengths() == other.kept_lengths() and one.get_seq_length() == other.get_seq_length()
    for layer in range(LAYERS):
        assert one.stores(layer) == other.stores(layer)
        assert torch.equal(one.layout(layer).index, other.layout(layer).index)
        assert torch.equal(one.layout(layer).positions, other.layout(layer).positions)
        if one.stores(layer):
            assert torch.equal(one.layers[layer].keys, other.layers[layer].keys)
            assert torch.equal(one.layers[layer].values, other.layers[layer].values)


def test_nothing_is_stored_before_the_first_read() -> None:
    cache = PrunedCache(UNPRUNED, LAYERS)
    assert [layout.width for layout in cache.layouts()] == [0] * LAYERS and cache.kept_lengths(0) == [0] * LAYERS
    assert cache.kv_bytes() == 0 and len(cache.stored_index()) == 0 and cache.shares_layout
    assert cache.drop(lambda layout: torch.ones(layout.width, dtype=torch.bool)) == 0
    cache.crop(0)
    assert cache.fork().kept_lengths() == [0] * LAYERS


def test_an_empty_layout_fits_every_batch() -> None:
    live = Layout(torch.zeros(3, 2).long(), torch.zeros(3, 2).long(), torch.ones(3, 2).bool(), True)
    assert Layout.empty().extended(live) is live
    nothing = Layout.empty()
    assert nothing.rows(torch.tensor([2, 0])) is nothing and nothing.lengths() == [0] and nothing.span == 0


@WHERE
def test_reads_are_those_of_the_model(empty: int) -> None:
    model, cache, ids = holey(empty)
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
    assert torch.allclose(read(model, cache, ids[:, 30:]), whole[:, 30:], atol=1e-3)
    assert cache.kept_lengths() == expected(60, empty) and not cache.shares_layout
    assert cache.stored_index().tolist() == list(range(60))
    full = PrunedCache(UNPRUNED, LAYERS)
    read(tiny("llama"), full, ids)
    assert cache.kv_bytes() == full.kv_bytes() * (LAYERS - 1) // LAYERS
    assert fused_problem(model) == "the attention of one of its layers is NoAttention"


@WHERE
def test_edits(empty: int) -> None:
    model, cache, ids = holey(empty)
    assert cache.drop(lambda layout: (layout.index[0] >= 5) & (layout.index[0] < 12)) == 7
    assert cache.kept_lengths() == expected(23, empty)
    index = cache.stored_index()
    assert index.tolist() == [*range(5), *range(12, 30)]
    cache.move(KeyRotator(model), index, torch.arange(23))
    for layer in range(LAYERS):
        assert cache.layout(layer).positions[0].tolist() == ([] if layer == empty else list(range(23)))
    cache.crop(-10)
    assert cache.kept_lengths() == expected(13, empty) and cache.get_seq_length() == 20
    read(model, cache, ids[:, :4])
    assert cache.kept_lengths() == expected(17, empty)
    cache.reset()
    assert cache.kept_lengths() == [0] * LAYERS


@WHERE
def test_forks_and_files(empty: int, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model, cache, ids = holey(empty)
    cache.drop(lambda layout: layout.index[0] == 7)
    twin = cache.fork()
    same(twin, cache)
    known = {"a": 1, "logical": cache.get_seq_length(), "state": {"shift": 0}}
    engine = TransformersEngine(model)
    save_cache(tmp_path / "s.safetensors", cache, {"ids": np.arange(2)}, known, engine)
    loaded = PrunedCache(UNPRUNED, LAYERS)
    kind = StoredKind(model.dtype, (model.device,) * 8, engine.window, model.config.hidden_size)
    arrays, found = load_cache(tmp_path / "s.safetensors", loaded, kind, engine)
    assert found == {**known, "layers": LAYERS} and {name: list(ids) for name, ids in arrays.items()} == {"ids": [0, 1]}
    same(loaded, cache)
    logits = [read(model, one, ids[:, 30:40]) for one in (cache, twin, loaded)]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    same(twin, cache)
    same(loaded, cache)


@WHERE
def test_a_read_that_fails_is_undone(empty: int) -> None:
    model, cache, ids = holey(empty)
    before = cache.fork()
    handle = model.model.layers[5].mlp.register_forward_pre_hook(lambda m, a: (_ for _ in ()).throw(OSError("x")))
    with pytest.raises(OSError):
        read(model, cache, ids[:, 30:35])
    handle.remove()
    same(cache, before)
    assert torch.equal(read(model, cache, ids[:, 30:35]), read(model, before, ids[:, 30:35]))


@WHERE
def test_rows_of_a_batch(empty: int) -> None:
    model, cache, batch = without_attention(tiny("llama"), empty), PrunedCache(UNPRUNED, LAYERS), padded((20, 15))
    with attach(model, cache), torch.no_grad():
        model(**batch, past_key_values=cache)
    assert cache.kept_lengths(1) == expected(15, empty) and cache.kept_lengths() == expected(20, empty)
    cache.reorder_cache(torch.tensor([1, 0]))
    assert cache.kept_lengths(1) == expected(20, empty)
    cache.batch_repeat_interleave(2)
    assert cache.kept_lengths(1) == expected(15, empty) and cache.kept_lengths(3) == expected(20, empty)
    cache.batch_select_indices(torch.tensor([0]))
    assert cache.kept_lengths() == expected(15, empty)


@pytest.mark.parametrize("empty", [0, 1, 2, 3, LAYERS - 1])
def test_pruned_tokens_are_parked_and_revived(empty: int) -> None:
    """Also where the layer before a stage is the one that stores nothing."""
    config = PruneConfig("recency", 0.5, (2, 4), park_tokens=30)
    model, cache, _ = holey(empty, 30, config)
    parked = len(cache.parking)
    assert parked > 8
    # A token that its deepest layer with keys still stores stays parked; one that goes is parked no longer.
    assert cache.drop(lambda layout: layout.index[0] == 29) and len(cache.parking) == parked
    gone = cache.parking.places()[0]
    cache.drop(lambda layout: layout.index[0] == gone)
    assert gone not in cache.parking.places() and len(cache.parking) == parked - 1
    assert revive(model, cache) == parked - 1
    assert cache.kept_lengths() == [0 if layer == empty else 28 for layer in range(LAYERS)]
