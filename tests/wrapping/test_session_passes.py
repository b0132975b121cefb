"""Calls that a wrapped model passes on, models that it passes every call to, and the objects around a model."""

from __future__ import annotations

import copy
import inspect
import threading
import warnings
from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache, GenerationConfig, Phi3Config, Phi3ForCausalLM

import erecap
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model as chat_model
from tests.tokens.models import _COMMON, ARCHITECTURES, padded, prompt, tiny
from tests.wrapping.test_session_model import GREEDY, ids_of, rows_of, whole

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "eos_token_id": None,
}  # fmt: skip

CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "batch": ({**padded()}, "the batch has 3 rows"),
    "padding": ({**whole(ids_of(9, 1)), "attention_mask": torch.tensor([[0] * 3 + [1] * 6])}, "padded or masked"),
    "hidden padding": ({"input_ids": torch.tensor([[0, 0, 5, 6, 7]])}, "padding in it"),
    "beams": ({**prompt(), "num_beams": 2}, "num_beams=2"),
    "several": ({**prompt(), "num_return_sequences": 2, "do_sample": True}, "num_return_sequences=2"),
    "no cache": ({**prompt(), "use_cache": False}, "caching off"),
    "no cache in config": ({**prompt(), "generation_config": GenerationConfig(use_cache=False)}, "caching off"),
    "cache kind": ({**prompt(), "cache_implementation": "static"}, "cache_implementation"),
    "lookup": ({**prompt(), "prompt_lookup_num_tokens": 3}, "assisted"),
    "attentions": ({**prompt(), "output_hidden_states": True, "return_dict_in_generate": True}, "output_hidden"),
    "assistant": ({**prompt(), "assistant_model": tiny("llama")}, "assistant_model"),
    "custom": ({**prompt(), "custom_generate": lambda model, input_ids, **kwargs: input_ids}, "custom_generate"),
    "healing": ({**prompt(), "token_healing": False, "use_mtp": False}, ""),
}


@pytest.mark.parametrize(("given", "reason"), CALLS.values(), ids=CALLS)
def test_calls_that_are_passed_on_and_say_why(given: dict[str, Any], reason: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = tiny("llama")
    wrapped = erecap.wrap(model, log=tmp_path)
    outputs = []
    for target in (model, wrapped):
        torch.manual_seed(0)
        options = {"max_new_tokens": 5, "do_sample": False} if "generation_config" not in given else {}
        outputs.append(target.generate(**{**options, **given}))
    bare, ours = (output if isinstance(output, torch.Tensor) else output.sequences for output in outputs)
    assert torch.equal(bare, ours)
    [row] = rows_of(tmp_path)
    assert (row["decision"] == "passed" and reason in row["reason"]) if reason else row["decision"] == "read"
    assert wrapped.conversations.count == (not reason)


def test_embeddings_and_a_cache_of_the_callers(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = tiny("llama")
    wrapped = erecap.wrap(model, log=tmp_path)
    embeddings = model.get_input_embeddings()(ids_of(20, 1))
    expected = model.generate(inputs_embeds=embeddings, **GREEDY)
    assert torch.equal(wrapped.generate(inputs_embeds=embeddings, **GREEDY), expected)
    given = {**whole(ids_of(20, 1)), **GREEDY, "past_key_values": DynamicCache()}
    assert torch.equal(wrapped.generate(**given), model.generate(**whole(ids_of(20, 1)), **GREEDY))
    assert ["embeddings" in r["reason"] or "past_key_values" in r["reason"] for r in rows_of(tmp_path)] == [True, True]


def test_the_switch_and_training(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    model = copy.deepcopy(tiny("llama"))
    wrapped = erecap.wrap(model, log=tmp_path)
    monkeypatch.setenv("ERECAP_MODE", "full")
    wrapped.generate(**prompt(), **GREEDY)
    monkeypatch.delenv("ERECAP_MODE")
    model.train()
    wrapped.generate(**prompt(), **GREEDY)
    assert ["ERECAP_MODE" in row["reason"] or "training" in row["reason"] for row in rows_of(tmp_path)] == [True] * 2


def test_a_cache_that_the_models_folder_names_is_nobodys_wish(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for kind in ("hybrid", "static", "dynamic"):
        model = copy.deepcopy(tiny("gemma3"))
        model.generation_config.cache_implementation = kind
        wrapped, ids = erecap.wrap(model, log=tmp_path / kind), ids_of(30, 1)
        for _ in range(2):
            assert torch.equal(
                wrapped.generate(**whole(ids), **GREEDY), tiny("gemma3").generate(**whole(ids), **GREEDY)
            )
        wrapped.generate(**whole(ids), generation_config=copy.deepcopy(model.generation_config), max_new_tokens=5)
        assert [row["decision"] for row in rows_of(tmp_path / kind)] == ["read", "reused", "reused"]


UNSERVABLE: dict[str, tuple[str, dict[str, Any], str]] = {
    "T5": ("T5", {"d_kv": 8, "d_model": 32, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}, "encoder"),
    "Lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention"]}, "cannot be rolled back"),
    "OPT": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}, ""),
    "GPTNeoX": ("GPTNeoX", {}, ""),
    "Bloom": ("Bloom", {"n_layer": 2, "n_head": 4}, "list of decoder layers"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "more", "reason"), UNSERVABLE.values(), ids=UNSERVABLE)
