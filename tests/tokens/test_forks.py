"""Forks share stored tokens, equal copies to the bit, and never affect each other."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erecap.decoding.short import short_reads
from erecap.engines.rotate_keys import KeyRotator
from erecap.tokens import PruneConfig, attach
from erecap.tokens.cache import shared_storage
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.cache.shared_storage import stored_bytes
from erecap.tokens.cache.storage import KVLayer
from erecap.tokens.ragged import Part
from tests.tokens.models import LAYERS, tiny

UNPRUNED = PruneConfig(keep=1.0, stages=())


def storages(caches: Iterable[PrunedCache]) -> dict[int, int]:
    """Bytes of all distinct memory behind the keys and values of `caches`, by address."""
    found = [tensor.untyped_storage() for cache in caches for layer in cache.layers for tensor, _ in layer.held()]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


def memory(*caches: PrunedCache) -> int:
    return sum(storages(caches).values())


def words(tokens: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(2, 97, (1, tokens), generator=torch.Generator().manual_seed(seed))


def read(cache: PrunedCache, ids: torch.Tensor) -> torch.Tensor:
    model, start = tiny("llama"), _next(cache)
    positions = torch.arange(start, start + ids.shape[1]).unsqueeze(0)
    with attach(model, cache), torch.no_grad():
        for chunk, places in zip(ids.split(500, 1), positions.split(500, 1), strict=True):
            logits = model(chunk, position_ids=places, past_key_values=cache, logits_to_keep=1).logits
    return logits


def _next(cache: PrunedCache) -> int:
    positions = cache.layout(0).positions
    return int(positions.max()) + 1 if positions.numel() else 0


def started(tokens: int, config: PruneConfig = UNPRUNED) -> PrunedCache:
    cache = PrunedCache(config, LAYERS)
    read(cache, words(tokens))
    return cache


def copied(cache: PrunedCache) -> PrunedCache:
    """An independent cache without shared buffers, which a fork must equal."""
    twin = PrunedCache(cache.config, LAYERS)
    for number, layer in enumerate(cache.layers):
        twin.restore(number, layer.keys.clone(), layer.values.clone(), cache.layout(number))
    twin.skip(cache.get_seq_length())
    twin.parking = cache.parking.copy()
    return twin


def assert_same(cache: PrunedCache, wanted: PrunedCache) -> None:
    assert cache.get_seq_length() == wanted.get_seq_length() and cache.kv_bytes() == wanted.kv_bytes()
    for number, (layer, other) in enumerate(zip(cache.layers, wanted.layers, strict=True)):
        for name in ("index", "positions", "valid"):
            assert torch.equal(getattr(cache.layout(number), name), getattr(wanted.layout(number), name))
        assert layer.length == cache.layout(number).width
        if other.length or layer.length:
            assert torch.equal(layer.keys, other.keys) and torch.equal(layer.values, other.values)


def assert_all_same(caches: list[PrunedCache], copies: list[PrunedCache]) -> None:
    for cache, copy in zip(caches, copies, strict=True):
        assert_same(cache, copy)
        assert cache.parking.places() == copy.parking.places()


# Memory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [True, False])
def test_eight_forks_of_a_long_cache_cost_hardly_more_than_one(room: bool) -> None:
    cache = started(4000)
    if not room:  # as after an eviction or from a file: the buffers are full
        cache.drop(lambda layout: layout.index[0] == 9)
    alone = memory(cache)
    forks = [cache.fork() for _ in range(8)]
    copies = [copied(cache) for _ in range(8)]
    for number, (fork, copy) in enumerate(zip(forks, copies, strict=True)):
        assert torch.equal(read(fork, words(1, number)), read(copy, words(1, number)))
    assert memory(cache, *forks) < 1.1 * alone
    assert stored_bytes(layer for one in (cache, *forks) for layer in one.layers) == cache.kv_bytes() + 8 * (
        cache.kv_bytes() // cache.layout(0).width
    )
    for fork, copy in zip(forks, copies, strict=True):
        assert_same(fork, copy)
    forks.clear()
    del fork
    assert memory(cache) == alone


def test_reading_one_token_never_copies_what_is_shared() -> None:
    cache = started(1000)
    twin, before = cache.fork(), memory(cache)
    assert memory(cache, twin) == before  # a fork that reads nothing costs nothing
    read(twin, words(1))
    assert memory(cache, twin) == before and not twin.layers[0].front  # the first one appends in place
    read(cache, words(1, 2))
    assert len(cache.layers[0].front) == 1  # the second one behind it
    assert memory(cache, twin) < 1.05 * before


def test_one_that_is_left_alone_has_one_buffer_again() -> None:
    cache = started(1000)
    twin, copy = cache.fork(), copied(cache)
    read(twin, words(3))
    for number in range(2):
        for one in (cache, copy):
            read(one, words(1, number))
    assert cache.layers[0].front
    addresses = set(storages([twin]))
    twin.reset()
    for one in (cache, copy):
        read(one, words(1, 5))
    assert not any(layer.shared for layer in cache.layers)
    assert set(storages([cache])) == addresses  # the large buffer took what stood behind it
    assert_same(cache, copy)


def test_one_that_reads_as_much_as_it_shares_gets_a_buffer_of_its_own() -> None:
    cache = started(300)
    twin, other = cache.fork(), cache.fork()
    read(other, words(1))
    for number in range(20):
        read(twin, words(20, number))
    assert not any(layer.shared for layer in twin.layers) and not set(storages([twin])) & set(storages([cache]))


def test_a_small_beginning_does_not_keep_a_large_buffer() -> None:
    cache = started(2000)
    twin, copy = cache.fork(), copied(cache)
    for one in (twin, copy):
        one.crop(-1700)
    assert memory(twin) < 0.25 * memory(cache) and not set(storages([twin])) & set(storages([cache]))
    assert_same(twin, copy)
    long = cache.fork()
    long.crop(-300)
    assert memory(cache, long) == memory(cache)  # a large one is shared


# Independence -----------------------------------------------------------------------------------------------


@contextmanager
def small_buffers() -> Iterator[None]:
    """Constants for which a few tokens do all that many do otherwise."""
    with mock.patch.multiple(shared_storage, LEAST_SHARED=6, TAIL_GROWTH=3, MIN_GROWTH=8):
        yield


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, 9), st.integers(1, 30)),
        st.tuples(st.just("read"), st.integers(0, 9), st.integers(1, 3)),
        st.tuples(st.just("fork"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("fork"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("evict"), st.integers(0, 9), st.integers(0, 50)),
        st.tuples(st.just("crop"), st.integers(0, 9), st.integers(0, 60)),
        st.tuples(st.just("crop"), st.integers(0, 9), st.integers(0, 4)),
        st.tuples(st.just("move"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("fail"), st.integers(0, 9), st.integers(1, 30)),
        st.tuples(st.just("close"), st.integers(0, 9), st.booleans()),
    ),
    min_size=4,
    max_size=24,
)


def alive(caches: Iterable[PrunedCache]) -> dict[int, weakref.ref]:
    """All buffers that `caches` hold."""
    return {id(t): weakref.ref(t) for cache in caches for layer in cache.layers for t, _ in layer.held()}


def change(cache: PrunedCache, kind: str, value: int, seed: int) -> None:
    if kind == "read":
        read(cache, words(value, seed))
    elif kind == "evict":
        cache.drop(lambda layout: (layout.index[0] >= value) & (layout.index[0] < value + 9))
    elif kind == "crop":
        cache.crop(-min(value, cache.get_seq_length()))
    elif kind == "move":
        index = cache.stored_index()
        cache.move(KeyRotator(tiny("llama")), index, torch.arange(len(index)))
    elif kind == "fail":
        layer = tiny("llama").model.layers[4].mlp
        handle = layer.register_forward_pre_hook(lambda m, a: (_ for _ in ()).throw(OSError("planted")))
        try:
            with pytest.raises(OSError):
                read(cache, words(value, seed))
        finally:
            handle.remove()


@given(steps=STEPS, pruned=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_sequence_on_forks_is_that_on_copies(steps: list, pruned: bool) -> None:
    with small_buffers():
        config = PruneConfig("recency", 0.7, (3,), park_tokens=5) if pruned else UNPRUNED
        caches = [started(60, config)]
        copies = [copied(caches[0])]
        buffers: dict[int, weakref.ref] = {}
        for seed, (kind, which, value) in enumerate(steps):
            if not caches:
                break
            number = which % len(caches)
            if kind == "fork":
                caches.append(caches[number].fork())
                copies.append(copied(copies[number]))
            elif kind == "close":
                if value:
                    caches[number].reset()
                del caches[number], copies[number]
            else:
                change(caches[number], kind, value, seed)
                change(copies[number], kind, value, seed)
            assert_all_same(caches, copies)
            buffers |= alive(caches)
        # Memory goes with its last holder: what is alive is held, and nothing is alive when all have gone.
        held = alive(caches).keys()
        assert {key for key, buffer in buffers.items() if buffer() is not None} <= held
        caches.clear()
        assert not any(buffer() is not None for buffer in buffers.values())


def test_forks_in_threads_do_not_meet() -> None:
    """All append to one buffer at once; each sees its own tokens alone."""
    with small_buffers():
        first = KVLayer()
        first.update(torch.zeros(1, 1, 40, 2), torch.zeros(1, 1, 40, 2))
        layers = [first.fork() for _ in range(6)]
        barrier, wrong = threading.Barrier(len(layers)), []

        def work(number: int) -> None:
            barrier.wait()
            for count in range(300):
                layers[number].truncate(40 + count % 7 * 3)
                keys, _ = layers[number].update(*(torch.full((1, 1, 3, 2), number + 1.0) for _ in range(2)))
                if not bool((keys[:, :, -3:] == number + 1).all()) or bool(keys[:, :, :40].any()):
                    wrong.append(number)
                if not bool((keys[:, :, 40:] == number + 1).all()):
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(layers))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong and not first.keys.any()


# Fused decoding ------------------------------------------------------------------------------------------


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= 1e-4 * other.abs().max())


@pytest.mark.parametrize("name", ["llama", "gemma3"])
@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_fused_decoding_in_pieces(name: str, tokens: int) -> None:
    """The pieces are looked at one by one; a window and several queries need a mask over all of them."""
    flat = short_reads(tiny(name)).same
    cache = PrunedCache(UNPRUNED, LAYERS)
    for chunk in words(300)[0].split(100):
        flat.read(cache, chunk.tolist(), cache.get_seq_length())
    fork, copy = cache.fork(), copied(cache)
    flat.read(cache, [5], 300)
    for seed in range(3):
        ids = words(tokens, seed)[0].tolist()
        masses: list[dict[int, torch.Tensor]] = [{}, {}]
        got, wanted = (
            flat.read_together([Part(one, ids, one.get_seq_length(), 0, mass)])[0]
            for one, mass in zip((fork, copy), masses, strict=True)
        )
        assert close(got, wanted) and len(fork.layers[0].front) == 1
        assert all(close(masses[0][layer], masses[1][layer]) for layer in range(LAYERS))


def test_shared_calls_of_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator: the layers of a cache live in one block, and forks share blocks."""
    flat = short_reads(tiny("llama")).same
    monkeypatch.setattr(flat, "pads", True)
    caches = [PrunedCache(UNPRUNED, LAYERS) for _ in range(2)]
    for _ in range(4):
        flat.read_together([Part(one, words(60, n)[0].tolist(), one.get_seq_length()) for n, one in enumerate(caches)])
    before = memory(*caches)
    forks = [cache.fork() for cache in caches for _ in range(3)]
    copies = [copied(cache) for cache in caches for _ in range(3)]
    everyone, wanted = [*caches, *forks], [*(copied(cache) for cache in caches), *copies]
    for step in range(4):
        ids = [words(1 + (number + step) % 3, number + 9 * step)[0].tolist() for number in range(len(everyone))]
        got = flat.read_together([Part(c, i, c.get_seq_length()) for c, i in zip(everyone, ids, strict=True)])
        monkeypatch.setattr(flat, "pads", False)
        for one, cache, part in zip(got, wanted, ids, strict=True):
            assert close(one, flat.read(cache, part, cache.get_seq_length()))
        monkeypatch.setattr(flat, "pads", True)
        for cache, copy in zip(everyone, wanted, strict=True):
            for layer, other in zip(cache.layers, copy.layers, strict=True):
                assert close(layer.keys, other.keys) and layer.block is cache.layers[0].block is not None
    assert [len(cache.layers[0].front) for cache in everyone] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert memory(*everyone) < 2 * before
    # Evicting, and a shared call that fails, leave the others alone.
    everyone[3].drop(lambda layout: layout.index[0] < 20)
    wanted[3].drop(lambda layout: layout.index[0] < 20)
    monkeypatch.setattr(flat, "head", lambda hidden: (_ for _ in ()).throw(MemoryError("planted")))
    with pytest.raises(MemoryError):
        flat.read_together([Part(cache, [3, 4], cache.get_seq_length()) for cache in everyone])
    monkeypatch.undo()
    for cache, copy in zip(everyone, wanted, strict=True):
        assert cache.kept_lengths() == copy.kept_lengths()
        assert close(flat.read(cache, [7], cache.get_seq_length()), flat.read(copy, [7], copy.get_seq_length()))
