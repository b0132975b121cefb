"""Whatever stands between a model's layers, a session answers as the model does; the fused decoder steps aside."""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_modules
from transformers import AttentionInterface, AttentionMaskInterface, LlamaForCausalLM, LlamaModel
from transformers.models.llama import modeling_llama

from erecap.decoding.short import short_reads
from erecap.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.tokens.models import ARCHITECTURES


def fresh(name: str = "llama") -> Any:
    return copy.deepcopy(model(name))


def expected(of: Any, messages: list[dict], new: int = 8) -> str:
    tokenizer = byte_level()
    shown = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        out = of.generate(**shown, max_new_tokens=new, do_sample=False)
    return tokenizer.decode(out[0, shown["input_ids"].shape[1] :], skip_special_tokens=True)


def fused(of: Any) -> bool:
    return short_reads(of).decoder(1, decode=True) is not None


def layer(of: Any, number: int = 2) -> Any:
    return of.get_decoder().layers[number]


# Each changes a model, and gives a function that undoes it or None.
def negated_mlp(of: Any) -> None:
    old = layer(of).mlp.forward
    layer(of).mlp.forward = lambda x: -old(x)


def own_norm(of: Any) -> None:
    of.model.norm.forward = lambda x: -x


def own_projection(of: Any) -> None:
    old = layer(of).self_attn.v_proj.forward
    layer(of).self_attn.v_proj.forward = lambda x: 2 * old(x)


def own_model_forward(of: Any) -> None:
    old = of.forward

    @functools.wraps(old)
    def forward(*args: Any, **options: Any) -> Any:
        out = old(*args, **options)
        out.logits.neg_()
        return out

    of.forward = forward


def head_hook(of: Any) -> Any:
    return of.lm_head.register_forward_hook(lambda module, args, output: -output).remove


def model_pre_hook(of: Any) -> Any:
    def other(module: Any, args: Any, options: dict) -> Any:
        return args, options | {"input_ids": options["input_ids"].clamp(max=200)}

    return of.register_forward_pre_hook(other, with_kwargs=True).remove


def partial_hook(of: Any) -> Any:
    return layer(of).mlp.register_forward_hook(functools.partial(lambda k, m, a, o: o * k, 3.0)).remove


def global_hook(of: Any) -> Any:
    def negated(module: Any, args: Any, output: Any) -> Any:
        return -output if isinstance(module, modeling_llama.LlamaMLP) else None

    return torch_modules.register_module_forward_hook(negated).remove


def global_pre_hook(of: Any) -> Any:
    def louder(module: Any, args: Any) -> Any:
        return (args[0] * 3,) if isinstance(module, modeling_llama.LlamaMLP) else None

    return torch_modules.register_module_forward_pre_hook(louder).remove


class NegatedMLP(modeling_llama.LlamaMLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)


class LlamaMLP(modeling_llama.LlamaMLP):
    """Of the same name as what it replaces."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)


class OwnDecoder(LlamaModel):
    def forward(self, *args: Any, **options: Any) -> Any:
        out = super().forward(*args, **options)
        out.last_hidden_state.mul_(-1)
        return out


class OwnModel(LlamaForCausalLM):
    def forward(self, *args: Any, **options: Any) -> Any:
        out = super().forward(*args, **options)
        out.logits.neg_()
        return out


def recast(pick: Callable[[Any], Any], kind: type) -> Callable[[Any], None]:
    return lambda of: setattr(pick(of), "__class__", kind)


def replaced_class_forward(of: Any) -> Any:
    old = modeling_llama.LlamaMLP.forward

    @functools.wraps(old)
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return -old(self, x)

    modeling_llama.LlamaMLP.forward = forward  # type: ignore[method-assign]
    return lambda: setattr(modeling_llama.LlamaMLP, "forward", old)


def replaced_rotation(of: Any) -> Any:
    old = modeling_llama.apply_rotary_pos_emb

    def unturned(q: Any, k: Any, cos: Any, sin: Any, **options: Any) -> Any:
        return old(q, k, cos, -sin)

    modeling_llama.apply_rotary_pos_emb = unturned
    return lambda: setattr(modeling_llama, "apply_rotary_pos_emb", old)


def fewer_layers(of: Any) -> None:
    of.config.num_hidden_layers = 8
    of.model.layers = of.model.layers[:6]
    of.config.num_hidden_layers = 6


def scaled_attention(of: Any) -> None:
    for number in range(8):
        layer(of, number).self_attn.scaling = 3.0


def compiled(of: Any) -> None:
    layer(of).mlp.compile(backend="eager")


def parametrized(of: Any) -> None:
    class Doubled(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    nn.utils.parametrize.register_parametrization(layer(of).mlp.down_proj, "weight", Doubled())


class Held(nn.Parameter):
    """Stands for a quantised weight, whose products are its own."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_function__(func, types, args, kwargs or {})
        return -out if func is nn.functional.linear else out


def subclassed_weight(of: Any) -> None:
    project = layer(of).mlp.up_proj
    project.weight = Held(project.weight.detach())


def offloaded(of: Any) -> None:
    pytest.importorskip("accelerate").cpu_offload(layer(of).mlp, execution_device=torch.device("cpu"))


def other_kind_of_norm(of: Any) -> None:
    own = nn.LayerNorm(32)
    nn.init.normal_(own.weight)
    layer(of).input_layernorm = own


