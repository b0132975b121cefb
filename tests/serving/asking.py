"""An engine on a tiny model, asked without a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from erecap.budget import Budget
from erecap.generation import Generation
from erecap.serving.engine import Ask, Engine
from erecap.session.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model


def engine(kv_tokens: int | None = None, window: int = 4096, tokenizer: Any = None, **options: Any) -> Engine:
    """An engine; the caller closes it."""
    made, tokenizer = model(window=window), tokenizer or byte_level()
    budget = None if kv_tokens is None else Budget(kv_tokens)
    return Engine(made, tokenizer, lambda: ReplanSession(made, tokenizer, budget=budget), **options)


def answer(on: Engine, messages: list[dict[str, Any]], raw: bool = False, **options: Any) -> Generation:
    """The answer to a chat, greedy unless asked otherwise."""
    ask = Ask(messages, {"max_new_tokens": 8, **options}, raw=raw)  # type: ignore[arg-type]
    on.submit(ask)
    return ask.answer.result(60)


def writing(text: str) -> dict[str, Any]:
    """Options under which a model answers `text`, in the tokens of the text."""
    tokenizer = byte_level()
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return {"allowed_tokens": choosing(ids), "max_new_tokens": len(ids)}


def choosing(ids: list[int]) -> Callable[[Any], list[int]]:
    """A constraint under which a model chooses these ids, and reads each; a token without a choice is not read."""
    return lambda done: [ids[len(done)]] * 2


@pytest.fixture
def engines() -> Iterator[Callable[..., Engine]]:
    """Makes engines, which end with the test."""
    made: list[Engine] = []

    def start(**options: Any) -> Engine:
        made.append(engine(**options))
        return made[-1]

    yield start
    for one in made:
        one.close()
