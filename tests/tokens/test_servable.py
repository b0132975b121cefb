"""Models are let in by what a few tokens show, and refused in one sentence when they are wrapped."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import erecap
from erecap.errors import ConfigError
from erecap.models.cache_argument import CACHE, given_cache
from erecap.tokens.hooks import find_decoder
from erecap.tokens.servable import INSTEAD, attention_problem, prune_problem, read_problem
from tests.tokens.families import GREEDY, family, ids_of, whole
from tests.tokens.oracle import oracle_logits
from tools.architectures.tokenizer import chat_tokenizer

# Caches under another name, layers without rotary embeddings, interleaved ones, experts, absolute positions, masks and
# positions of a class around the decoder, a decoder that is not where classes usually have it.
SERVED = ("gpt_neox", "gpt_neox_japanese", "cohere2_moe", "starcoder2", "glm4", "biogpt", "olmo3", "gemma4", "mllama")
REFUSED = {
    "mamba": "linear_attention", "zamba2": "hybrid", "recurrent_gemma": "recurrent", "lfm2_moe": "conv",
    "gemma3n_text": "share the keys and values", "llama4_text": "chunked_attention", "glm_moe_dsa": "indexed_attention",
    "gpt2": "no list of decoder layers", "bloom": "no list of decoder layers", "bert": "no list of decoder layers",
    "mbart": "takes no positions", "doge": "other logits when it reads in pieces",
}  # fmt: skip


@pytest.mark.parametrize("kind", SERVED)
def test_a_family_that_is_let_in_is_the_bare_model_and_the_masked_one(kind: str) -> None:
    model, ids = family(kind), ids_of(45)
    assert read_problem(model) is None and prune_problem(model) is None
    expected = model.generate(**whole(ids), **GREEDY)
    assert torch.equal(erecap.wrap(model, keep=1.0).generate(**whole(ids), **GREEDY), expected)
    with erecap.prune(model, erecap.PruneConfig("random", keep=0.5, stages=(2, 5))) as cache:
        got = model.generate(
            **whole(ids), **GREEDY, past_key_values=cache, return_dict_in_generate=True, output_logits=True
        )
    kept = [length for length in cache.prompt_kept if length]
    assert kept[0] == 45 and kept[-1] == 12  # ceil(.5 * ceil(.5 * 45))
    sequence = got.sequences[:, :-1]
    wanted = oracle_logits(model, sequence, torch.ones_like(sequence), cache)[:, -6:]
    assert (torch.stack(got.logits, 1) - wanted).abs().max() <= 1e-3 * wanted.abs().max()


@pytest.mark.parametrize(("kind", "reason"), REFUSED.items())
def test_a_refusal_names_the_class_and_what_works_when_it_is_wrapped(kind: str, reason: str) -> None:
    model, ids = family(kind), ids_of(30)
    ways: dict[str, Any] = {
        "budget": lambda: erecap.wrap(model, budget=64),
        "keep": lambda: erecap.wrap(model, prune=erecap.PruneConfig(keep=0.5, stages=(2,))),
        "session": lambda: erecap.ReplanSession(model, chat_tokenizer()),
    }
    for make in ways.values():
        with pytest.raises((ValueError, ConfigError), match=reason) as told:
            make()
        said = str(told.value)
        assert type(model).__name__ in said and said.endswith(INSTEAD) and "\n" not in said
    with pytest.warns(UserWarning, match=reason):
        wrapped = erecap.wrap(model)
    assert torch.equal(wrapped.generate(**whole(ids), **GREEDY), model.generate(**whole(ids), **GREEDY))


class _Deaf(LlamaForCausalLM):
    """Its decoder hides the cache from the layers, so that hooks on them never engage."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop(CACHE, None)
        return super().forward(*args, **kwargs)


class _Unequal(LlamaForCausalLM):
    """Its second layer computes anew what the first has stored."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        cache = given_cache(kwargs)
        output = super().forward(*args, **kwargs)
        if cache is not None and cache.get_seq_length() > 6:
            output.logits = output.logits.flip(-1)
        return output


@pytest.mark.parametrize("kind", [_Deaf, _Unequal])
def test_hooks_that_do_not_engage_are_noticed(kind: Any) -> None:
    model = kind(family("llama").config).eval()
    with pytest.raises(ValueError, match=f"^{kind.__name__} .*; call the model itself"):
        erecap.ReplanSession(model, chat_tokenizer())


def test_attention_that_cannot_be_seen_is_refused_where_it_is_ranked_by() -> None:
    for kind in ("xglm", "gpt_neox_japanese"):
        model = family(kind)
        if read_problem(model) is not None:
            continue
        assert attention_problem(model) is not None
        with pytest.raises(ValueError, match="rank by 'recency'"):
            erecap.ReplanSession(model, chat_tokenizer(), evict_by="attention")
        with pytest.raises(ConfigError, match="rank by 'recency'"):
            erecap.wrap(model, prune=erecap.PruneConfig("attention", 0.5, (2,)))
        erecap.ReplanSession(model, chat_tokenizer(), evict_by="random")
    assert attention_problem(family("starcoder2")) is None


def test_the_probe_is_made_once_and_leaves_nothing_behind() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=97, **sizes)
    model = LlamaForCausalLM(config).eval()
    reads: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: reads.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    for _ in range(3):
        erecap.wrap(model, prune=erecap.PruneConfig(keep=0.5, stages=(2,)))
        erecap.ReplanSession(model, chat_tokenizer())
    handle.remove()
    assert reads == [12, 6, 6, 12]  # bare, in two pieces, pruned
    decoder = find_decoder(model)
    assert not decoder._forward_pre_hooks and not decoder.layers[0]._forward_pre_hooks and not model._forward_pre_hooks


def test_a_model_in_training_is_asked_again_once_it_is_not() -> None:
    model = family("starcoder2").__class__(family("starcoder2").config)
    model.train()
    assert read_problem(model) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped = erecap.wrap(model)
    model.eval()
    ids = ids_of(20)
    assert torch.equal(wrapped.generate(**whole(ids), **GREEDY), model.generate(**whole(ids), **GREEDY))