STEPS_ASIDE: dict[str, Callable[[Any], Any]] = {
    "forward of an MLP": negated_mlp,
    "forward of the last norm": own_norm,
    "forward of a projection": own_projection,
    "forward of the model": own_model_forward,
    "hook on the head": head_hook,
    "pre-hook on the model": model_pre_hook,
    "hook that is a partial": partial_hook,
    "global hook": global_hook,
    "global pre-hook": global_pre_hook,
    "subclass of an MLP": recast(lambda of: layer(of).mlp, NegatedMLP),
    "subclass of its name": recast(lambda of: layer(of).mlp, LlamaMLP),
    "subclass of the decoder": recast(lambda of: of.model, OwnDecoder),
    "subclass of the model": recast(lambda of: of, OwnModel),
    "forward of a class, wrapped": replaced_class_forward,
    "rotation of the module": replaced_rotation,
    "compiled MLP": compiled,
    "parametrized weight": parametrized,
    "weight of another tensor class": subclassed_weight,
    "weights placed by accelerate": offloaded,
    "norm of another class": other_kind_of_norm,
}
FOLLOWS: dict[str, Callable[[Any], Any]] = {
    "fewer layers": fewer_layers,
    "scale of attention": scaled_attention,
    "norm in place": lambda of: layer(of).input_layernorm.weight.mul_(2.0),
    "norm through data": lambda of: layer(of).post_attention_layernorm.weight.data.mul_(2.0),
    "new parameter": lambda of: setattr(layer(of).mlp.up_proj, "weight", nn.Parameter(torch.randn(48, 32))),
    "new data": lambda of: setattr(of.lm_head.weight, "data", of.lm_head.weight.data.flip(0)),
    "new norm": lambda of: setattr(of.model, "norm", negated(of.model.norm)),
    "layers swapped": lambda of: setattr(of.model, "layers", _swapped(of.model.layers)),
}


def negated(module: nn.Module) -> nn.Module:
    module = copy.deepcopy(module)
    for weight in module.parameters():
        weight.neg_()
    return module


def _swapped(layers: nn.ModuleList) -> nn.ModuleList:
    found = list(layers)
    found[1].mlp, found[3].mlp = found[3].mlp, found[1].mlp
    return nn.ModuleList(found)


@contextlib.contextmanager
def done(change: Callable[[Any], Any], of: Any) -> Iterator[None]:
    with torch.no_grad():
        undo = change(of)
    try:
        yield
    finally:
        if callable(undo):
            undo()


@pytest.mark.parametrize("when", ["before the session", "between its calls"])
@pytest.mark.parametrize("case", [*STEPS_ASIDE, *FOLLOWS])
def test_a_session_answers_as_the_model_does(case: str, when: str) -> None:
    change, of, messages = {**STEPS_ASIDE, **FOLLOWS}[case], fresh(), start()
    plain = expected(of, messages)
    assert fused(of)
    if when == "before the session":
        with done(change, of):
            wanted = expected(of, messages)
            session = ReplanSession(of, byte_level())
            assert session.generate(messages, max_new_tokens=8).text == wanted
            assert wanted != plain or case in ("compiled MLP", "weights placed by accelerate")
            assert fused(of) is (case in FOLLOWS)
        return
    session = ReplanSession(of, byte_level())
    assert session.generate(messages, max_new_tokens=8).text == plain
    with done(change, of):
        # Read from the beginning: keys stored before belong to what the model was.
        again = ReplanSession(of, byte_level())
        assert again.generate(messages, max_new_tokens=8).text == expected(of, messages)
        if case in FOLLOWS:
            messages = [*messages, *turn("look", 1)]
            assert session.generate(messages, max_new_tokens=8).text == expected(of, messages)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_norms_are_read_from_the_model_itself(name: str) -> None:
    of = fresh(name)
    assert fused(of)
    decoder = short_reads(of).same
    with torch.no_grad():
        for module in of.modules():
            if "Norm" in type(module).__name__:
                module.weight.data.add_(0.5)
    assert short_reads(of).same is decoder, "written through data, nothing had to be made anew"
    assert ReplanSession(of, byte_level()).generate(start(), max_new_tokens=8).text == expected(of, start())


def test_packed_weights_follow_a_change_between_two_calls() -> None:
    of = fresh()
    session = ReplanSession(of, byte_level(), decode_weights="int8")
    first = short_reads(of, "int8").packed
    session.generate(start(), max_new_tokens=4)
    with torch.no_grad():
        of.lm_head.weight.copy_(of.lm_head.weight.flip(0))
    session.generate(start(), max_new_tokens=4)
    assert short_reads(of, "int8").packed is not first
    twin = ReplanSession(copy.deepcopy(of), byte_level(), decode_weights="int8")
    assert session.generate(start(), max_new_tokens=8).text == twin.generate(start(), max_new_tokens=8).text


def test_hooks_that_only_collect_do_not_stand_in_the_way() -> None:
    of = fresh()
    with torch.no_grad():
        of(torch.tensor([[5, 6]]), output_hidden_states=True)  # leaves hooks of transformers on the layers
    assert fused(of)


def test_training_mode_and_another_attention_are_the_models_own() -> None:
    of = fresh()
    assert fused(of.eval()) and not fused(of.train())
    of.eval()

    def uniform(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        return nn.functional.scaled_dot_product_attention(query * 0, key, value, mask).transpose(1, 2), None

    AttentionInterface.register("uniform", uniform)
    AttentionMaskInterface.register("uniform", AttentionMaskInterface._global_mapping["sdpa"])
    of.config._attn_implementation = "uniform"
    assert not fused(of)


def test_a_rotation_replaced_by_name_is_found() -> None:
    of = fresh()
    before = sys.modules[modeling_llama.__name__].apply_rotary_pos_emb
    undo = replaced_rotation(of)
    try:
        assert not fused(of)
    finally:
        undo()
    assert modeling_llama.apply_rotary_pos_emb is before and fused(of)
