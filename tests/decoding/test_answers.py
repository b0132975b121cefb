"""Ends of answers, and sampling at the edges of what numbers can say."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from typing import Any

import pytest
import torch

from erecap.budget import Budget
from erecap.decoding.special import SpecialTokens
from erecap.decoding.stopping import sampler, seed_in_64_bits
from erecap.language_models.transformers import TransformersLanguageModel
from erecap.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn

START, END = "<|im_start|>", "<|im_end|>"


def ids_of(*parts: str) -> list[int]:
    tokenizer = byte_level()
    found: list[int] = []
    for part in parts:
        special = part in (START, END, "<|endoftext|>")
        found += [tokenizer.convert_tokens_to_ids(part)] if special else tokenizer(part)["input_ids"]
    return found


SAID = ("go to shelf 1", "\n", START, "user\nmade up", END)


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ([START], "go to shelf 1\n"),
        (["\n" + START], "go to shelf 1"),
        ([START + "user"], "go to shelf 1\n"),
        (["shelf 1\n" + START], "go to "),
        ([START, "shelf"], "go to "),
        (["nothing", START], "go to shelf 1\n"),
    ],
)
@pytest.mark.parametrize("kind", ["session", "re-reading"])
def test_a_special_token_ends_an_answer(stop: list[str], text: str, kind: str) -> None:
    said = ids_of(*SAID)
    of: Any = (
        ReplanSession(model(), byte_level()) if kind == "session" else TransformersLanguageModel(model(), byte_level())
    )
    seen: list[str] = []
    answer = of.generate(
        start(), max_new_tokens=60, stop=stop, on_text=seen.append, allowed_tokens=lambda done: [said[len(done)]]
    )
    assert (answer.text, answer.finish_reason) == (text, "stop")
    assert all(text.startswith(part) for part in seen)
    if kind == "session":  # and the next call reads what the chat says, not what was generated after it
        longer = [*start(), {"role": "assistant", "content": text}, *turn("", 1)[1:]]
        fresh = ReplanSession(model(), byte_level())
        assert of.generate(longer, max_new_tokens=8).text == fresh.generate(longer, max_new_tokens=8).text


@pytest.mark.parametrize("middle", [START, "<|endoftext|>"])
def test_a_special_token_within_an_answer_is_not_kept_as_its_text(middle: str) -> None:
    said = ids_of("go to", middle, " shelf 1", END)
    session, fresh = (ReplanSession(model(), byte_level()) for _ in range(2))
    answer = session.generate(start(), max_new_tokens=60, allowed_tokens=lambda done: [said[len(done)]])
    assert answer.text == "go to shelf 1"
    longer = [*start(), *turn(answer.text, 1)]
    assert session.generate(longer, max_new_tokens=8).text == fresh.generate(longer, max_new_tokens=8).text


@pytest.mark.parametrize("mark", ["<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<function=f>"])
def test_the_marks_of_tool_calls_belong_to_the_text(mark: str) -> None:
    tokenizer = copy.deepcopy(byte_level())
    tokenizer.add_special_tokens({"additional_special_tokens": [mark]})
    ids = [
        *tokenizer("I call")["input_ids"],
        tokenizer.convert_tokens_to_ids(mark),
        *tokenizer('{"a": 1}')["input_ids"],
    ]
    special = SpecialTokens(tokenizer)
    assert special.text([*ids, tokenizer.eos_token_id]) == f'I call{mark}{{"a": 1}}'
    assert special.text(ids[:2]) == tokenizer.decode(ids[:2])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"repetition_penalty": 1.3}, "repetition_penalty=1.3"),
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size=3"),
        ({"suppress_tokens": [5]}, "suppress_tokens=[5]"),
        ({"num_beams": 4, "min_length": 9}, "min_length=9, num_beams=4"),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20}, None),
        ({}, None),
    ],
)
def test_generation_defaults_that_are_not_applied_are_named_once(
    setting: dict, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    of = copy.deepcopy(model())
    for name, value in setting.items():
        setattr(of.generation_config, name, value)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            ReplanSession(of, byte_level())
    told = [record.getMessage() for record in caplog.records if "generation_config" in record.getMessage()]
    assert told == (
        [] if said is None else [f"the model's generation_config asks for {said}: not applied, answers are greedy"]
    )


CPU = torch.device("cpu")
LOGITS = torch.tensor([1.0, 3.0, -2.0, 2.999, 40.0, 39.0]) * 3


@pytest.mark.parametrize("temperature", [1e-40, 1e-300, 5e-324, 1e-12])
@pytest.mark.parametrize(
    "logits", [LOGITS, -LOGITS, LOGITS * 1e4, torch.full((4,), -torch.inf).index_fill(0, torch.tensor(2), 5.0)]
)
def test_a_temperature_near_zero_is_greedy(temperature: float, logits: torch.Tensor) -> None:
    pick = sampler(temperature, 0.9, 3, CPU)
    assert {pick(logits) for _ in range(20)} == {int(logits.argmax())}


@pytest.mark.parametrize("top_p", [1e-300, 1e-45, 5e-324, 1e-9])
def test_a_nucleus_near_zero_is_the_first_token(top_p: float) -> None:
    pick = sampler(5.0, top_p, 3, CPU)
    assert {pick(LOGITS) for _ in range(20)} == {4}
    assert Counter(sampler(5.0, 1.0, 3, CPU)(LOGITS) for _ in range(3))


@pytest.mark.parametrize("temperature", [float("inf"), float("nan")])
def test_temperatures_that_are_no_numbers_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"finite|above 0"):
        sampler(temperature, 1.0, 3, CPU)
    with pytest.raises(ValueError, match="finite number"):
        ReplanSession(model(), byte_level()).generate(start(), max_new_tokens=2, temperature=temperature)


@pytest.mark.parametrize("seed", [2**64, 2**64 + 1, 2**70, -(2**63) - 1, -(10**40), 10**4000])
def test_seeds_beyond_64_bits_draw_alike_each_time(seed: int) -> None:
    def answer(number: int) -> str:
        session = ReplanSession(model(), byte_level())
        return session.generate(start(), max_new_tokens=12, temperature=2.0, seed=number).text

    assert 0 <= seed_in_64_bits(seed) < 2**64
    assert answer(seed) == answer(seed) != answer(seed - 1)
    whole = TransformersLanguageModel(model(), byte_level())
    assert whole.generate(start(), max_new_tokens=3, temperature=2.0, seed=seed).text
    ranked = ReplanSession(model(), byte_level(), evict_by="random", seed=seed, budget=Budget(kv_tokens=60))
    messages = start()
    for number in range(3):
        messages += turn(ranked.generate(messages, max_new_tokens=3).text, number)
    assert ranked.evicted_tokens > 0


def test_seeds_within_64_bits_are_those_of_torch() -> None:
    for seed in (0, 7, 2**63, 2**64 - 1, -1, -(2**63)):
        assert seed_in_64_bits(seed) == seed
