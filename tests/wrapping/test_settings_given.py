"""Generation settings mean the same by position, by configuration and by keyword; a folder's default is no wish."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

import erecap
from tests.tokens.models import prompt, tiny
from tests.wrapping.test_session_model import whole

WISHES: dict[str, tuple[dict[str, Any], str]] = {
    "no cache": ({"use_cache": False}, "caching off"),
    "static": ({"cache_implementation": "static"}, "cache implementation (cache_implementation)"),
    "dynamic": ({"cache_implementation": "dynamic"}, "cache implementation (cache_implementation)"),
    "lookup": ({"prompt_lookup_num_tokens": 3}, "assisted"),
}  # fmt: skip
LENGTHS: dict[str, dict[str, Any]] = {
    "max_new_tokens": {"max_new_tokens": 7},
    "penalty": {"max_new_tokens": 7, "repetition_penalty": 1.7},
    "ngrams": {"max_new_tokens": 9, "no_repeat_ngram_size": 2},
    "least": {"min_new_tokens": 5, "max_new_tokens": 9, "eos_token_id": list(range(2, 60))},
}
OPTIONS = {"session": {}, "prune": {"keep": 1.0}}


def ways(model: Any, ids: torch.Tensor, settings: dict[str, Any]) -> dict[str, tuple[tuple, dict]]:
    """Arguments of `generate` that all mean `settings`."""
    settings = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": 5} | settings
    config = GenerationConfig(**settings)
    mask = {"attention_mask": torch.ones_like(ids)}
    return {
        "keywords": ((ids,), mask | settings),
        "a configuration": ((), {"input_ids": ids, "generation_config": config} | mask),
        "by position": ((ids, config), mask),
        "inputs": ((), {"inputs": ids, "generation_config": config} | mask),
    }


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("settings", "reason"), WISHES.values(), ids=WISHES)
def test_a_wish_of_the_caller_is_passed_on_however_it_is_given(  # type: ignore[no-untyped-def]
    settings: dict[str, Any], reason: str, options: dict[str, Any], tmp_path
) -> None:
    model, ids = tiny("llama"), prompt(30)["input_ids"]
    for name, (args, kwargs) in ways(model, ids, settings).items():
        wrapped = erecap.wrap(model, **options, log=tmp_path / name)
        expected = model.generate(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        assert torch.equal(wrapped.generate(*args, **kwargs), expected), name
        [row] = [json.loads(line) for line in (tmp_path / name / "replans.jsonl").read_text().splitlines()]
        assert row["decision"] == "passed" and reason in row["reason"], name


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("settings", LENGTHS.values(), ids=LENGTHS)
def test_settings_that_are_served_mean_the_same_however_they_are_given(  # type: ignore[no-untyped-def]
    settings: dict[str, Any], options: dict[str, Any], tmp_path
) -> None:
    model, ids = tiny("llama"), prompt(30)["input_ids"]
    wrapped = erecap.wrap(model, **options, log=tmp_path)
    for args, kwargs in ways(model, ids, settings).values():
        expected = model.generate(*args, **kwargs)
        assert torch.equal(wrapped.generate(*args, **kwargs), expected)
    rows = [json.loads(line) for line in (tmp_path / "replans.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and all(row["decision"] != "passed" for row in rows)


@pytest.mark.parametrize("kind", ["hybrid", "static", "dynamic", "offloaded"])
@pytest.mark.parametrize("name", ["gemma3", "mistral"])
def test_a_default_of_the_folder_does_not_switch_pruning_off(name: str, kind: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = copy.deepcopy(tiny(name))
    model.generation_config.cache_implementation = kind
    config = erecap.PruneConfig(keep=0.5, stages=(2, 5))
    wrapped = erecap.wrap(model, prune=config, log=tmp_path)
    greedy = {"max_new_tokens": 5, "do_sample": False}
    ids = prompt(40)["input_ids"]
    got = wrapped.generate(**whole(ids), **greedy)
    again = wrapped.generate(**whole(ids), generation_config=copy.deepcopy(model.generation_config), **greedy)
    with erecap.prune(tiny(name), config) as cache:
        expected = tiny(name).generate(**whole(ids), **greedy, past_key_values=cache)
    assert torch.equal(got, expected) and torch.equal(again, expected)
    rows = [json.loads(line) for line in (tmp_path / "replans.jsonl").read_text().splitlines()]
    assert [row["decision"] for row in rows] == ["pruned", "pruned"]
