"""Pruning leaves nothing behind: threads, nested contexts, exceptions, interrupts."""

from __future__ import annotations

import sys
import threading
from linecache import getline

import pytest
import torch

from erecap.tokens import PruneConfig, attach, prune
from erecap.tokens.cache.pruned_cache import PrunedCache
from erecap.tokens.scoring import probe
from tests.tokens.models import prompt, tiny


def hooks_of(model) -> list[int]:  # type: ignore[no-untyped-def]
    return [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]


def generate(model, cache=None, seed: int = 3):  # type: ignore[no-untyped-def]
    return model.generate(**prompt(seed=seed), max_new_tokens=6, do_sample=False, past_key_values=cache)


@pytest.fixture(params=["sdpa", "eager"])
def model(request):  # type: ignore[no-untyped-def]
    model = tiny("llama", request.param)
    before, implementation = hooks_of(model), model.config._attn_implementation
    yield model
    assert hooks_of(model) == before and model.config._attn_implementation == implementation


def test_nested_contexts_do_not_meet(model) -> None:  # type: ignore[no-untyped-def]
    one, two = PruneConfig("attention", 0.5, (2,)), PruneConfig("random", 0.7, (3, 5))
    plain = generate(model)
    with prune(model, one) as a:
        alone_one = generate(model, a)
    with prune(model, two) as b:
        alone_two = generate(model, b)
    with prune(model, one) as a:
        with prune(model, two) as b:
            assert torch.equal(generate(model, b), alone_two)
            assert torch.equal(generate(model, a), alone_one)
            assert torch.equal(generate(model), plain)
        a.reset()
        assert torch.equal(generate(model, a), alone_one)
    assert torch.equal(generate(model), plain)


def test_threads_do_not_meet(model) -> None:  # type: ignore[no-untyped-def]
    configs = [PruneConfig("attention", 0.5, (2,)), PruneConfig("random", 0.7, (3, 5)), None]
    expected = []
    for number, config in enumerate(configs):
        if config is None:
            expected.append(generate(model, seed=number))
        else:
            with prune(model, config) as cache:
                expected.append(generate(model, cache, seed=number))
    failures: list[str] = []
    barrier = threading.Barrier(len(configs))

    def work(number: int) -> None:
        config = configs[number]
        barrier.wait()
        for _ in range(6):
            if config is None:
                got = generate(model, seed=number)
            else:
                with prune(model, config) as cache:
                    got = generate(model, cache, seed=number)
            if not torch.equal(got, expected[number]):
                failures.append(f"thread {number} got another answer")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(configs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_exception_inside_the_model_leaves_model_and_cache_as_they_were(model, kind) -> None:  # type: ignore[no-untyped-def]
    config = PruneConfig("attention", 0.6, (2, 5))
    with prune(model, config) as cache, torch.no_grad():
        model(**prompt(), past_key_values=cache)
        expected = model(torch.tensor([[7]]), past_key_values=cache).logits
    raised = {"now": False}

    def fail(module, args):  # type: ignore[no-untyped-def]
        if raised["now"]:
            raise kind("planted")

    handle = model.model.layers[4].mlp.register_forward_pre_hook(fail)
    try:
        with pytest.raises(kind, match="planted"):
            with prune(model, config) as cache, torch.no_grad():
                model(**prompt(), past_key_values=cache)
                lengths = cache.kept_lengths()
                raised["now"] = True
                model(torch.tensor([[9, 9, 9]]), past_key_values=cache)
        raised["now"] = False
        assert cache.kept_lengths() == lengths and cache.get_seq_length() == 40
        assert [layer.keys.shape[-2] for layer in cache.layers] == lengths
        with attach(model, cache), torch.no_grad():
            assert torch.equal(model(torch.tensor([[7]]), past_key_values=cache).logits, expected)
    finally:
        handle.remove()


def test_an_exception_during_the_first_read(model) -> None:  # type: ignore[no-untyped-def]
    handle = model.model.layers[4].mlp.register_forward_pre_hook(lambda m, a: (_ for _ in ()).throw(OSError("x")))
    with prune(model, PruneConfig("attention", 0.6, (2,))) as cache:
        with pytest.raises(OSError):
            generate(model, cache)
        handle.remove()
        assert cache.get_seq_length() == 0 and not cache.layers
        again = generate(model, cache)
    with prune(model, PruneConfig("attention", 0.6, (2,))) as fresh:
        assert torch.equal(generate(model, fresh), again)


def test_an_exception_in_the_body_takes_the_hooks_off(model) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ZeroDivisionError):
        with prune(model, PruneConfig("attention", 0.5, (2,))):
            raise ZeroDivisionError  # the fixture checks what is left


def test_an_impossible_configuration_leaves_no_hook(model) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError):
        with prune(model, PruneConfig(stages=(99,))):
            pass


def test_an_attention_implementation_that_cannot_be_probed_leaves_no_hook() -> None:
    model = tiny("qwen2")
    before, implementation = hooks_of(model), model.config._attn_implementation
    model.config._attn_implementation = "flex_attention"
    try:
        with pytest.raises(ValueError, match="not 'flex_attention'"):
            with prune(model, PruneConfig("attention", 0.5, (2,))):
                pass
        assert hooks_of(model) == before and model.config._attn_implementation == "flex_attention"
    finally:
        model.config._attn_implementation = implementation


def test_a_model_without_decoder_layers() -> None:
    with pytest.raises(ValueError, match="no list of decoder layers"):
        with prune(torch.nn.Linear(2, 2)):
            pass


def test_an_interrupt_while_a_context_closes_leaves_nothing(model) -> None:  # type: ignore[no-untyped-def]
    lines: list[str] = []

    def trace(frame, event, argument):  # type: ignore[no-untyped-def]
        if frame.f_code is not attach.__wrapped__.__code__:
            return trace if event == "call" else None
        if event == "line" and "caches.pop" in getline(frame.f_code.co_filename, frame.f_lineno):
            lines.append(frame.f_code.co_name)
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    cache = PrunedCache(PruneConfig(), len(model.model.layers))
    sys.settrace(trace)
    try:
        with pytest.raises(KeyboardInterrupt), attach(model, cache):
            pass
    finally:
        sys.settrace(None)
    assert lines == ["attach"]  # the interrupt came there
    with attach(model, cache):  # the next use finishes what was left undone; the fixture looks at the hooks
        pass
    assert not probe.current.caches
