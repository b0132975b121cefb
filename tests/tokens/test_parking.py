"""Dropped tokens are parked, go where the cache goes, and are finished as the masked oracle says."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from erecap.errors import RunError
from erecap.tokens import PruneConfig, PrunedCache, attach, prune
from erecap.tokens.cache.masks import layer_windows
from erecap.tokens.revival import revive
from tests.tokens.models import ARCHITECTURES, LAYERS, padded, prompt, tiny
from tests.tokens.test_traps import _longrope

STAGES = (2, 4, 6)
CONFIG = PruneConfig(scorer="random", keep=0.6, stages=STAGES, park_tokens=1000)


class StoreLog:
    """For each layer and token, what the layer stored when the token's row of that layer was computed."""

    def __init__(self, layers: int) -> None:
        self.seen: list[dict[int, list[int]]] = [{} for _ in range(layers)]

    def note(self, cache: PrunedCache) -> None:
        """To be called after each read and each revival."""
        for layer, seen in enumerate(self.seen):
            stored = cache.layout(layer).index[0].tolist()
            for place in stored:
                seen.setdefault(place, [other for other in stored if other <= place])

    def oracle(self, model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
        """Logits `(1, tokens, vocab)` of one stock forward over `ids` `(1, tokens)` with one mask per layer."""
        total = ids.shape[1]
        masks = []
        for seen, window in zip(self.seen, layer_windows(model.config), strict=True):
            allowed = torch.eye(total, dtype=torch.bool)
            for place, visible in seen.items():
                allowed[place, [other for other in visible if window is None or other > place - window]] = True
            bias = torch.zeros(1, 1, total, total).masked_fill(~allowed, torch.finfo(torch.float32).min)
            masks.append(bias)
        handles = [
            layer.register_forward_pre_hook(
                lambda module, args, kwargs, bias=bias: (args, kwargs | {"attention_mask": bias}), with_kwargs=True
            )
            for layer, bias in zip(model.get_decoder().layers, masks, strict=True)
        ]
        try:
            with torch.no_grad():
                return model(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()


def read(model: PreTrainedModel, cache: PrunedCache, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, past_key_values=cache).logits[0, -1]


def sound(cache: PrunedCache, evicted: bool = False) -> None:
    """Storage, layouts and parked tokens agree; after an eviction shallower layers may have lost what is parked."""
    parked = {place: group.layer for group in cache.parking for place in group.places.tolist()}
    assert len(parked) == len(cache.parking) <= cache.parking.room
    positions: dict[int, int] = {}
    for number, layer in enumerate(cache.layers):
        layout = cache.layout(number)
        places = layout.index[0].tolist()
        assert places == sorted(set(places)) and layer.keys.shape[2] == layer.values.shape[2] == len(places)
        for place, position in zip(places, layout.positions[0].tolist(), strict=True):
            assert positions.setdefault(place, position) == position
        for place, stopped in parked.items():
            assert evicted or (place in places) == (number < stopped)
            assert place in places if number == stopped - 1 else True
            assert place not in places if number >= stopped else True
    for group in cache.parking:
        assert group.hidden.shape[:2] == group.tokens.index.shape
        assert [positions[place] for place in group.places.tolist()] == group.tokens.positions[0].tolist()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_revived_tokens_are_the_masked_oracle(name: str, attention: str) -> None:
    """Two pruned reads, a revival from several stages, a read, a second revival, a last read."""
    model = tiny(name, attention)
    parts = [prompt(n, seed)["input_ids"] for n, seed in ((40, 3), (24, 4), (3, 5), (2, 6))]
    log, got = StoreLog(LAYERS), []
    with prune(model, CONFIG) as cache:
        for number, ids in enumerate(parts):
            if number == 1:
                cache.arm()
            got.append(read(model, cache, ids))
            log.note(cache)
            sound(cache)
            before = cache.kept_lengths()
            if number in (1, 2):
                span = (12, 50) if number == 1 else None
                wanted = [p for p in cache.parking.places() if span is None or span[0] <= p < span[1]]
                layers = {group.layer for group in cache.parking}
                assert layers == set(STAGES)
                assert revive(model, cache, span) == len(wanted) > 10
                assert all(set(wanted) <= set(cache.layout(n).index[0].tolist()) for n in range(LAYERS))
                assert cache.kept_lengths()[0] == before[0] and cache.kept_lengths()[-1] == before[-1] + len(wanted)
                log.note(cache)
                sound(cache)
    assert len(cache.parking) == 0 and set(cache.kept_lengths()) == {69}
    ids = torch.cat(parts, 1)
    expected = log.oracle(model, ids)[0]
    for place, row in zip((39, 63, 66, 68), got, strict=True):
        assert (row - expected[place]).abs().max() <= 1e-4 * expected.abs().max(), place


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_revived_is_seen(name: str) -> None:
    """The oracle test could pass with masks that hide the revived tokens; this one could not."""
    model, rows = tiny(name), []
    for wake in (False, True):
        with prune(model, CONFIG) as cache:
            read(model, cache, prompt()["input_ids"])
            if wake:
                assert revive(model, cache) > 10
            rows.append(read(model, cache, prompt(2, 5)["input_ids"]))
    assert (rows[0] - rows[1]).abs().max() > 1e-3 * rows[0].abs().max()


def test_parking_changes_nothing_else_and_is_off_by_default() -> None:
    model, rows = tiny("llama"), []
    for park in (0, 1000):
        with prune(model, PruneConfig("random", 0.6, STAGES, park_tokens=park)) as cache:
            rows.append(read(model, cache, prompt()["input_ids"]))
        assert bool(len(cache.parking)) == bool(park)
    assert torch.equal(*rows) and PruneConfig().park_tokens == 0
    assert revive(model, PrunedCache(PruneConfig(), LAYERS)) == 0


def test_one_token_in_the_middle() -> None:
    """A single query must not see what stands behind it."""
    model, log = tiny("llama"), StoreLog(LAYERS)
    first, then = prompt()["input_ids"], prompt(2, 5)["input_ids"]
    with prune(model, CONFIG) as cache:
        read(model, cache, first)
        log.note(cache)
        place = cache.parking.places()[4]
        assert revive(model, cache, (place, place + 1)) == 1 and revive(model, cache, (place, place + 1)) == 0
        log.note(cache)
        got = read(model, cache, then)
        log.note(cache)
    expected = log.oracle(model, torch.cat([first, then], 1))[0, -1]
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_padding_is_not_parked() -> None:
    model, given = tiny("llama"), padded((22,))
    given = {key: torch.nn.functional.pad(value, (6, 0)) for key, value in given.items()}
    with prune(model, CONFIG) as cache, torch.no_grad():
        model(**given, past_key_values=cache)
        assert cache.parking.places() and cache.parking.places()[0] >= 6
        assert revive(model, cache) == 22 - cache.prompt_kept[-1]
        row = read(model, cache, prompt(2, 5)["input_ids"])
    assert torch.isfinite(row).all()


def test_room_is_bounded_and_the_oldest_leave() -> None:
    model = tiny("llama")
    everything, few = CONFIG, PruneConfig("random", 0.6, STAGES, park_tokens=9)
    places = {}
    for config in (everything, few):
        with prune(model, config) as cache:
            for seed in (3, 4, 5):
                cache.arm()
                read(model, cache, prompt(20, seed)["input_ids"])
                sound(cache)
        places[config.park_tokens] = cache.parking.places()
        per_token = 32 * 4 + 17  # hidden size 32 in float32, index, position, validity
        assert cache.parking.nbytes() == len(cache.parking) * per_token
    assert len(places[1000]) > 20 and places[9] == places[1000][-9:]


def test_failed_reads_park_nothing_and_failed_revivals_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("qwen2")
    with prune(model, CONFIG) as cache:
        read(model, cache, prompt()["input_ids"])
        before = (cache.parking.places(), cache.kept_lengths(), [layer.keys.clone() for layer in cache.layers])
        broken = model.get_decoder().layers[7].mlp

        def fail(*args, **kwargs):  # type: ignore[no-untyped-def]
            raise MemoryError("planted")

        handle = broken.register_forward_pre_hook(fail)
        cache.arm()
        with pytest.raises(MemoryError):
            read(model, cache, prompt(20, 4)["input_ids"])
        with pytest.raises(MemoryError):
            revive(model, cache)
        handle.remove()
        assert before[:2] == (cache.parking.places(), cache.kept_lengths())
        assert all(torch.equal(old, layer.keys) for old, layer in zip(before[2], cache.layers, strict=True))
        assert revive(model, cache) == len(before[0])


def test_parked_tokens_go_with_their_cache() -> None:
    model = tiny("llama")
    with prune(model, CONFIG) as cache:
        read(model, cache, prompt()["input_ids"])
    places = cache.parking.places()
    twin = cache.fork()
    twin.crop(20 - 40)
    assert twin.parking.places() == [place for place in places if place < 20] and cache.parking.places() == places
    sound(twin)
    twin = cache.fork()
    twin.drop(lambda layout: layout.index[0] < 15)
    assert twin.parking.places() == [place for place in places if place >= 15]
    index = twin.stored_index()
    twin.move(lambda layer, keys, shift: keys, index, index + 100)
    assert all(bool((group.tokens.positions - group.tokens.index == 100).all()) for group in twin.parking)
    sound(twin, evicted=True)
    with attach(model, twin):
        assert revive(model, twin) == len([place for place in places if place >= 15])
    twin = cache.fork()
    twin.batch_repeat_interleave(2)
    assert len(twin.parking) == 0
    twin = cache.fork()
    twin.reset()
    assert len(twin.parking) == 0 and cache.parking.places() == places


def test_a_fork_revives_alone() -> None:
    model, then = tiny("gemma3"), prompt(2, 5)["input_ids"]
    with prune(model, CONFIG) as cache:
        read(model, cache, prompt()["input_ids"])
        first, second = cache.fork(), cache.fork()
        with attach(model, first), attach(model, second):
            assert revive(model, first) > 10
            revived, plain = read(model, first, then), read(model, second, then)
        assert not torch.equal(revived, plain) and torch.equal(read(model, cache, then), plain)


@pytest.mark.parametrize("length", [24, 40])
def test_a_rope_that_depends_on_the_length(length: int) -> None:
    """Below and above the switch at 32 tokens: the revived tokens' own positions lie below it either way."""
    model, log = _longrope(), StoreLog(LAYERS)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)  # sharper attention, so that a wrong angle shows
    parts = [prompt(length)["input_ids"], prompt(2, 5)["input_ids"]]
    with prune(model, CONFIG) as cache:
        read(model, cache, parts[0])
        log.note(cache)
        assert revive(model, cache, (0, 24)) > 5
        log.note(cache)
        got = read(model, cache, parts[1])
        log.note(cache)
    expected = log.oracle(model, torch.cat(parts, 1))[0, -1]
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(ValueError, match="park_tokens must be 0 or more, got -1"):
        PruneConfig(park_tokens=-1)
    model = tiny("llama")
    with pytest.raises(ValueError, match=r"one row only .*the batch has 3"), prune(model, CONFIG) as cache:
        model(**padded(), past_key_values=cache)
    assert cache.get_seq_length() == 0
    with prune(model, CONFIG) as cache:
        read(model, cache, prompt()["input_ids"])
        cache.begin(torch.arange(40, 42).unsqueeze(0), None, 1)
        with pytest.raises(RunError, match="in the middle of a read"):
            revive(model, cache)
        cache.rollback()
        model.config._attn_implementation, kept = "flash_attention_2", model.config._attn_implementation
        try:
            with pytest.raises(RunError, match="flash_attention_2 does not take"):
                revive(model, cache)
        finally:
            model.config._attn_implementation = kept
        with pytest.raises(FloatingPointError, match="after layer 3"):
            poison = model.get_decoder().layers[3].register_forward_hook(lambda *a: a[2] * float("nan"))
            try:
                revive(model, cache)
            finally:
                poison.remove()
