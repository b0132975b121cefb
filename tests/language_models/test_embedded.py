"""The embedded model: keep = 1.0 is the identity, and pruned decoding is the stock model under the oracle's masks."""

from __future__ import annotations

import pytest
import torch

from erecap.context.tokenize import render_prompt
from erecap.language_models.transformers import TransformersLanguageModel
from erecap.models import load
from erecap.tokens import SCORER_NAMES, PruneConfig, prune
from tests.tokens.oracle import oracle_logits

pytestmark = pytest.mark.integration

FACTS = " ".join(
    f"On shelf {number} you see a {thing} {number}."
    for number, thing in enumerate(["mug", "apple", "knife", "bowl", "plate", "pan"] * 5)
)
CHAT = [
    {"role": "system", "content": "You answer briefly."},
    {"role": "user", "content": "Remember what follows.", "protect": [(0, 22)]},
    {"role": "assistant", "content": "I will."},
    {"role": "user", "content": FACTS},
    {"role": "assistant", "content": "I have read it."},
    {"role": "user", "content": "What is the capital of France?"},
]


@pytest.fixture(scope="module")
def loaded():  # type: ignore[no-untyped-def]
    return load("smollm2-135m-instruct", dtype="float32")


def test_it_answers_and_stops(loaded) -> None:  # type: ignore[no-untyped-def]
    generation = TransformersLanguageModel(*loaded).generate(CHAT, max_new_tokens=30)
    assert "Paris" in generation.text and generation.finish_reason == "stop"


@pytest.mark.parametrize("scorer", SCORER_NAMES)
def test_keep_one_gives_the_same_tokens(loaded, scorer: str) -> None:  # type: ignore[no-untyped-def]
    full = TransformersLanguageModel(*loaded).generate(CHAT, max_new_tokens=16)
    ours = TransformersLanguageModel(*loaded, prune=PruneConfig(scorer, keep=1.0)).generate(CHAT, max_new_tokens=16)
    assert ours.text == full.text and ours.usage.kept_per_layer == full.usage.kept_per_layer


def test_a_pruned_prefill_equals_its_oracle(loaded) -> None:  # type: ignore[no-untyped-def]
    model, tokenizer = loaded
    ids = torch.tensor([render_prompt(CHAT, tokenizer).input_ids])
    with prune(model, PruneConfig("attention", 0.7)) as cache, torch.no_grad():
        got = model(ids, past_key_values=cache, logits_to_keep=1).logits[:, -1]
    assert cache.kept_lengths()[29] < 0.15 * ids.shape[1]
    expected = oracle_logits(model, ids, torch.ones_like(ids), cache)[:, -1]
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
