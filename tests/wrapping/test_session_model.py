"""`erecap.wrap(model)`: the bare model's answers, on every architecture, while each token is read once."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

import erecap
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model as chat_model
from tests.tokens.models import ARCHITECTURES, prompt, tiny

GREEDY = {"max_new_tokens": 5, "do_sample": False}


def ids_of(tokens: int, seed: int) -> torch.Tensor:
    return prompt(tokens, seed)["input_ids"]


def whole(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def rows_of(folder: Any) -> list[dict]:
    return [json.loads(line) for line in (folder / "replans.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_growing_chat_is_read_once_and_answered_as_bare(name: str, attention: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = tiny(name, attention)
    wrapped = erecap.wrap(model, log=tmp_path)
    ids = ids_of(30, 1)
    for turn in range(30):
        expected = model.generate(**whole(ids), **GREEDY)
        assert torch.equal(wrapped.generate(**whole(ids), **GREEDY), expected), turn
        final = ids.shape[1]
        ids = torch.cat([expected, ids_of(7, 100 + turn)], 1)
    rows = rows_of(tmp_path)
    assert sum(row["new_tokens"] for row in rows) <= 1.05 * final
    assert [row["decision"] for row in rows] == ["read"] + ["reused"] * 29
    assert all(row["prompt_tokens"] == row["new_tokens"] + row["reused_tokens"] for row in rows)
    assert wrapped.conversations.count == 1 and wrapped.conversations.stored_tokens == final + 4
    assert all(row["kept_per_layer"] == [row["prompt_tokens"]] * 8 for row in rows)  # of the prompt, not of the answer
    assert all(row["kept_tokens"] == row["prompt_tokens"] for row in rows)
    assert rows[-1]["kv_bytes"] == wrapped.conversations.kv_bytes > 0 and rows[-1]["evicted"] == 0


def test_the_model_is_run_over_the_new_tokens_only() -> None:
    model = tiny("llama")
    wrapped = erecap.wrap(model)
    seen: list[int] = []
    handle = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    first = wrapped.generate(**whole(ids_of(40, 1)), **GREEDY)
    seen.clear()
    wrapped.generate(**whole(torch.cat([first, ids_of(6, 2)], 1)), **GREEDY)
    handle.remove()
    assert seen == [7, 1, 1, 1, 1]  # the last token of the answer was generated, and not read


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sampling_and_scores(name: str) -> None:
    model, ids = tiny(name), ids_of(30, 4)
    wrapped = erecap.wrap(model)
    options = {"do_sample": True, "top_k": 20, "temperature": 0.8, "max_new_tokens": 8, "return_dict_in_generate": True}
    for turn in range(3):
        outputs = []
        for target in (model, wrapped):
            torch.manual_seed(turn)
            outputs.append(target.generate(**whole(ids), **options, output_scores=True, output_logits=True))
        bare, ours = outputs
        assert torch.equal(bare.sequences, ours.sequences) and type(bare) is type(ours)
        for kind in ("scores", "logits"):
            for a, b in zip(getattr(bare, kind), getattr(ours, kind), strict=True):
                assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(a[a.isfinite()].abs().max()))
        ids = torch.cat([bare.sequences, ids_of(9, 50 + turn)], 1)
        # The cache that comes back works without us, and goes on as the bare model's own.
        following = [
            model.generate(**whole(ids), **GREEDY, past_key_values=output.past_key_values) for output in outputs
        ]
        assert torch.equal(*following) and torch.equal(following[0], model.generate(**whole(ids), **GREEDY))


class Collected(BaseStreamer):
    def __init__(self) -> None:
        self.got: list[list[int]] = []

    def put(self, value: torch.Tensor) -> None:
        self.got.append(value.flatten().tolist())

    def end(self) -> None:
        self.got.append([])


class StopsAfter(StoppingCriteria):
    """Stops once the text has that many tokens; sees all of it."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.tensor([input_ids.shape[1] >= self.tokens])