def test_models_that_cannot_be_served_answer_as_bare_and_say_why_once(  # type: ignore[no-untyped-def]
    name: str, more: dict[str, Any], reason: str, tmp_path
) -> None:
    torch.manual_seed(0)
    kind = "T5ForConditionalGeneration" if name == "T5" else f"{name}ForCausalLM"
    model = getattr(transformers, kind)(getattr(transformers, f"{name}Config")(**{**TINY, **more})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    ids = ids_of(20, 1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        wrapped = erecap.wrap(model, log=tmp_path)
        for _ in range(2):
            expected = model.generate(**whole(ids), **GREEDY)
            assert torch.equal(wrapped.generate(**whole(ids), **GREEDY), expected)
            if name != "T5":
                ids = torch.cat([expected, ids_of(5, 2)], 1)
    ours = [str(warning.message) for warning in told if "erecap.wrap" in str(warning.message)]
    passed = [row["decision"] == "passed" for row in rows_of(tmp_path)]
    assert passed in ([True] * 2, [False] * 2) and len(ours) == passed[0]
    assert all(reason in text for text in ours) and (not reason or ours)
    if reason:
        with pytest.raises(erecap.errors.ConfigError, match=reason):
            erecap.wrap(model, budget=64)


def test_a_model_that_reads_differently_in_pieces_is_noticed(tmp_path) -> None:  # type: ignore[no-untyped-def]
    class Whole(type(tiny("llama"))):  # type: ignore[misc]
        """Its logits depend on how many tokens a forward call reads."""

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            ids = kwargs.get("input_ids")
            output.logits = output.logits * (1 + 0.1 * ids.shape[1])
            output.logits[..., 7] += ids.shape[1]
            return output

    model = Whole(tiny("llama").config).eval()
    with pytest.warns(UserWarning, match="other logits when it reads in pieces"):
        wrapped = erecap.wrap(model, log=tmp_path)
        wrapped.generate(**prompt(), **GREEDY)
    assert torch.equal(wrapped.generate(**prompt(), **GREEDY), model.generate(**prompt(), **GREEDY))
    assert [row["decision"] for row in rows_of(tmp_path)] == ["passed", "passed"]


def test_ropes_that_change_with_the_length(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [1.0, 4.0, 9.0, 32.0]}
    config = Phi3Config(
        **{**_COMMON, "max_position_embeddings": 512}, original_max_position_embeddings=64,
        rope_parameters={**rope, "original_max_position_embeddings": 64},
    )  # fmt: skip
    torch.manual_seed(0)
    model = Phi3ForCausalLM(config).eval()
    wrapped, ids = erecap.wrap(model, log=tmp_path), ids_of(30, 1)
    for turn in range(5):
        expected = model.generate(**whole(ids), **GREEDY)
        assert torch.equal(wrapped.generate(**whole(ids), **GREEDY), expected)
        ids = torch.cat([expected, ids_of(7, turn)], 1)
    assert [row["decision"] for row in rows_of(tmp_path)] == ["read", "reused", "reused", "passed", "passed"]


def test_other_weights_are_read_anew(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = copy.deepcopy(tiny("llama"))
    wrapped, ids = erecap.wrap(model, log=tmp_path), ids_of(30, 1)
    wrapped.generate(**whole(ids), **GREEDY)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(-1.0)
    assert torch.equal(wrapped.generate(**whole(ids), **GREEDY), model.generate(**whole(ids), **GREEDY))
    model.to(torch.float64)
    assert torch.equal(wrapped.generate(**whole(ids), **GREEDY), model.generate(**whole(ids), **GREEDY))
    assert [row["new_tokens"] for row in rows_of(tmp_path)] == [30, 30, 30]


def test_inference_mode_now_and_then() -> None:
    model = tiny("llama")
    wrapped, ids = erecap.wrap(model), ids_of(30, 1)
    for turn in range(4):
        expected = model.generate(**whole(ids), **GREEDY)
        with torch.inference_mode(turn % 2 == 0):
            given = whole(ids.clone())
            assert torch.equal(wrapped.generate(**given, **GREEDY), expected)
        ids = torch.cat([expected, ids_of(7, turn)], 1)


def test_everything_else_is_the_models() -> None:
    model = copy.deepcopy(tiny("llama"))
    wrapped = erecap.wrap(model)
    assert wrapped.config is model.config and wrapped.wrapped is model and not hasattr(wrapped, "no_such_thing")
    assert torch.equal(wrapped(**prompt()).logits, model(**prompt()).logits)
    wrapped.generation_config = GenerationConfig(max_new_tokens=3, pad_token_id=0)
    assert model.generation_config.max_new_tokens == 3
    assert wrapped.generate(**prompt(20)).shape[1] == 23
    for twin in (copy.copy(wrapped), copy.deepcopy(wrapped)):
        assert type(twin) is type(wrapped) and twin.conversations.count == 0
        assert torch.equal(twin.generate(**prompt(20)), model.generate(**prompt(20)))
    assert copy.copy(wrapped).wrapped is model and wrapped.conversations.count == 1


FLUENT = {
    "eval": (), "train": (False,), "to": ("cpu",), "cpu": (), "float": (), "bfloat16": (), "double": (),
    "requires_grad_": (False,), "apply": (lambda module: None,),
}  # fmt: skip


@pytest.mark.parametrize("options", [{"budget": 64}, {"keep": 0.5}], ids=["session", "prune"])
def test_methods_that_return_the_model_return_the_wrapped_one(options: dict[str, Any], tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = copy.deepcopy(tiny("llama"))
    wrapped = erecap.wrap(model, **options, log=tmp_path)
    for number, (name, given) in enumerate(FLUENT.items()):
        assert getattr(wrapped, name)(*given) is wrapped, name
        wrapped.generate(**whole(ids_of(90, number)), **GREEDY)  # also in another dtype
        assert rows_of(tmp_path)[number]["dropped_because"], name
    assert wrapped.get_input_embeddings() is model.get_input_embeddings()
    assert inspect.signature(wrapped.forward) == inspect.signature(model.forward)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_threads_have_conversations_of_their_own(name: str) -> None:
    model = tiny(name)
    wrapped = erecap.wrap(model, conversations=3)
    head = ids_of(30, 1)
    wrapped.generate(**whole(head), **GREEDY)
    wrong: list[str] = []

    def play(seed: int) -> None:
        ids = torch.cat([head, ids_of(10, seed)], 1)
        for turn in range(8):
            output = wrapped.generate(**whole(ids), **GREEDY)
            if not torch.equal(output, model.generate(**whole(ids), **GREEDY)):
                wrong.append(f"thread {seed}, turn {turn}")
            ids = torch.cat([output, ids_of(6, 10 * seed + turn)], 1)

    threads = [threading.Thread(target=play, args=(seed,)) for seed in range(2, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and wrapped.log.rows == 41 and wrapped.conversations.count <= 3
    assert not model._forward_pre_hooks and not model.model.layers[0]._forward_pre_hooks


def test_a_call_within_a_call() -> None:
    model = tiny("llama")
    wrapped, ids = erecap.wrap(model), ids_of(30, 1)
    expected = model.generate(**whole(ids), **GREEDY)
    within: list[torch.Tensor] = []

    def asks_again(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        within.append(wrapped.generate(**whole(ids), **GREEDY))
        return scores

    assert torch.equal(wrapped.generate(**whole(ids), **GREEDY, logits_processor=[asks_again]), expected)
    assert len(within) == 5 and all(torch.equal(output, expected) for output in within)


def test_a_pipeline_gets_a_session(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from transformers import pipeline

    pipe = pipeline("text-generation", model=chat_model("llama"), tokenizer=byte_level())
    wrapped = erecap.wrap(pipe, log=tmp_path)
    text = "You see a mug on the shelf. "
    for turn in range(4):
        [expected] = pipe(text, max_new_tokens=6, do_sample=False)
        assert wrapped(text, max_new_tokens=6, do_sample=False) == [expected]
        text += f"You go to shelf {turn}. "
    assert [row["decision"] for row in rows_of(tmp_path)] == ["read", "reused", "reused", "reused"]
    assert wrapped.model.conversations.count == 1 and pipe.model is chat_model("llama")


def test_smolagents_own_models_get_a_session(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("smolagents")
    from smolagents.models import TransformersModel

    folder = tmp_path / "model"
    chat_model("llama").save_pretrained(folder)
    byte_level().save_pretrained(folder)
    bare = TransformersModel(str(folder), device_map="cpu", max_new_tokens=8, do_sample=False)
    wrapped = erecap.wrap(bare, log=tmp_path / "log")
    assert isinstance(wrapped, TransformersModel) and wrapped is not bare
    chat: list[dict] = [{"role": "user", "content": [{"type": "text", "text": "Find the mug."}]}]
    for turn in range(4):
        expected = bare.generate(chat, stop_sequences=["Observation:"])
        answer = wrapped.generate(chat, stop_sequences=["Observation:"])
        assert answer.content == expected.content and answer.token_usage == expected.token_usage
        seen = f"There is a plate {turn}, and nothing else."
        for role, text in (("assistant", expected.content or "look"), ("user", seen)):
            chat.append({"role": role, "content": [{"type": "text", "text": text}]})
    rows = rows_of(tmp_path / "log")
    assert [row["decision"] for row in rows] == ["read", "reused", "reused", "reused"]
    assert not hasattr(erecap.wrap(bare, keep_tokens=50).model, "conversations")  # its text is shortened


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_long_prompts_are_read_in_chunks_without_a_difference(name: str) -> None:
    model = chat_model(name)
    ids = ids_of(1100, 1)
    wrapped = erecap.wrap(model)
    assert torch.equal(wrapped.generate(**whole(ids), **GREEDY), model.generate(**whole(ids), **GREEDY))
