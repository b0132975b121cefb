"""A wrapped model with early exit gives the bare model's answers, with whatever its `generate` is asked for."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.generation.streamers import BaseStreamer

import erecap
from erecap.config.exits import Exit
from erecap.errors import ConfigError
from tests.context.small_tokenizers import byte_level
from tests.decoding.exiting import drafting_always_pays as drafting_always_pays
from tests.tokens.models import ARCHITECTURES, prompt, tiny

EARLY = {"layer": 5, "threshold": 0.0, "drafts": 3}


def whole(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Heard(BaseStreamer):
    """A streamer that keeps the tokens it was shown."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_growing_chat_is_answered_as_bare(name: str, tmp_path: Path) -> None:
    model = tiny(name)
    wrapped = erecap.wrap(model, exit=EARLY, log=tmp_path)
    ids = prompt(30, 1)["input_ids"]
    for turn in range(4):
        expected = model.generate(**whole(ids), max_new_tokens=6, do_sample=False)
        assert torch.equal(wrapped.generate(**whole(ids), max_new_tokens=6, do_sample=False), expected), turn
        ids = torch.cat([expected, prompt(7, 100 + turn)["input_ids"]], 1)
    rows = [json.loads(line) for line in (tmp_path / "replans.jsonl").read_text().splitlines()]
    assert [row["decision"] for row in rows] == ["read"] + ["reused"] * 3
    assert all(row["exit_bytes"] > 0 and isinstance(row["exit_layers"], list) for row in rows)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "temperature": 0.7, "top_k": 20},
        {"repetition_penalty": 1.4},
        {"eos_token_id": list(range(2, 60))},
        {"eos_token_id": torch.tensor(7)},
        {"stop_strings": ["a", "e", "o"], "tokenizer": byte_level()},
        {"min_new_tokens": 6, "eos_token_id": list(range(2, 60))},
        {"max_length": 31},
        {"prefix_allowed_tokens_fn": lambda batch, ids: [5 + len(ids) % 7, 40, 41]},
    ],
)
def test_processors_and_criteria_of_a_call_hold(options: dict[str, Any]) -> None:
    model, ids = tiny("qwen3"), prompt(30, 2)["input_ids"]
    wrapped = erecap.wrap(model, exit=Exit(**EARLY))
    options = {"do_sample": False, **({} if "max_length" in options else {"max_new_tokens": 9}), **options}
    for turn in range(2):
        found = []
        for one in (model, wrapped):
            torch.manual_seed(turn)
            heard = Heard()
            found.append(one.generate(**whole(ids), streamer=heard, **options))
            assert heard.ended and heard.tokens == found[-1][0].tolist()
        assert torch.equal(*found)


def test_a_call_for_a_dictionary_decodes_with_all_layers_and_copies_have_exits_too(tmp_path: Path) -> None:
    model, ids = tiny("llama"), prompt(30, 3)["input_ids"]
    wrapped = erecap.wrap(model, exit=EARLY, budget=64, log=tmp_path)
    asked = {"max_new_tokens": 5, "do_sample": False}
    output = wrapped.generate(**whole(ids), **asked, return_dict_in_generate=True, output_scores=True)
    assert torch.equal(output.sequences, model.generate(**whole(ids), **asked)) and len(output.scores) == 5
    assert torch.equal(copy.copy(wrapped).generate(**whole(ids), **asked), output.sequences)
    rows = [json.loads(line) for line in (tmp_path / "replans.jsonl").read_text().splitlines()]
    assert ["exit_bytes" in row for row in rows] == [False, True]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"exit": {"layer": 8}}, "exit: layer is 8; allowed: 1 to 7 of this model"),
        ({"exit": {"layer": 3, "lossless": False}}, "gives the bare model's answers; allowed: settings with lossless"),
        ({"exit": 7}, "exit must be None, an Exit, a mapping such as {'layer': 20}, or the name or folder .* got 7"),
        ({"exit": {"layer": 3}, "keep": 0.5}, "there is no session for exit"),
    ],
)
def test_what_cannot_be_had_is_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        erecap.wrap(tiny("llama"), **options)
    with pytest.raises(ConfigError, match="exit: for models, which have keys and values"):
        erecap.wrap(lambda messages: "go", exit={"layer": 3})


def test_false_is_no_early_exit(tmp_path: Path) -> None:
    wrapped = erecap.wrap(tiny("llama"), exit=False, log=tmp_path)
    wrapped.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False)
    assert "exit_bytes" not in json.loads((tmp_path / "replans.jsonl").read_text())
    erecap.wrap(lambda messages: "go", keep_tokens=100, exit=False)  # nothing that it could not have
