"""One test for each trap of transformers that token pruning falls into when done naively."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, Phi3Config, Phi3ForCausalLM

from erecap.tokens import PruneConfig, attach, prune
from erecap.tokens.cache.layout import Layout
from erecap.tokens.cache.masks import as_attention_mask, layer_windows, visible
from tests.tokens.models import ARCHITECTURES, WINDOW, prompt, tiny
from tests.tokens.oracle import oracle_logits


def _layout(indices: list[int]) -> Layout:
    index = torch.tensor([indices])
    return Layout(index, index, torch.ones_like(index, dtype=torch.bool), True)


def test_gaps_in_position_ids_are_not_packed_sequences() -> None:
    """Stock models take gaps for sequence boundaries; dropped tokens leave gaps in every deeper layer."""
    model = tiny("llama")
    seen: list[dict] = []
    handle = model.model.layers[5].register_forward_pre_hook(lambda m, a, k: seen.append(k), with_kwargs=True)
    try:
        with prune(model, PruneConfig("random", 0.5, (2,))) as cache, torch.no_grad():
            # Registered before pruning, so it sees what the model passes; ours are behind it.
            model(**prompt(), past_key_values=cache)
    finally:
        handle.remove()
    late: list[dict] = []
    with prune(model, PruneConfig("random", 0.5, (2,))) as cache, torch.no_grad():
        handle = model.model.layers[5].self_attn.register_forward_pre_hook(
            lambda m, a, k: late.append(k), with_kwargs=True
        )
        try:
            got = model(**prompt(), past_key_values=cache).logits[:, -1]
        finally:
            handle.remove()
    assert seen and late[0]["position_ids"] is None
    ids = prompt()["input_ids"]
    expected = oracle_logits(model, ids, torch.ones_like(ids), cache)[:, -1]
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_gapped_positions_given_by_the_caller_are_angles_only() -> None:
    model, given = tiny("llama"), prompt(20)
    positions = torch.cat([torch.arange(10), torch.arange(50, 60)]).unsqueeze(0)
    mask = torch.ones(20, 20, dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        expected = model(given["input_ids"], position_ids=positions, attention_mask=mask).logits[:, -1]
        with prune(model, PruneConfig(keep=1.0)) as cache:
            got = model(**given, position_ids=positions, past_key_values=cache).logits[:, -1]
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert cache.layout(0).positions.tolist() == positions.tolist()


def test_several_queries_over_a_longer_cache_get_a_mask() -> None:
    """SDPA without a mask would let the chunk see only the first keys."""
    assert visible(_layout([0, 3, 5, 6, 7]), _layout([5, 6, 7]), None).tolist() == [
        [[[True, True, True, False, False], [True, True, True, True, False], [True] * 5]]
    ]
    assert visible(_layout([5, 6, 7]), _layout([5, 6, 7]), None) is None  # plain causal: the fast path
    assert visible(_layout([0, 3, 5]), _layout([5]), None) is None  # one query sees all


def test_layers_of_different_length_take_a_chunk() -> None:
    """The stock mask is sized from layer 0 and does not fit the others."""
    model, given = tiny("mistral"), prompt()
    with prune(model, PruneConfig("recency", 0.5, (2, 4))) as cache, torch.no_grad():
        model(**given, past_key_values=cache)
        assert len(set(cache.kept_lengths())) == 3
        chunk = prompt(5, seed=8)["input_ids"]
        got = model(chunk, past_key_values=cache).logits
    ids = torch.cat([given["input_ids"], chunk], 1)
    expected = oracle_logits(model, ids, torch.ones_like(ids), cache)[:, -5:]
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_sequence_length_is_logical() -> None:
    model = tiny("llama")
    with prune(model, PruneConfig("recency", 0.5, (1,))) as cache, torch.no_grad():
        model(**prompt(40), past_key_values=cache)
        assert cache.get_seq_length() == 40 and cache.get_seq_length(7) == 40 and cache.kept_lengths()[7] == 20
        model(torch.tensor([[5]]), past_key_values=cache)
        assert cache.layout(7).positions[0, -1] == 40


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("llama", [None] * 8),
        ("qwen2", [None] * 8),
        ("qwen3", [None] * 8),
        ("mistral", [WINDOW] * 8),
        ("gemma3", [WINDOW, WINDOW, None, WINDOW, WINDOW, None, WINDOW, WINDOW]),
        ("phi3", [None] * 8),
    ],
)
def test_windows_are_found_where_each_architecture_states_them(name: str, windows: list) -> None:
    assert layer_windows(tiny(name).config) == windows


def test_phi3_states_its_window_in_the_configuration_only() -> None:
    assert layer_windows(Phi3Config(num_hidden_layers=2, sliding_window=7)) == [7, 7]


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_windowed_layers_are_stored_whole_and_masked_by_distance(name: str) -> None:
    """A stock sliding layer evicts by index, which after dropping is the wrong distance."""
    model = tiny(name)
    with prune(model, PruneConfig("random", 0.6, (2, 5))) as cache:
        model.generate(**prompt(40), max_new_tokens=3, do_sample=False, past_key_values=cache)
    assert cache.kept_lengths()[0] == 42 and not any(cache.is_sliding)
    mask = visible(_layout([0, 10, 20, 21]), _layout([20, 21]), 12)
    assert mask.tolist() == [[[[False, True, True, False], [False, True, True, True]]]]


def _longrope() -> Phi3ForCausalLM:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
    }
    config = Phi3Config(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, original_max_position_embeddings=32, pad_token_id=0,
        bos_token_id=1, eos_token_id=None, rope_parameters=rope,
    )  # fmt: skip
    torch.manual_seed(1)
    return Phi3ForCausalLM(config).eval()


def test_phi3_dropping_its_cache_at_the_rope_switch_is_not_silent() -> None:
    model = _longrope()
    with prune(model, PruneConfig("recency", 0.5, (3,))) as cache:
        with pytest.raises(ValueError, match="long-rope switch at 32"):
            model.generate(**prompt(30), max_new_tokens=8, do_sample=False, past_key_values=cache)
    with prune(model, PruneConfig("recency", 0.5, (3,))) as cache:  # either side alone is fine
        model.generate(**prompt(20), max_new_tokens=8, do_sample=False, past_key_values=cache)
    with prune(model, PruneConfig("recency", 0.5, (3,))) as cache:
        model.generate(**prompt(40), max_new_tokens=8, do_sample=False, past_key_values=cache)


def test_the_stock_model_beside_it_crosses_the_switch_freely() -> None:
    model = _longrope()
    expected = model.generate(**prompt(30), max_new_tokens=8, do_sample=False)
    with prune(model, PruneConfig("recency", 0.5, (3,))):
        assert torch.equal(model.generate(**prompt(30), max_new_tokens=8, do_sample=False), expected)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_verification_chunks_are_not_pruned(name: str) -> None:
    model = tiny(name)
    with prune(model, PruneConfig("random", 0.5, (2,))) as cache, torch.no_grad():
        model(**prompt(20), past_key_values=cache)
        before = cache.kept_lengths()
        model(prompt(9, seed=2)["input_ids"], past_key_values=cache)
        assert cache.kept_lengths() == [n + 9 for n in before]


def test_a_cache_without_hooks_says_so() -> None:
    model = tiny("llama")
    with prune(model, PruneConfig("recency", 0.5, (2,))) as cache, torch.no_grad():
        model(**prompt(), past_key_values=cache)
    with pytest.raises(RuntimeError, match="inside `with erecap\\.prune"):
        model(torch.tensor([[5]]), past_key_values=cache)
    with attach(model, cache), torch.no_grad():
        model(torch.tensor([[5]]), past_key_values=cache)
    assert cache.get_seq_length() == 41


def test_four_dimensional_masks_are_refused() -> None:
    model = tiny("llama")
    with prune(model) as cache, pytest.raises(ValueError, match="2-D attention_mask"):
        model(prompt()["input_ids"], attention_mask=torch.ones(1, 1, 40, 40), past_key_values=cache)


def test_masks_that_an_implementation_cannot_express() -> None:
    stored, live = _layout([0, 3, 30]), _layout([30])
    with pytest.raises(ValueError, match="counts a sliding window"):
        as_attention_mask(visible(stored, live, 8), "flash_attention_2", stored, live, 8, torch.float32)
    assert as_attention_mask(None, "flash_attention_2", stored, live, None, torch.float32) is None
    with pytest.raises(ValueError, match="not 'flex_attention'"):
        as_attention_mask(None, "flex_attention", stored, live, None, torch.float32)


def test_crop_is_by_sequence_not_by_storage() -> None:
    """Assisted decoding rolls back rejected tokens; the layers store different numbers of the others."""
    model, given = tiny("llama"), prompt()
    step = torch.tensor([[7]])
    with prune(model, PruneConfig("random", 0.5, (2, 4))) as cache, torch.no_grad():
        model(**given, past_key_values=cache)
        lengths = cache.kept_lengths()
        expected = model(step, past_key_values=cache).logits
        cache.crop(-1)
        model(prompt(5, seed=8)["input_ids"], past_key_values=cache)
        cache.crop(-5)
        assert cache.kept_lengths() == lengths and cache.get_seq_length() == 40
        assert torch.equal(model(step, past_key_values=cache).logits, expected)
    with pytest.raises(ValueError, match="minus the number"):
        cache.crop(3)


def test_other_caches_pass_through_unchanged() -> None:
    model, given = tiny("gemma3"), prompt()
    expected = model.generate(**given, max_new_tokens=5, do_sample=False)
    with prune(model, PruneConfig("attention", 0.5, (2,))):
        stock = DynamicCache(config=model.config)
        assert torch.equal(model.generate(**given, max_new_tokens=5, do_sample=False, past_key_values=stock), expected)
