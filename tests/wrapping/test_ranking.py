"""The order of eviction can follow importance scores of records."""

from __future__ import annotations

import math

import pytest
import torch

import erecap
from erecap.errors import ConfigError
from erecap.wrapping.ranking import SelfInformation
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model


def chat() -> list[dict[str, str]]:
    messages = [{"role": "user", "content": "Find the mug."}]
    for number in range(8):
        seen = f"You see a plate {number} and a {'mug' if number == 1 else 'cup'} on the shelf {number}."
        messages += [{"role": "assistant", "content": f"look {number}"}, {"role": "user", "content": seen}]
    return messages


@pytest.mark.parametrize("budget", [{"keep_tokens": 150}, {"keep": 0.6}])
def test_the_least_worth_goes_first(budget: dict) -> None:
    shown: list[str] = []

    def planner(messages) -> str:  # type: ignore[no-untyped-def]
        shown.append("\n".join(message["content"] for message in messages))
        return "look"

    erecap.wrap(planner, **budget)(chat())
    erecap.wrap(planner, **budget, rank=lambda text: float("mug" in text))(chat())
    assert "mug on the shelf 1" not in shown[0] and "mug on the shelf 1" in shown[1]
    assert all("Find the mug." in text and "on the shelf 7" in text for text in shown)


def test_bits_per_token() -> None:
    made, tokenizer = model(), byte_level()
    rank = SelfInformation(made, tokenizer, remembered=2)
    text = "On the shelf 1, you see a mug."
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        wanted = float(made(input_ids=ids, labels=ids).loss) / math.log(2)
    assert rank(text) == pytest.approx(wanted, rel=1e-5)
    reads = []
    made.register_forward_pre_hook(lambda *_: reads.append(1))
    try:
        assert rank(text) == pytest.approx(wanted, rel=1e-5) and rank("") == rank("a") == 0.0 and not reads
    finally:
        made._forward_pre_hooks.clear()
    long = SelfInformation(made, tokenizer)
    assert long("a mug, " * 2000) == long("a mug, " * 1000)  # judged by its beginning


def test_a_model_that_is_looked_into_has_no_rank() -> None:
    with pytest.raises(ConfigError, match="rank and shadow are for callables"):
        erecap.wrap(model(), rank=len)
