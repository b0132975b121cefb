"""Unpruned calls: where nothing has to be removed, a wrapped planner gets the same messages and answers alike."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

import erecap
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model
from tests.wrapping.test_shadow import ChatMessage, PartnrModel, SmolModel, chat


def digest(*given: object) -> str:
    return hashlib.sha256(repr(given).encode()).hexdigest()


def prompts() -> list[str]:
    text = "Question: where is the mug?\nThought 1:"
    out = [text]
    for number in range(12):
        text += f" I look.\nAction 1: look at shelf {number}\nObservation 1: A plate {number}.\nThought 1:"
        out.append(text)
    return out


class Partnr(PartnrModel):
    def generate(self, prompt, stop=None, max_length=None, generation_args=None):  # type: ignore[no-untyped-def]
        return digest(prompt, stop, max_length)


class Smol(SmolModel):
    def generate(self, messages, stop_sequences=None, **kwargs):  # type: ignore[no-untyped-def]
        return ChatMessage("assistant", digest(messages, stop_sequences))  # type: ignore[arg-type]

    __call__ = generate


async def later(messages: list[dict], **options: object) -> str:
    return digest(messages, options)


def of_pipeline(target: Any) -> list[object]:
    return [target(chat(turns), max_new_tokens=4, do_sample=False) for turns in (1, 3)]


def of_model(target: Any) -> list[object]:
    ids = torch.arange(3, 90).unsqueeze(0)
    return [target.generate(ids[:, :length], max_new_tokens=4, do_sample=False).tolist() for length in (40, 87)]


def pipeline() -> Any:
    from transformers import pipeline as make

    return make("text-generation", model=model(), tokenizer=byte_level())


KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any], list[object]]]] = {
    "chats": (lambda: digest, lambda f: [f(chat(turns)) for turns in range(12)]),
    "prompts": (lambda: lambda prompt, stop: digest(prompt, stop), lambda f: [f(p, stop=["\n"]) for p in prompts()]),
    "async": (lambda: later, lambda f: [asyncio.run(f(chat(turns), top_p=0.9)) for turns in range(5)]),
    "partnr": (Partnr, lambda o: [o.generate(p, stop="Assigned!", max_length=9) for p in prompts()]),
    "smolagents": (
        Smol,
        lambda o: [
            o.generate([ChatMessage(m["role"], m["content"]) for m in chat(n)], stop_sequences=["x"]).content
            for n in range(9)
        ],
    ),
    "pipeline": (pipeline, of_pipeline),
    "model": (model, of_model),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_answers(kind: str) -> None:
    make, answers = KINDS[kind]
    # A model is pruned to a share; of text only a limit makes calls stop growing.
    options = [{"keep": 1.0}] if kind in ("model", "pipeline") else [{"keep_tokens": 100_000}]
    options += [{"keep": 1.0}] if kind in ("chats", "async", "smolagents") else []
    bare = answers(make())
    assert len({repr(answer) for answer in bare}) == len(bare)
    for given in options:
        assert answers(erecap.wrap(make(), **given)) == bare
