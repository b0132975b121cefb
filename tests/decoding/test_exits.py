"""Reads of some layers: finished, they are whole reads; cut off at any point, they never were."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from erecap.config.exits import Exit
from erecap.decoding.exits.candidates import CANDIDATES, Followers, Slice, features
from erecap.decoding.exits.draft_length import DraftLength
from erecap.decoding.exits.partial import Stop, read_layers
from erecap.decoding.exits.schedule import Schedule
from erecap.decoding.fused import FusedDecoder
from erecap.errors import RunError
from erecap.tokens import PruneConfig
from erecap.tokens.cache.pruned_cache import PrunedCache
from tests.tokens.models import ARCHITECTURES, LAYERS, tiny

TOKENS, READ = 56, 30


def ids(seed: int = 4) -> list[int]:
    return torch.randint(2, 97, (TOKENS,), generator=torch.Generator().manual_seed(seed)).tolist()


def begun(decoder: FusedDecoder) -> PrunedCache:
    """A cache that has read some tokens and evicted some of them."""
    cache = PrunedCache(PruneConfig(keep=1.0, stages=()), LAYERS)
    decoder.read(cache, ids()[:READ], 0)
    cache.drop(lambda layout: (layout.index[0] > 5) & (layout.index[0] < 9))
    return cache


def logits(decoder: FusedDecoder, hidden: torch.Tensor | None) -> torch.Tensor:
    assert hidden is not None
    with torch.no_grad():
        return decoder.head(decoder.normed(hidden))


def same(one: PrunedCache, other: PrunedCache) -> None:
    assert one.get_seq_length() == other.get_seq_length() and not one.unfinished
    assert one.kept_lengths() == other.kept_lengths() and one.shares_layout
    for number, (mine, theirs) in enumerate(zip(one.layers, other.layers, strict=True)):
        assert torch.equal(one.layout(number).index, other.layout(number).index)
        torch.testing.assert_close(mine.keys, theirs.keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine.values, theirs.values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_was_read_in_parts_is_as_if_read_whole(name: str) -> None:
    decoder = FusedDecoder(tiny(name))
    whole, parts = begun(decoder), begun(decoder)
    wanted = decoder.read(whole, ids()[READ:], READ)
    choose, place, rows = random.Random(name), READ, []
    while place < TOKENS:
        # Some tokens stop early, shallower and deeper than those before; then a read takes all of them along.
        for _ in range(choose.randint(1, 4)):
            count, stop = min(choose.randint(1, 2), TOKENS - place), choose.randint(1, LAYERS - 1)
            if count:
                assert (
                    read_layers(decoder, parts, ids()[place : place + count], place, lambda n, _, at=stop: n == at)
                    is None
                )
                place += count
        count = min(choose.randint(0, 1), TOKENS - place)
        rows.append(logits(decoder, read_layers(decoder, parts, ids()[place : place + count], place)))
        place += count
    assert (torch.cat(rows) - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    same(parts, whole)


class Cut(Exception):
    """The error that breaks a read off."""


def test_a_read_cut_off_at_any_layer_leaves_the_cache_as_it_was() -> None:
    decoder = FusedDecoder(tiny("gemma3"))
    whole, cache = begun(decoder), begun(decoder)
    wanted = decoder.read(whole, ids()[READ : READ + 3], READ)
    read_layers(decoder, cache, ids()[READ : READ + 1], READ, lambda layer, _: layer == 5)
    read_layers(decoder, cache, ids()[READ + 1 : READ + 2], READ + 1, lambda layer, _: layer == 2)

    def state() -> tuple:
        stored = [(layer.length, layer.keys.contiguous().sum().item()) for layer in cache.layers]
        return cache.get_seq_length(), stored, [parked.layer for parked in cache.unfinished]

    before = state()

    def cutting(at: int) -> Stop:
        def cut(layer: int, hidden: torch.Tensor) -> bool:
            if layer == at:
                raise Cut
            return False

        return cut

    for at in range(1, LAYERS):
        with pytest.raises(Cut):
            read_layers(decoder, cache, ids()[READ + 2 : READ + 3], READ + 2, cutting(at))
        assert cache.reading is None and state() == before
    found = logits(decoder, read_layers(decoder, cache, ids()[READ + 2 : READ + 3], READ + 2))
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    same(cache, whole)


def test_unfinished_tokens_can_be_rolled_back_and_nothing_else_be_done_before() -> None:
    decoder = FusedDecoder(tiny("llama"))
    cache, untouched = begun(decoder), begun(decoder)
    for place, at in ((READ, 3), (READ + 1, 6)):
        read_layers(decoder, cache, [ids()[place]], place, lambda layer, _, at=at: layer == at)
    waiting = sum(parked.nbytes() for parked in cache.unfinished)
    assert waiting == 2 * (4 * 32 + 17)
    for edit in (
        lambda: decoder.read(cache, [5], READ + 2), cache.fork, lambda: cache.drop(lambda layout: layout.index[0] == 3),
    ):  # fmt: skip
        with pytest.raises(RunError, match="2 tokens were read through the first layers only: finish them or roll"):
            edit()
    cache.crop(-1)
    assert [parked.layer for parked in cache.unfinished] == [6] or len(cache.unfinished[0].places) == 1
    cache.crop(-1)
    same(cache, untouched)
    torch.testing.assert_close(decoder.read(cache, [5, 6], READ), decoder.read(untouched, [5, 6], READ))


@given(st.lists(st.integers(0, 3), max_size=30), st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=4))
def test_followers_are_those_of_the_longest_and_newest_matches(past: list[int], answers: list[list[int]]) -> None:
    followers = Followers(past)
    for answer in answers:
        text = past + answer
        matches = []
        for end in range(len(text) - 1):
            size = next((n for n in range(min(4, end + 1), 0, -1) if text[end - n + 1 : end + 1] == text[-n:]), 0)
            if size:
                matches.append((size, end))
        wanted = list(dict.fromkeys(text[end + 1] for _, end in sorted(matches, reverse=True)))[:CANDIDATES]
        assert followers.after(answer) == wanted


def test_candidates_of_a_draft_come_first_and_the_small_vocabulary_fills_up() -> None:
    logits = torch.tensor([0.0, 1.0, 9.0, 8.0, 7.0])
    assert Slice(torch.arange(5), 2).best(logits).tolist() == [2, 3, 1, 0]
    assert Slice(torch.arange(5)).best(logits).tolist() == [2, 3, 4, 1]
    assert Slice(torch.arange(2)).best(logits[:2]).tolist() == [1, 0]


def test_features_are_logits_probabilities_and_their_change() -> None:
    logits, before = torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 0.0, 0.0])
    found = features(logits, before)
    assert torch.equal(found[:4], logits) and torch.allclose(found[4:8], logits.softmax(0))
    assert torch.allclose(found[8:], logits.softmax(0) - 0.25)
    assert torch.equal(features(logits, None)[8:], torch.zeros(4))
    two = features(logits[:2], before[:2])  # a grammar that leaves two
    assert torch.isfinite(two).all() and float(two[6:8].sum()) < 1e-6 and float(two[4:6].sum()) > 0.999


def test_the_schedule_looks_where_tokens_leave_and_where_the_last_five_left() -> None:
    schedule = Schedule("two-level", range(2, 8), (3, 6))
    assert schedule.layers() == (3, 6)
    for layer in (7, 5, 5, 5, 5, 5):
        schedule.left(layer)
    assert schedule.layers() == (3, 4, 5, 6)  # the exit at 7 is forgotten
    schedule.left(2)
    twin = schedule.copy()
    twin.left(7)
    assert schedule.layers() == (2, 3, 4, 5, 6) and twin.layers() == (2, 3, 4, 5, 6, 7)
    assert Schedule("static", range(2, 8), (3, 6)).layers() == (3, 6)
    assert Schedule("every", range(2, 8), (3, 6)).layers() == (2, 3, 4, 5, 6, 7)


def test_drafts_get_longer_where_they_are_right_and_stop_where_they_do_not_pay() -> None:
    length = DraftLength(4, 0.4)
    for _ in range(40):
        length.learn(4, 4, 0.4)
    assert length.next() == 4 and length.gain(4) > length.gain(1) > 1
    for _ in range(40):
        length.learn(1, 0, 0.4)
    drafts = [length.next() for _ in range(16)]
    assert sum(drafts) == 2 and length.gain(1) < 1  # two probes
    for _ in range(60):
        length.learn(1, 1, 0.95)
    assert length.gain(1) < 1.03  # nothing to gain where drafts run nearly all layers


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "exit needs a predictor"),
        ({"layer": 3, "predictor": "x"}, "and not both"),
        ({"layer": 0}, "layer is 0; allowed: 1 or more"),
        ({"layer": 3, "schedule": "sometimes"}, "unknown schedule 'sometimes'; allowed: two-level, static, every"),
        ({"layer": 3, "threshold": float("nan")}, "threshold is nan; allowed: 0 to 1"),
        ({"layer": 3, "drafts": 9}, "drafts is 9; allowed: 1 to 8"),
        ({"layer": 3, "lossless": "no"}, "lossless is 'no'; allowed: true or false"),
        ({"layer": 3, "lossless": None}, "lossless is None; allowed: true or false"),
        ({"layer": 3, "check": "x"}, "check is 'x'; allowed: true, false or null"),
        ({"layer": 3, "check": 1}, "check is 1; allowed: true, false or null"),
        ({"layer": 3, "schedule": "every"}, "got schedule 'every' beside a layer; allowed: with a predictor"),
    ],
)
def test_settings_out_of_range_are_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Exit(**settings)


def test_what_stands_for_settings() -> None:
    assert Exit.of(None) is None and Exit.of(False) is None
    assert Exit.of({"layer": 3, "check": None}) == Exit.of("layer=3") == Exit(layer=3)
    assert Exit(predictor="x", schedule="every", lossless=False, check=True).checks
    for value in (True, 3, "", []):
        with pytest.raises(ValueError, match=r"a mapping such as \{'layer': 20\}, or the name or folder"):
            Exit.of(value)
