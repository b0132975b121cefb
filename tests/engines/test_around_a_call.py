"""Modes that a caller has set around a call: inference mode, another default dtype, another default device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch

import erecap
from tests.tokens.families import GREEDY, family, ids_of, whole
from tools.architectures.small import small_model
from tools.architectures.tokenizer import chat_tokenizer

KINDS = ("llama", "gpt_neox", "gemma3_text", "stablelm")


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


AROUND: dict[str, Any] = {
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "default bfloat16": lambda: default_dtype(torch.bfloat16),
    "default float64": lambda: default_dtype(torch.float64),
    "default device": lambda: torch.device("meta"),
}


def played(model: Any, around: list[Any], **options: Any) -> list[str]:
    """Answers of a session with a small budget, each call within what `around` has for it."""
    session = erecap.ReplanSession(model, chat_tokenizer(), budget=72, retokenize=True, **options)
    chat, answers = [{"role": "system", "content": "Plan."}], []
    for turn, mode in enumerate(around):
        chat.append({"role": "user", "content": f"You see mug {turn} on shelf {turn}."})
        with mode():
            answers.append(session.generate(chat, max_new_tokens=4).text)
        chat.append({"role": "assistant", "content": "take it"})
    assert session.evicted_tokens > 72
    with around[-1]():
        session.splice((40, 45))
        session.fork().correct("The mug is gone.")
    return answers


@cache
def plainly(kind: str) -> list[str]:
    """The answers with nothing set around the calls."""
    return played(family(kind), [torch.enable_grad] * 6, evict_by="attention")


@pytest.mark.parametrize("mode", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("kind", KINDS)
def test_answers_do_not_depend_on_what_is_set_around_some_calls(kind: str, mode: Any) -> None:
    model = family(kind)
    mixed = [mode if turn % 2 else torch.enable_grad for turn in range(6)]
    assert played(model, mixed, evict_by="attention") == plainly(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_made_in_inference_mode(kind: str) -> None:
    with torch.inference_mode():
        model = small_model(kind)
    assert all(parameter.is_inference() for parameter in model.parameters())
    assert played(model, [torch.enable_grad, torch.inference_mode] * 3, evict_by="attention") == plainly(kind)
    ids = ids_of(40)
    bare = family(kind).generate(**whole(ids), **GREEDY)
    for options in ({}, {"keep": 1.0}, {"budget": 64}):
        assert torch.equal(erecap.wrap(model, **options).generate(**whole(ids), **GREEDY), bare)


@pytest.mark.parametrize("mode", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("evict_by", ["recency", "attention"])
def test_wrapped_models(evict_by: str, mode: Any) -> None:
    model = family("starcoder2")
    wrapped = [erecap.wrap(model, budget=64, evict_by=evict_by) for _ in range(2)]
    ids = ids_of(50)
    for turn in range(4):
        expected = wrapped[0].generate(**whole(ids), **GREEDY)
        with mode():
            got = wrapped[1].generate(**whole(ids), **GREEDY)
        assert torch.equal(got, expected), turn
        ids = torch.cat([expected.clone(), ids_of(20, turn)], 1)
