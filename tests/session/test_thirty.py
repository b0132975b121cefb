"""Thirty turns: answers stay those of the unmodified model, or of its masked oracle, on every architecture."""

from __future__ import annotations

import pytest
import torch

from erecap.budget import Budget
from erecap.session import ReplanSession
from erecap.tokens import PruneConfig
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start
from tests.session.oracle import Watch
from tests.tokens.models import ARCHITECTURES

TURNS, NEW = 30, 5


def short_turn(number: int) -> dict:
    return {"role": "user", "content": f"mug {number * 7}"}


def choices(name: str, ids: list[int]) -> list[int]:
    """The unmodified model's greedy choice after each of `ids`, all read at once."""
    with torch.no_grad():
        return model(name)(torch.tensor([ids])).logits[0].argmax(-1).tolist()


@pytest.mark.parametrize("how", ["whole", "append"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_unpruned_answers_are_those_of_the_model_re_reading_the_ids(name: str, how: str) -> None:
    session = ReplanSession(model(name), byte_level())
    messages, new = start(), start()
    answers: list[tuple[int, int]] = []  # spans of generated tokens
    for number in range(TURNS):
        before = session.token_ids
        if how == "append":
            session.append(new)
        generation = session.generate(None if how == "append" else messages, max_new_tokens=NEW)
        assert session.token_ids[: len(before)] == before  # nothing read is ever read again
        prompt = generation.usage.prompt_tokens
        assert session.token_ids[prompt:] + session.conversation.pending and generation.usage.completion_tokens == NEW
        answers.append((prompt, prompt + NEW))
        new = [short_turn(number)]
        messages += [{"role": "assistant", "content": generation.text}, *new]
    session.read(messages)
    # One pass over all ids: a causal model's choice after a token is that of a model that has read only so far.
    ids = session.token_ids
    expected = choices(name, ids)
    for low, high in answers:
        assert ids[low:high] == expected[low - 1 : high - 1]
    text = byte_level().apply_chat_template(messages, tokenize=False)
    assert text.startswith(byte_level().decode(ids))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_with_replies_of_the_host_they_are_those_of_the_chat_template(name: str) -> None:
    session = ReplanSession(model(name), byte_level(), draft=False)
    messages, firsts, given = start(), [], []
    for number in range(TURNS):
        generation = session.generate(messages, max_new_tokens=2)
        given = byte_level().apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
        assert session.token_ids[: generation.usage.prompt_tokens] == given
        firsts.append((len(given), session.token_ids[len(given)]))
        messages += [{"role": "assistant", "content": f"go to shelf {number}"}, short_turn(number)]
    expected = choices(name, given)
    assert [token for _, token in firsts] == [expected[place - 1] for place, _ in firsts]


@pytest.mark.parametrize(("name", "pruned"), [*((name, True) for name in ARCHITECTURES), ("llama", False)])
def test_under_a_budget_they_are_those_of_the_masked_oracle(name: str, pruned: bool) -> None:
    evict_by = {"qwen2": "attention", "qwen3": "random", "gemma3": "attention"}.get(name, "recency")
    prune = PruneConfig("recency", 0.8, (3, 5)) if pruned else None
    session = ReplanSession(model(name), byte_level(), prune=prune, budget=Budget(kv_tokens=90), evict_by=evict_by)
    watch = Watch(session)
    session.append([start()[0], {"role": "user", "content": "Goal: cool the apple 1."}])
    for number in range(TURNS):
        session.generate(max_new_tokens=NEW)
        assert max(session.cache.kept_lengths()) <= 90
        session.append([short_turn(number)])
        assert max(session.cache.kept_lengths()) <= 90
    assert session.cache.get_seq_length() > 4 * 90 and session.cache.kept_lengths()[0] == 90
    assert watch.worst_error() <= 1e-4
