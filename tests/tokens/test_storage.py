"""Preallocated key and value storage behaves as the stock layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.cache_utils import DynamicLayer

from erecap.tokens.cache.storage import KVLayer, alike, plain_cache
from tests.tokens.models import ARCHITECTURES, prompt, tiny

STEPS = st.lists(
    st.one_of(
        st.integers(1, 200).map(lambda n: ("update", n)),
        st.integers(0, 5).map(lambda n: ("crop", n)),
        st.permutations([0, 1]).map(lambda rows: ("reorder", rows)),
    ),
    max_size=12,
)


@given(STEPS)
def test_same_contents_as_the_stock_layer(steps: list) -> None:
    ours, stock = KVLayer(), DynamicLayer()
    generator = torch.Generator().manual_seed(1)
    for kind, value in steps:
        if kind == "update":
            keys, values = (torch.rand(2, 3, value, 4, generator=generator) for _ in range(2))
            for one, other in zip(ours.update(keys, values), stock.update(keys, values), strict=True):
                assert torch.equal(one, other)
        elif kind == "crop" and stock.get_seq_length() > value > 0:
            ours.crop(-value)
            stock.crop(-value)
        elif kind == "reorder" and stock.get_seq_length():
            ours.reorder_cache(torch.tensor(value))
            stock.reorder_cache(torch.tensor(value))
        assert ours.get_seq_length() == stock.get_seq_length()
        if stock.get_seq_length():
            assert torch.equal(ours.keys, stock.keys) and torch.equal(ours.values, stock.values)


def test_appending_one_token_rarely_moves_the_buffer() -> None:
    layer, moves, place = KVLayer(), 0, 0
    for _ in range(2000):
        keys, _ = layer.update(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))
        moves += keys.data_ptr() != place
        place = keys.data_ptr()
    assert moves <= 15


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_plain_cache_gives_the_stock_answer(name: str) -> None:
    model = tiny(name)
    expected = model.generate(**prompt(), max_new_tokens=20, do_sample=False)
    cache = plain_cache(model.config)
    assert torch.equal(model.generate(**prompt(), max_new_tokens=20, do_sample=False, past_key_values=cache), expected)
    assert isinstance(cache.layers[0], KVLayer) == (name not in ("mistral", "gemma3"))


def test_crop_says_what_it_takes() -> None:
    with pytest.raises(ValueError, match="minus the number"):
        KVLayer().crop(2)


def test_layers_with_other_numbers_of_heads_are_not_joined() -> None:
    """A layer plan can take key heads of single layers out; `join` wants keys of one shape."""

    def layer(heads: int) -> KVLayer:
        made = KVLayer()
        made.update(torch.rand(1, heads, 3, 4), torch.rand(1, heads, 3, 4))
        return made

    assert alike([layer(2), layer(2)]) and not alike([layer(2), layer(1)])