def no_repeats(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """A logits processor that looks at the whole text."""
    return scores.scatter(1, input_ids, -torch.inf)


OPTIONS: dict[str, dict[str, Any]] = {
    "processor": {"logits_processor": [no_repeats], "max_new_tokens": 6},
    "penalty": {"repetition_penalty": 1.7, "max_new_tokens": 6},
    "ngrams": {"no_repeat_ngram_size": 2, "max_new_tokens": 12},
    "criteria": {"stopping_criteria": StoppingCriteriaList([StopsAfter(47)]), "max_new_tokens": 20},
    "allowed": {"prefix_allowed_tokens_fn": lambda batch, ids: [5, 6, 7 + len(ids) % 20], "max_new_tokens": 6},
    "max_length": {"max_length": 49},
    "default length": {},
    "least": {"min_new_tokens": 4, "max_new_tokens": 9, "eos_token_id": list(range(2, 60))},
    "end": {"max_new_tokens": 9, "eos_token_id": list(range(2, 60))},
    "chunks": {"prefill_chunk_size": 4, "max_new_tokens": 5},
    "guidance": {"guidance_scale": 1.5, "max_new_tokens": 5},
    "config": {"generation_config": GenerationConfig(max_new_tokens=7, repetition_penalty=1.3, pad_token_id=0)},
}


@pytest.mark.parametrize("name", ["llama", "gemma3"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_of_generate(options: dict[str, Any], name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = tiny(name)
    wrapped = erecap.wrap(model, log=tmp_path)
    start = ids_of(36, 8)
    wrapped.generate(**whole(start), **GREEDY)
    ids = torch.cat([start, ids_of(9, 9)], 1)
    streams = Collected(), Collected()
    expected, got = (
        target.generate(**whole(ids), do_sample=False, **options, streamer=stream)
        for target, stream in zip((model, wrapped), streams, strict=True)
    )
    assert torch.equal(expected, got) and streams[0].got == streams[1].got and streams[0].got
    assert rows_of(tmp_path)[-1]["reused_tokens"] == 36


def test_a_configuration_by_position() -> None:
    model = tiny("llama")
    wrapped, ids = erecap.wrap(model), ids_of(30, 3)
    config = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0)
    expected = model.generate(ids, config)
    for _ in range(2):
        assert torch.equal(wrapped.generate(ids, config), expected)
        assert torch.equal(wrapped.generate(inputs=ids, generation_config=config), expected)
    with pytest.raises(TypeError):
        wrapped.generate(ids, config, inputs=ids)


def test_stop_strings() -> None:
    model, tokenizer = chat_model("llama"), byte_level()
    wrapped = erecap.wrap(model)
    ids = tokenizer("You see a mug on the shelf. ", return_tensors="pt")["input_ids"]
    free = model.generate(**whole(ids), max_new_tokens=12, do_sample=False)
    stop = tokenizer.decode(free[0, -6:-4])
    options = {"max_new_tokens": 12, "do_sample": False, "stop_strings": [stop], "tokenizer": tokenizer}
    expected = model.generate(**whole(ids), **options)
    assert expected.shape[1] < free.shape[1]
    assert torch.equal(wrapped.generate(**whole(ids), **options), expected)
    assert torch.equal(wrapped.generate(**whole(ids), max_new_tokens=12, do_sample=False), free)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_two_chats_that_take_turns_share_their_beginning(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = tiny(name)
    wrapped = erecap.wrap(model, log=tmp_path)
    head = ids_of(30, 1)
    chats = [torch.cat([head, ids_of(25, seed)], 1) for seed in (2, 3)]
    for turn in range(6):
        for number, ids in enumerate(chats):
            expected = model.generate(**whole(ids), **GREEDY)
            assert torch.equal(wrapped.generate(**whole(ids), **GREEDY), expected)
            chats[number] = torch.cat([expected, ids_of(5, 10 * turn + number)], 1)
    rows = rows_of(tmp_path)
    assert [row["new_tokens"] for row in rows] == [55, 25] + [6] * 10
    assert "forked at token 30" in rows[1]["reason"] and wrapped.conversations.count == 2


def test_an_edited_history_is_read_from_the_edit_on(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = tiny("qwen3")
    wrapped = erecap.wrap(model, log=tmp_path)
    ids = ids_of(60, 1)
    wrapped.generate(**whole(ids), **GREEDY)
    edited = ids.clone()
    edited[0, 40] = 2 + edited[0, 40] % 90
    longer = torch.cat([ids, ids_of(10, 2)], 1)
    again = torch.cat([model.generate(**whole(ids), **GREEDY)[:, :-3], ids_of(3, 4)], 1)  # another end of the answer
    for given in (edited, longer, ids, ids, ids[:, :20], again):
        expected = model.generate(**whole(given), **GREEDY)
        assert torch.equal(wrapped.generate(**whole(given), **GREEDY), expected)
    assert [row["new_tokens"] for row in rows_of(tmp_path)] == [60, 20, 10, 1, 1, 1, 3]


def test_an_error_in_the_callers_code_leaves_what_was_read() -> None:
    model = tiny("llama")
    wrapped, ids = erecap.wrap(model), ids_of(40, 1)

    def broken(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] == 43:
            raise OSError("the caller's")
        return scores

    with pytest.raises(OSError, match="caller's"):
        wrapped.generate(**whole(ids), **GREEDY, logits_processor=[broken])
    assert wrapped.conversations.stored_tokens == 40
    assert torch.equal(wrapped.generate(**whole(ids), **GREEDY), model.generate(**whole(ids), **GREEDY))
    assert wrapped.conversations.count == 1


def test_a_call_that_transformers_refuses_stores_nothing() -> None:
    wrapped = erecap.wrap(tiny("llama"))
    with pytest.raises(ValueError, match="temperature"):
        wrapped.generate(**whole(ids_of(30, 1)), do_sample=True, temperature=-1.0)
    assert wrapped.conversations.count == 0


@pytest.mark.integration
def test_a_chat_through_the_template_of_a_real_model(embedded_model, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model, tokenizer = embedded_model
    wrapped, chat = erecap.wrap(model, log=tmp_path), []
    for seen in ("You see a mug. Put it into the sink.", "The mug slipped.", "You hold the mug.", "The sink is full."):
        chat.append({"role": "user", "content": f"{seen} Your next step?"})
        given = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        expected = model.generate(**given, max_new_tokens=12, do_sample=False)
        assert torch.equal(wrapped.generate(**given, max_new_tokens=12, do_sample=False), expected)
        length = given["input_ids"].shape[1]
        # As text, an answer is tokenized anew, and stripped.
        chat.append(
            {"role": "assistant", "content": tokenizer.decode(expected[0, length:], skip_special_tokens=True).strip()}
        )
    rows = rows_of(tmp_path)
    assert [row["decision"] for row in rows] == ["read", "reused", "reused", "reused"]
    assert all(row["new_tokens"] <= 40 for row in rows[1:])
