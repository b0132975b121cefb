"""A session's tokenizer is compared with the model's own, once for each pair of model and tokenizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from erecap.engines.own_tokenizer import refuse_other_tokenizer
from erecap.engines.uniform import HeldTokens, UniformEngine
from tests.context.small_tokenizers import byte_level, llama_like, metaspace


class Named:
    """A model that counts how often it is asked for ids of its own."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.asked = tokenizer, 0


class Engine(UniformEngine[HeldTokens]):
    """An engine that reads nothing."""

    name, serves = "named", Named

    def _pass(self, ids: Any, every: bool) -> np.ndarray:
        return np.zeros((len(ids), 4), np.float32)

    def own_ids(self, text: str) -> list[int] | None:
        self.model.asked += 1
        own = self.model.tokenizer
        return None if own is None else list(own(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("other", [metaspace, llama_like])
def test_a_tokenizer_of_another_model_is_refused_each_time(other: Any) -> None:
    model = Named(byte_level())
    for count in (1, 2):
        with pytest.raises(ValueError, match=r"is of another model: in 'Go to .* has the id .*; give model.tokenizer"):
            refuse_other_tokenizer(Engine(model), other())
        assert model.asked == count


def test_a_pair_that_fits_is_compared_once() -> None:
    model, twin = (Named(byte_level()) for _ in range(2))
    for each in (model, model, twin, model):
        refuse_other_tokenizer(Engine(each), byte_level())
    assert (model.asked, twin.asked) == (1, 1)


def test_a_model_without_a_tokenizer_takes_any() -> None:
    model = Named(None)
    for tokenizer in (byte_level(), metaspace()):
        refuse_other_tokenizer(Engine(model), tokenizer)
