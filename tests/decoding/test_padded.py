"""Attention of several short reads in one call gives the results of one call each, and stores the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.decoding.fused import FusedDecoder
from erecap.decoding.padded import FEW_TOKENS
from erecap.tokens import PruneConfig, attach
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.ragged import Part
from tests.tokens.models import ARCHITECTURES, LAYERS, tiny

Read = tuple[int, int, int]  # tokens before, of these dropped, tokens to read


def _ids(count: int, seed: int) -> list[int]:
    return torch.randint(2, 97, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def _cache(model: torch.nn.Module, stored: int, dropped: int, seed: int) -> PrunedCache:
    cache = PrunedCache(PruneConfig(keep=1.0, stages=()), LAYERS)
    if stored:
        with torch.no_grad(), attach(model, cache):
            model(input_ids=torch.tensor([_ids(stored, seed)]), past_key_values=cache, use_cache=True)
        cache.drop(lambda layout: (layout.index[0] > 1) & (layout.index[0] < 2 + dropped))
    return cache


def _read(name: str, reads: list[list[Read]], pads: bool) -> tuple[list[torch.Tensor], list[PrunedCache]]:
    """Logits and caches after several rounds of shared calls; `reads` says what is there before the first."""
    model = tiny(name)
    flat = FusedDecoder(model)
    flat.pads = pads
    caches = [_cache(model, stored, dropped, seed) for seed, (stored, dropped, _) in enumerate(reads[0])]
    found = []
    for number, round_ in enumerate(reads):
        parts = [
            Part(cache, _ids(count, 50 + 10 * number + place), cache.get_seq_length(), 0, {})
            for place, (cache, (_, _, count)) in enumerate(zip(caches, round_, strict=True))
        ]
        with torch.no_grad(), attach(model, caches[0]):
            found += flat.read_together(parts)
        found += [mass for part in parts for mass in (part.collect or {}).values()]
        for cache, (_, dropped, _) in zip(caches, round_, strict=True):
            # Between calls some is rolled back, and some evicted: of joined layers, in one operation.
            cache.crop(-1)
            cache.drop(lambda layout, dropped=dropped: (layout.index[0] > 3) & (layout.index[0] < 4 + dropped))
    return found, caches


def _compare(name: str, reads: list[list[Read]]) -> None:
    wanted, there = _read(name, reads, pads=False)
    found, here = _read(name, reads, pads=True)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(here, there, strict=True):
        assert mine.kept_lengths() == theirs.kept_lengths()
        assert mine.get_seq_length() == theirs.get_seq_length()
        for own, other in zip(mine.layers, theirs.layers, strict=True):
            torch.testing.assert_close(own.keys, other.keys, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(own.values, other.values, rtol=1e-4, atol=1e-4)
        for own, other in zip(mine.layouts(), theirs.layouts(), strict=True):
            assert torch.equal(own.index, other.index)
            assert torch.equal(own.positions, other.positions)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(name: str) -> None:
    first = [(20, 0, 1), (9, 3, 7), (0, 0, 12), (33, 20, 1)]
    _compare(name, [first, [(0, 0, 1), (0, 2, 1), (0, 4, 5), (0, 0, 3)], [(0, 0, 1)] * 4])


def test_long_reads_stand_beside_short_ones() -> None:
    _compare("llama", [[(20, 3, 2), (5, 0, FEW_TOKENS + 1), (8, 0, 3)], [(0, 2, 1)] * 3])


_round = st.tuples(st.integers(0, 3), st.integers(1, 9))


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 16, 17, 40]), st.integers(0, 5)), min_size=2, max_size=4),
    st.lists(st.lists(_round, min_size=4, max_size=4), min_size=1, max_size=4),
)
def test_any_history(begins: list[tuple[int, int]], rounds: list[list[tuple[int, int]]]) -> None:
    reads: list[list[Read]] = [[(*begin, 4) for begin in begins]]
    reads += [[(0, *read) for read in round_[: len(begins)]] for round_ in rounds]
    _compare("llama", reads)


def test_a_call_that_fails_leaves_the_caches_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    flat = FusedDecoder(model)
    flat.pads = True
    caches = [_cache(model, stored, 0, stored) for stored in (6, 0, 11)]
    before = [[layer.keys.clone() for layer in cache.layers] for cache in caches]

    def broken(*args: object) -> torch.Tensor:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch, attach(model, caches[0]):
        patch.setattr(flat, "head", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            flat.read_together([Part(cache, [5, 6], cache.get_seq_length()) for cache in caches])
    for cache, keys in zip(caches, before, strict=True):
        assert cache.kept_lengths()[0] == (keys[0].shape[2] if keys else 0)
        assert cache.get_seq_length() == (keys[0].shape[2] if keys else 0)
        for layer, wanted in zip(cache.layers, keys, strict=True):
            assert torch.equal(layer.keys, wanted)
