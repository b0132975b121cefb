"""Whatever changes what a model computes between two calls: sessions and wrapped models read their tokens anew."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_modules
from transformers.models.llama import modeling_llama

import erecap
from erecap.decoding.revision import model_revision
from erecap.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.decoding.test_watch import expected
from tests.session.chats import model, start, turn


def layer(of: Any) -> Any:
    return of.model.layers[1]


def own_forward(of: Any) -> None:
    old = layer(of).mlp.forward
    layer(of).mlp.forward = lambda x: -old(x)


def negate_mlps(module: Any, args: Any, output: Any) -> Any:
    return -output if isinstance(module, modeling_llama.LlamaMLP) else None


def scaling(of: Any) -> None:
    for one in of.model.layers:
        one.self_attn.scaling *= 3


def function_instead(of: Any) -> None:
    del layer(of).mlp.act_fn
    layer(of).mlp.act_fn = torch.tanh


def rotation(of: Any) -> Any:
    old = modeling_llama.apply_rotary_pos_emb
    modeling_llama.apply_rotary_pos_emb = lambda q, k, cos, sin, *rest, **more: old(q, k, cos, -sin, *rest, **more)
    return lambda: setattr(modeling_llama, "apply_rotary_pos_emb", old)


# Each changes the model, and gives a function that undoes it or None.
CHANGES: dict[str, Callable[[Any], Any]] = {
    "forward of an MLP": own_forward,
    "hook on the embedding": lambda of: of.model.embed_tokens.register_forward_hook(lambda m, a, o: -o).remove,
    "pre-hook on a projection": lambda of: (
        layer(of).self_attn.q_proj.register_forward_pre_hook(lambda m, a: (a[0] * -3,)).remove
    ),
    "global hook": lambda of: torch_modules.register_module_forward_hook(negate_mlps).remove,
    "global pre-hook": lambda of: (
        torch_modules.register_module_forward_pre_hook(
            lambda m, a: (a[0] * -3,) if isinstance(m, modeling_llama.LlamaMLP) else None
        ).remove
    ),
    "rotation of the module": rotation,
    "weight through data": lambda of: layer(of).self_attn.v_proj.weight.data.neg_() is None,
    "weight through numpy": lambda of: layer(of).mlp.up_proj.weight.detach().numpy().__imul__(-1) is None,
    "activation": lambda of: setattr(layer(of).mlp, "act_fn", nn.Tanh()),
    "activation as a function": function_instead,
    "scale of attention": scaling,
    "epsilon of a norm": lambda of: setattr(layer(of).input_layernorm, "variance_epsilon", 10.0),
    "angles of the rotation": lambda of: of.model.rotary_emb.inv_freq.mul_(3.0) is None,
}


def rows(wrapped: Any, messages: list[dict]) -> str:
    tokenizer = byte_level()
    shown = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = wrapped.generate(**shown, max_new_tokens=8, do_sample=False)
    return tokenizer.decode(out[0, shown["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_between_two_calls(case: str) -> None:
    of, messages = copy.deepcopy(model()), start()
    session, wrapped = ReplanSession(of, byte_level()), erecap.wrap(of)
    plain = expected(of, messages)
    assert session.generate(messages, max_new_tokens=8).text == plain == rows(wrapped, messages)
    before = model_revision(of)
    with torch.no_grad():
        undo = CHANGES[case](of)
    try:
        assert expected(of, messages) != plain, "the change has to matter"
        assert model_revision(of) != before
        for number in range(2):
            messages = [*messages, *turn("look", number)]
            wanted = expected(of, messages)
            assert session.generate(messages, max_new_tokens=8).text == wanted
            assert rows(wrapped, messages) == wanted
    finally:
        if callable(undo):
            undo()
    if callable(undo):  # and back again
        messages = [*messages, *turn("take", 3)]
        wanted = expected(of, messages)
        assert session.generate(messages, max_new_tokens=8).text == wanted == rows(wrapped, messages)


def test_an_unchanged_model_keeps_its_revision() -> None:
    of = copy.deepcopy(model())
    session, wrapped = ReplanSession(of, byte_level()), erecap.wrap(of)
    before = model_revision(of)
    for number in range(2):
        session.generate([*start(), *turn("look", number)], max_new_tokens=4)
        rows(wrapped, [*start(), *turn("look", number)])
        of(torch.tensor([[5, 6]]), output_hidden_states=True)
    assert model_revision(of) == before


def test_a_hook_that_was_there_before_is_no_change() -> None:
    of = copy.deepcopy(model())
    of.model.embed_tokens.register_forward_hook(lambda m, a, o: -o)
    session, messages = ReplanSession(of, byte_level()), start()
    session.generate(messages, max_new_tokens=4)
    answer = session.generate([*messages, *turn("look", 1)], max_new_tokens=8)
    assert answer.usage.reused_tokens > 20 and answer.text == expected(of, [*messages, *turn("look", 1)])


@pytest.mark.parametrize("first", [True, False])
def test_autocast_in_one_call_and_not_in_the_next(first: bool) -> None:
    of, messages = copy.deepcopy(model()), start()
    session, wrapped = ReplanSession(of, byte_level()), erecap.wrap(of)
    for number in range(4):
        with torch.autocast("cpu", torch.bfloat16, enabled=first is (number % 2 == 0)):
            wanted = expected(of, messages)
            assert session.generate(messages, max_new_tokens=8).text == wanted
            assert rows(wrapped, messages) == wanted
        messages = [*messages, *turn("look", number)]
