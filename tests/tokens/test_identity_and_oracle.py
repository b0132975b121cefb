"""keep = 1.0 is the unmodified model; a pruned run is its masked oracle. On every architecture."""

from __future__ import annotations

import pytest
import torch

from erecap.registries import mode_scorers
from erecap.tokens import PruneConfig, prune
from tests.tokens.models import ARCHITECTURES, padded, prompt, scorer_of, tiny
from tests.tokens.oracle import oracle_logits

NEW = 12
INPUTS = {"one": prompt(), "padded": padded()}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_keep_one_is_the_unmodified_model(name: str, inputs: str, attention: str) -> None:
    model = tiny(name, attention)
    plain = model.generate(**INPUTS[inputs], max_new_tokens=NEW, do_sample=False)
    for scorer in mode_scorers():
        with prune(model, PruneConfig(scorer=scorer_of(scorer), keep=1.0, stages=(1, 3, 4, 6))) as cache:
            ours = model.generate(**INPUTS[inputs], max_new_tokens=NEW, do_sample=False, past_key_values=cache)
        assert torch.equal(plain, ours), scorer
        assert len(cache.stage_log) == 4  # the full path ran, not a shortcut


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("scorer", mode_scorers())
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_pruned_generation_is_its_masked_oracle(name: str, scorer: str, inputs: str, attention: str) -> None:
    model = tiny(name, attention)
    given = INPUTS[inputs]
    with prune(model, PruneConfig(scorer=scorer_of(scorer), keep=0.7, stages=(2, 4, 6))) as cache:
        out = model.generate(
            **given, max_new_tokens=NEW, do_sample=False, past_key_values=cache, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    assert cache.kept_lengths()[-1] < cache.kept_lengths()[0]
    sequence = out.sequences[:, :-1]  # the last token was chosen, not read
    mask = torch.cat([given["attention_mask"], torch.ones(sequence.shape[0], NEW - 1, dtype=torch.long)], 1)
    expected = oracle_logits(model, sequence, mask, cache)[:, -NEW:]
    got = torch.stack(out.logits, 1)
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert torch.equal(expected.argmax(-1), out.sequences[:, -NEW:])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_pruning_changes_the_answer(name: str) -> None:
    """The oracle test could pass with masks that hide nothing; this one could not."""
    model, given = tiny(name), prompt()
    full = model(**given).logits[:, -1]
    with prune(model, PruneConfig(scorer="random", keep=0.5, stages=(1, 3, 5))) as cache, torch.no_grad():
        pruned = model(**given, past_key_values=cache).logits[:, -1]
    assert (full - pruned).abs().max() > 1e-3 * full.abs().max()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_later_unarmed_chunk_is_stored_whole_and_equals_token_by_token(name: str) -> None:
    """A chunk of drafted tokens is longer than 1 and must be neither pruned nor masked wrongly."""
    model, given = tiny(name), prompt()
    chunk = prompt(tokens=6, seed=9)["input_ids"]
    logits = {}
    for pieces in (1, 6):
        with prune(model, PruneConfig(scorer="attention", keep=0.6, stages=(2, 5))) as cache, torch.no_grad():
            model(**given, past_key_values=cache)
            before = cache.kept_lengths()
            parts = [model(part, past_key_values=cache).logits for part in chunk.split(6 // pieces, dim=1)]
            assert cache.kept_lengths() == [n + 6 for n in before]
        logits[pieces] = torch.cat(parts, 1)
    assert (logits[1] - logits[6]).abs().max() <= 1e-4 * logits[6].abs().max()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_rearmed_chunk_on_top_of_a_pruned_prompt_is_its_oracle(name: str) -> None:
    model, given = tiny(name), prompt()
    chunk = prompt(tokens=15, seed=10)["input_ids"]
    with prune(model, PruneConfig(scorer="random", keep=0.7, stages=(2, 5))) as cache, torch.no_grad():
        model(**given, past_key_values=cache)
        cache.arm(protect=[(40, 42)])
        got = model(chunk, past_key_values=cache).logits[:, -1]
        kept = cache.layout(7).index[0].tolist()
    assert {40, 41} <= set(kept) and len([i for i in kept if i >= 40]) == 8  # ceil(.7 * ceil(.7 * 15)) = 8
    ids = torch.cat([given["input_ids"], chunk], 1)
    expected = oracle_logits(model, ids, torch.ones_like(ids), cache)[:, -1]
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_beam_search_keeps_rows_and_layouts_together() -> None:
    model, given = tiny("llama"), prompt()
    plain = model.generate(**given, max_new_tokens=6, num_beams=3, do_sample=False)
    with prune(model, PruneConfig(scorer="recency", keep=1.0)) as cache:
        ours = model.generate(**given, max_new_tokens=6, num_beams=3, do_sample=False, past_key_values=cache)
    assert torch.equal(plain, ours)
