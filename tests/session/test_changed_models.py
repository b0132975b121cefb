"""A model that is changed between the calls of a session: what was read is read again, or refused in one sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from erecap.budget import Budget
from erecap.errors import RunError
from erecap.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.decoding.test_watch import expected
from tests.session.chats import model, start, turn

peft = pytest.importorskip("peft")


def adapted(*names: str) -> Any:
    torch.manual_seed(6)
    config = peft.LoraConfig(
        target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False, r=4, lora_alpha=32
    )
    wrapped = peft.get_peft_model(copy.deepcopy(model()), config, adapter_name=names[0])
    for name in names[1:]:
        wrapped.add_adapter(name, config)
    return wrapped.eval()


CHANGES: dict[str, Callable[[Any], object]] = {
    "set_adapter": lambda of: of.set_adapter("two"),
    "merge": lambda of: of.merge_adapter(),
    "disable": lambda of: of.disable_adapter_layers(),
    "scale": lambda of: of.base_model.model.model.layers[1].self_attn.q_proj.set_scale("one", 40.0),
    "delete": lambda of: of.delete_adapter("one"),
    "in place": lambda of: [weight.data.mul_(1.5) for name, weight in of.named_parameters() if "lora_B" in name],
}


@pytest.mark.parametrize("case", CHANGES)
def test_adapters_changed_between_two_calls(case: str) -> None:
    of, messages = adapted("one", "two"), start()
    session = ReplanSession(of, byte_level())
    first = session.generate(messages, max_new_tokens=8).text
    assert first == expected(of, messages) != expected(model(), messages)
    with torch.no_grad():
        CHANGES[case](of)
    longer = [*messages, *turn("look", 1)]
    answer = session.generate(longer, max_new_tokens=8)
    assert answer.text == expected(of, longer)
    if case == "merge":
        of.unmerge_adapter()
        assert session.generate(longer, max_new_tokens=8).text == expected(of, longer)


def test_an_unchanged_model_is_not_read_again() -> None:
    of = adapted("one")
    session = ReplanSession(of, byte_level())
    session.generate(start(), max_new_tokens=4)
    of(torch.tensor([[5, 6, 7]]))
    assert session.generate([*start(), *turn("look", 1)], max_new_tokens=4).usage.reused_tokens > 20


@pytest.mark.parametrize(
    "config",
    [
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    ],
)
def test_virtual_tokens_are_refused_when_the_session_is_made(config: Any) -> None:
    with pytest.raises(ValueError, match=r"puts virtual tokens before every forward pass; .* such as LORA") as caught:
        ReplanSession(peft.get_peft_model(copy.deepcopy(model()), config), byte_level())
    assert "\n" not in str(caught.value) and config.peft_type.value in str(caught.value)


def change(of: Any) -> None:
    with torch.no_grad():
        of.model.layers[0].mlp.down_proj.weight.mul_(-1.0)


def test_the_sessions_own_chat_is_read_again_with_its_correction() -> None:
    of = copy.deepcopy(model())
    session, twin = ReplanSession(of, byte_level()), None
    session.append(start())
    session.correct("The mug is gone.")
    change(of)
    answer = session.generate(max_new_tokens=8)
    twin = ReplanSession(of, byte_level())
    twin.append(start())
    twin.correct("The mug is gone.")
    assert answer.text == twin.generate(max_new_tokens=8).text
    assert session.token_ids == twin.token_ids


def test_under_a_budget_the_chat_has_to_be_given_again() -> None:
    of = copy.deepcopy(model())
    session = ReplanSession(of, byte_level(), budget=Budget(kv_tokens=90))
    messages = start()
    session.append(messages)
    for number in range(5):
        session.append(turn("look", number))
        messages += turn("look", number)
    change(of)
    with pytest.raises(RunError, match="give the whole chat"):
        session.generate(max_new_tokens=6)
    twin = ReplanSession(of, byte_level(), budget=Budget(kv_tokens=90))
    assert session.generate(messages, max_new_tokens=6).text == twin.generate(messages, max_new_tokens=6).text


def test_forks_notice_it_each_for_itself() -> None:
    of, messages = copy.deepcopy(model()), start()
    session = ReplanSession(of, byte_level())
    session.read(messages)
    fork = session.fork()
    change(of)
    for one in (session, fork):
        assert one.generate(messages, max_new_tokens=8).text == expected(of, messages)
