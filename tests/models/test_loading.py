"""Loading: a good folder works, a damaged one gives one line that names the file."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from erecap.engines.token_bytes import bytes_per_token
from erecap.errors import ConfigError, ModelError
from erecap.models import check, load
from erecap.models.loading import native_bfloat16, resolve_dtype


def test_a_whole_folder_loads_ready_to_plan(tiny: Path) -> None:
    model, tokenizer = load(str(tiny), device="cpu")
    assert not model.training
    assert not any(tensor.requires_grad for tensor in model.parameters())
    assert model.config._attn_implementation == "sdpa"
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], return_tensors="pt", return_dict=True)
    assert model.generate(**ids, max_new_tokens=2, min_new_tokens=2, do_sample=False).shape[0] == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_as_asked(tiny: Path, dtype: str) -> None:
    model, _ = load(str(tiny), dtype=dtype, device="cpu", attn="eager")
    assert model.dtype == getattr(torch, dtype)
    assert model.config._attn_implementation == "eager"


def test_auto_dtype_follows_the_hardware() -> None:
    cpu = torch.device("cpu")
    expected = torch.bfloat16 if native_bfloat16(cpu) else torch.float32
    assert resolve_dtype("auto", cpu) == expected
    assert resolve_dtype("auto", torch.device("meta")) == torch.float32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dtype": "int3"}, "float32, bfloat16"),
        ({"device": "toaster"}, "auto, cpu"),
        ({"device": "cuda:97"}, "CUDA devices"),
        ({"attn": "telepathy"}, "telepathy"),
    ],
)
def test_impossible_arguments(tiny: Path, arguments: dict[str, str], words: str) -> None:
    with pytest.raises((ConfigError, ModelError), match=re.escape(words)) as caught:
        load(str(tiny), **arguments)
    assert "\n" not in str(caught.value)


def _no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def _cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _lost_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _other_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] = 48
    (folder / "config.json").write_text(json.dumps(config))


def _other_kind(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "abacus"
    (folder / "config.json").write_text(json.dumps(config))


def _shards_without_one(folder: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _set(file: str = "config.json", **values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **values}))

    return change


def _nan_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _infinite_embedding(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][1] = float("inf")  # of a token that no probe reads
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _template_of_another_kind(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    _set("tokenizer_config.json", chat_template=5)(folder)


def _rope(theta: float) -> Callable[[Path], object]:
    return _set(rope_parameters={"rope_type": "default", "rope_theta": theta})


def _adapter_beside(folder: Path) -> None:
    """As transformers finds one by itself; its numbers are not in the fingerprint of the model's files."""
    import peft
    from transformers import AutoModelForCausalLM

    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    adapted.peft_config["default"].base_model_name_or_path = str(folder)
    adapted.save_pretrained(str(folder))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "an adapter beside the model": (_adapter_beside, "adapter_config.json: transformers would change the model's"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "config is not JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is not valid JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object"),
    "config of something else": (lambda f: (f / "config.json").write_text("{}"), "no 'model_type'"),
    "unknown kind of model": (_other_kind, "abacus"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "weights cut short": (_cut_weights, "model.safetensors is damaged"),
    "weights empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors"),
    "weights are noise": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x07" * 999),
        "model.safetensors",
    ),
    "a shard is missing": (_shards_without_one, "model-1.safetensors is missing"),
    "a tensor is missing": (_lost_tensor, "model.layers.1.mlp.up_proj.weight"),
    "tensors of another shape": (_other_shape, "another shape"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
    "tokenizer is not JSON": (
        lambda f: (f / "tokenizer.json").write_text("no"),
        "tokenizer.json is not valid",
    ),
    "tokenizer of nothing": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer"),
    "no chat template": (_no_template, "no chat template"),
    "template broken": (lambda f: (f / "chat_template.jinja").write_text("{% for %}"), "the chat template is broken"),
    "template is a number": (_template_of_another_kind, "chat_template: got 5"),
    "weight is NaN": (_nan_weight, "model.layers.1.mlp.up_proj.weight holds values that are not finite"),
    "weight is infinite": (_infinite_embedding, "model.embed_tokens.weight holds values that are not finite"),
    "rope_theta is NaN": (_rope(float("nan")), "config.json: rope_parameters.rope_theta: got NaN"),
    "rope_theta is 0": (_rope(0), "config.json: its rotary embeddings (rope_theta)"),
    "epsilon is NaN": (_set(rms_norm_eps=float("nan")), "config.json: rms_norm_eps: got NaN"),
    "epsilon below 0": (_set(rms_norm_eps=-10.0), "the logits are not finite although the weights are"),
    "end is a text": (
        _set("generation_config.json", eos_token_id="x"),
        "generation_config.json: eos_token_id: got 'x'",
    ),
    "quantization unknown": (
        _set(quantization_config={"quant_method": "zz"}),
        "quantization_config: quant_method: got",
    ),
    "quantization is a text": (_set(quantization_config="x"), "config.json: quantization_config: got 'x'"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_folder_is_named_in_one_line(tiny: Path, case: str) -> None:
    damage, words = DAMAGE[case]
    damage(tiny)
    with pytest.raises(ModelError, match=re.escape(words)) as caught:
        load(str(tiny), device="cpu")
    assert "\n" not in str(caught.value)
    assert str(tiny) in str(caught.value)
    results = check(str(tiny))
    assert any(result.ok is False for result in results)


def test_check_of_a_good_folder(tiny: Path) -> None:
    results = {result.name: result for result in check(str(tiny))}
    assert all(result.ok is True for result in results.values()), results
    assert "nothing to compare" in results["weights"].found
    assert results["generates"].ok
    model, _ = load(str(tiny), device="cpu")
    each = bytes_per_token(model)
    assert results["stores"].found.startswith(f"{each:,} bytes of keys and values a token, {each / 1024:.1f} MiB for a")


def test_pickled_weights_are_not_read(tiny: Path) -> None:
    tensors = load_file(tiny / "model.safetensors")
    (tiny / "model.safetensors").unlink()
    torch.save(tensors, tiny / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors only"):
        load(str(tiny), device="cpu")


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_a_package_that_a_quantization_needs_is_named(tiny: Path) -> None:
    _set(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})(tiny)
    with pytest.raises(ModelError, match=r"config\.json: quantization_config: a package is missing: .*") as caught:
        load(str(tiny), device="cpu")
    assert "\n" not in str(caught.value)


def test_infinity_is_a_limit_that_some_configurations_have(tiny: Path) -> None:
    _set(time_step_limit=[0.0, float("inf")])(tiny)
    load(str(tiny), device="cpu")
