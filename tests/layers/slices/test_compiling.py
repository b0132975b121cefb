"""torch.compile: plain calls run compiled code, sessions and pruning run the modules."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from erecap.errors import ModelError
from erecap.layers.slices import compiling
from erecap.layers.slices.compiling import compile_problem, compiled
from erecap.session.session import ReplanSession
from erecap.tokens import PruneConfig, prune
from tests.context.small_tokenizers import byte_level
from tests.session.chats import start

IDS = torch.randint(2, 97, (1, 12), generator=torch.Generator().manual_seed(4))


def small() -> LlamaForCausalLM:
    """Two layers over the byte-level tokenizer's vocabulary: tracing takes its time."""
    torch.manual_seed(6)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(byte_level()), num_key_value_heads=2, max_position_embeddings=2048, **sizes)
    return LlamaForCausalLM(config).eval()


def test_sessions_and_pruning_step_aside() -> None:
    model, compilations = small(), []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        compilations.append(graph)
        return graph.forward

    def answer() -> str:
        return ReplanSession(model, byte_level(), budget=100).generate(start(), max_new_tokens=6).text

    def kept() -> tuple[int, ...]:
        with torch.no_grad(), prune(model, PruneConfig(scorer="recency", keep=0.5, stages=(1,), sinks=1)) as cache:
            model(IDS, past_key_values=cache, use_cache=True)
        return tuple(cache.prompt_kept)

    with torch.no_grad():
        expected, text, layers = model(IDS, use_cache=False).logits, answer(), kept()
        with compiled(model, backend) as switched:
            found = model(IDS, use_cache=False).logits
            made = len(compilations)
            assert made >= 1 and torch.allclose(found, expected, atol=1e-4)
            with switched(False):
                assert torch.equal(model(IDS, use_cache=False).logits, expected)
            assert kept() == layers and layers[1] < layers[0]
            # When it is made, a session compares itself with the bare model, which may compile; the rest does not.
            session = ReplanSession(model, byte_level(), budget=100)
            made = len(compilations)
            assert session.generate(start(), max_new_tokens=6).text == text
            assert len(compilations) == made
        assert torch.equal(model(IDS, use_cache=False).logits, expected)
    assert "_compiled_call_impl" not in vars(model)


def test_without_a_compiler_it_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    assert (
        compile_problem(torch.device("cpu"))
        == "there is no C++ compiler (g++ or clang++; the variable CXX names another)"
    )
    with (
        pytest.raises(ModelError, match="LlamaForCausalLM cannot be compiled: there is no C") as error,
        compiled(small()),
    ):
        pass
    assert "\n" not in str(error.value)
    assert compile_problem(torch.device("mps")) == "torch makes no code for mps"


@pytest.mark.slow
@pytest.mark.skipif(compile_problem(torch.device("cpu")) is not None, reason="there is no C++ compiler")
def test_code_of_the_real_backend_gives_the_same_logits() -> None:
    model = small()
    assert compiling.INDUCTOR == "inductor"
    with torch.no_grad():
        expected = model(IDS, use_cache=False).logits
        with compiled(model):
            assert torch.allclose(model(IDS, use_cache=False).logits, expected, atol=1e-4)
            assert model.generate(IDS, max_new_tokens=4, do_sample=False).shape[1] == IDS.shape[1] + 4
        assert torch.equal(copy.deepcopy(model)(IDS, use_cache=False).logits, expected)
