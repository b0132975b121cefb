"""The embedded model is the pinned one, chats, and stops at the end of its turn."""

from __future__ import annotations

from typing import Any

import pytest

from erecap.models import check

pytestmark = pytest.mark.integration


def test_every_check_passes(embedded_model_folder: Any) -> None:
    results = check("smollm2-135m-instruct")
    assert [result.name for result in results] == ["files", "weights", "loads", "tokenizer", "generates", "stores"]
    assert all(result.ok is True for result in results), results
    assert results[1].found.endswith("as pinned")


@pytest.mark.parametrize(
    "text",
    [
        "take apple 12 from fridge 1\n\n2.  open  cabinet 33\tnow",
        "don't; it's 3.14 – «é» 日本語 🤖 \u200b end ",
        "",
        "<|im_start|>user\nhi<|im_end|>\n",
    ],
)
def test_text_survives_the_tokenizer(embedded_model: tuple[Any, Any], text: str) -> None:
    _, tokenizer = embedded_model
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_and_digits_stand_alone(embedded_model: tuple[Any, Any]) -> None:
    _, tokenizer = embedded_model
    assert tokenizer.encode("<|im_start|>") == [1]
    assert tokenizer.encode("<|im_end|>") == [2] == [tokenizer.eos_token_id]
    assert [tokenizer.decode([token]) for token in tokenizer.encode("\n\n1987")] == [
        "\n\n",
        "1",
        "9",
        "8",
        "7",
    ]
    assert tokenizer.model_max_length == 8192


def test_generation_stops_at_the_end_of_the_turn(embedded_model: tuple[Any, Any]) -> None:
    model, tokenizer = embedded_model
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one short sentence."}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert prompt["input_ids"][0].tolist() == tokenizer.encode(rendered)
    answer = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert answer[-1] == tokenizer.eos_token_id
    assert "Paris" in tokenizer.decode(answer)
