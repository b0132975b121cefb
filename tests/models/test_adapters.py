"""Adapters: merged they give the results of PEFT, and a misfit is one clear line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from erecap.errors import ModelError
from erecap.models import fingerprint, load
from erecap.models.adapters import CARD, CONFIG, WEIGHTS, attach_adapter, describe_adapter
from erecap.models.settings_files import settings_files
from erecap.models.wheels import sha256
from erecap.session import ReplanSession

TEXT = [{"role": "user", "content": "go to fridge 1"}]


def make_adapter(folder: Path, base: Path, rank: int = 4) -> Path:
    """An adapter with random weights, with the card that training writes beside it."""
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save_file

    model, _ = load(str(base), "float32", "cpu")
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, config)
    torch.manual_seed(5)
    tensors = {name: torch.randn_like(value) * 0.1 for name, value in get_peft_model_state_dict(wrapped).items()}
    folder.mkdir()
    wrapped.peft_config["default"].save_pretrained(folder)
    save_file(tensors, folder / WEIGHTS)
    _write_card(folder, {"name": base.name, "fingerprint": fingerprint(base)})
    return folder


def _write_card(folder: Path, base: dict[str, str]) -> None:
    (folder / CARD).write_text(json.dumps({"base": base, "files": {WEIGHTS: sha256(folder / WEIGHTS)}}))


@pytest.fixture
def adapter(tiny: Path, tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "planner", tiny)


def logits(model: Any, tokenizer: Any) -> Any:
    import torch

    ids = tokenizer(TEXT[0]["content"], return_tensors="pt").input_ids
    with torch.no_grad():
        return model(ids).logits


def expected(model: Any, tokenizer: Any, messages: list[dict]) -> str:
    shown = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**shown, max_new_tokens=6, do_sample=False)
    return str(tokenizer.decode(out[0, shown["input_ids"].shape[1] :], skip_special_tokens=True))


def test_merging_gives_what_the_adapter_gives(tiny: Path, adapter: Path) -> None:
    import torch

    plain, tokenizer = load(str(tiny), "float32", "cpu")
    before = logits(plain, tokenizer)
    beside = logits(attach_adapter(plain, adapter), tokenizer)
    merged, _ = load(str(tiny), "float32", "cpu", adapter=str(adapter))
    torch.testing.assert_close(logits(merged, tokenizer), beside, atol=1e-5, rtol=1e-5)
    assert (beside - before).abs().max() > 0.01
    assert not merged.training and not any(p.requires_grad for p in merged.parameters())
    assert not any("lora" in name for name, _ in merged.named_modules())
    assert {type(m).__name__ for m in merged.modules()} == {type(m).__name__ for m in load(str(tiny))[0].modules()}


def test_the_flat_decoder_takes_a_merged_model(tiny: Path, adapter: Path) -> None:
    from erecap.decoding.fused import fused_problem

    merged, _ = load(str(tiny), "float32", "cpu", adapter=str(adapter))
    assert fused_problem(merged) is None
    beside, _ = load(str(tiny), "float32", "cpu")
    assert fused_problem(attach_adapter(beside, adapter)) is not None, "unmerged, it would decode without the adapter"


def test_weights_are_merged_before_they_are_rounded(tiny: Path, adapter: Path) -> None:
    import torch

    exact, _ = load(str(tiny), "float32", "cpu", adapter=str(adapter))
    rounded, _ = load(str(tiny), "bfloat16", "cpu", adapter=str(adapter))
    for one, other in zip(exact.parameters(), rounded.parameters(), strict=True):
        assert torch.equal(one.bfloat16(), other)


def test_a_merged_folder_has_the_number_format_of_the_models(
    tiny: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from erecap.engines.vllm.merged import merged_folder

    monkeypatch.setenv("ERECAP_CACHE", str(tmp_path / "cache"))
    half, _ = load(str(tiny), "float16", "cpu")
    half.save_pretrained(tiny)
    _write_card(adapter, {"name": "tiny", "fingerprint": fingerprint(tiny)})
    made = merged_folder(str(tiny), str(adapter))
    assert json.loads((made / "config.json").read_text())["dtype"] == "float16"
    wanted, _ = load(str(tiny), "float16", "cpu", adapter=str(adapter))
    found, _ = load(str(made), "float16", "cpu")
    assert all(torch.equal(one, other) for one, other in zip(found.parameters(), wanted.parameters(), strict=True))
    assert merged_folder(str(tiny), str(adapter)) == made
    assert [path.name for path in made.parent.iterdir()] == [made.name]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"quantization_config": {"quant_method": "zz"}}, "quantization_config: quant_method: got 'zz'"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 0}}, "its rotary embeddings"),
        ({"hidden_size": "many"}, "config.json: hidden_size"),
    ],
)
def test_no_folder_is_merged_that_could_not_be_loaded(
    tiny: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: dict, message: str
) -> None:
    from erecap.engines.vllm.merged import merged_folder

    monkeypatch.setenv("ERECAP_CACHE", str(tmp_path / "cache"))
    config = tiny / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | setting))
    with pytest.raises(ModelError, match=message):
        merged_folder(str(tiny), str(adapter))
    assert not list((tmp_path / "cache").glob("merged/*"))


def test_names_are_looked_up_as_models_are(
    tiny: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERECAP_CHECKPOINTS", str(tmp_path / "checkpoints"))
    shutil.copytree(adapter, tmp_path / "checkpoints" / "household-planner")
    load(str(tiny), "float32", "cpu", adapter="household-planner")
    found = describe_adapter("household-planner")
    assert found["name"] == "household-planner" and found["hash"] == f"sha256:{sha256(adapter / WEIGHTS)}"
    with pytest.raises(ModelError, match=r"no adapter 'nothing'.*; there are .*household-planner"):
        load(str(tiny), adapter="nothing")


def test_another_base_is_refused(tiny: Path, adapter: Path) -> None:
    _write_card(adapter, {"name": "other", "fingerprint": "sha256:" + "0" * 64})
    with pytest.raises(ModelError, match=r"planner was trained on other with weights sha256:0+, but tiny has sha256"):
        load(str(tiny), adapter=str(adapter))


def _flip(folder: Path) -> None:
    raw = bytearray((folder / WEIGHTS).read_bytes())
    raw[-1] ^= 1
    (folder / WEIGHTS).write_bytes(raw)


def _cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-10])


def _other_rank(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "r": 5}))


def _nan(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, folder / WEIGHTS)
    _write_card(folder, json.loads((folder / CARD).read_text())["base"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip, "is damaged: its SHA-256"),
        (_cut, "is damaged: .* bytes, .* expected"),
        (_other_rank, r"does not fit the model: base_model.* is \[4, .*expected \[5, "),
        (_nan, "not finite"),
        (lambda folder: (folder / WEIGHTS).unlink(), "adapter_model.safetensors is missing"),
        (lambda folder: (folder / CARD).write_text("{}"), "its card.json is not one that"),
        (lambda folder: (folder / CARD).write_text("[]"), "must hold a JSON object"),
        (lambda folder: (folder / CONFIG).write_text("{"), "adapter_config.json is not valid JSON"),
        (lambda folder: (folder / CONFIG).write_text('{"peft_type": "IA3"}'), "not an adapter"),
    ],
)
def test_what_is_damaged_is_named(tiny: Path, adapter: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(adapter)
    with pytest.raises(ModelError, match=message) as caught:
        load(str(tiny), "float32", "cpu", adapter=str(adapter))
    assert "\n" not in str(caught.value)


def test_an_adapter_for_another_shape_names_the_tensor(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(tiny)
    config.intermediate_size = 48
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    LlamaForCausalLM(config).save_pretrained(other)
    _write_card(adapter, {"name": "other", "fingerprint": fingerprint(other)})
    with pytest.raises(ModelError, match=r"does not fit the model: .*mlp.*expected"):
        load(str(other), adapter=str(adapter))


@pytest.mark.parametrize("saved_by", ["save_pretrained", "another rank", "rslora"])
def test_an_adapter_that_peft_saved_loads_and_says_that_its_base_was_not_checked(
    saved_by: str, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load(str(tiny), "float32", "cpu")
    options: dict[str, Any] = {"r": 3} if saved_by == "another rank" else {"use_rslora": saved_by == "rslora"}
    config = LoraConfig(
        target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM", **options
    )
    torch.manual_seed(3)
    wrapped = get_peft_model(model, config)
    wrapped.save_pretrained(tmp_path / "plain")
    expected = logits(wrapped, tokenizer)
    assert not (tmp_path / "plain" / CARD).exists()
    merged, _ = load(str(tiny), "float32", "cpu", adapter=str(tmp_path / "plain"))
    torch.testing.assert_close(logits(merged, tokenizer), expected, atol=1e-5, rtol=1e-5)
    [record] = caplog.records
    assert "adapter plain has no card.json: no hash of its base was checked" in record.getMessage()
    assert describe_adapter(str(tmp_path / "plain"))["name"] == "plain"


def _set(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / CONFIG).write_text(json.dumps({**json.loads((folder / CONFIG).read_text()), **values}))

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set(lora_alpha=float("inf")), _set(lora_alpha=float("nan")), _set(alpha_pattern={"q_proj": 1e400}),
        _set(alpha_pattern={"down_proj": float("-inf")}), _set(r=0), _set(lora_alpha=1e42),
    ],
)  # fmt: skip
def test_a_scaling_that_is_not_finite_is_refused(change: Callable[[Path], None], tiny: Path, adapter: Path) -> None:
    (adapter / CARD).unlink()
    change(adapter)
    with pytest.raises(ModelError) as caught:
        load(str(tiny), "float32", "cpu", adapter=str(adapter))
    assert "\n" not in str(caught.value) and str(adapter) in str(caught.value)


def test_the_card_pins_the_configuration_of_the_adapter_and_of_its_base(
    tiny: Path, adapter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card = json.loads((adapter / CARD).read_text())
    card["files"][CONFIG] = sha256(adapter / CONFIG)
    card["base"]["settings"] = settings_files(tiny)
    (adapter / CARD).write_text(json.dumps(card))
    load(str(tiny), "float32", "cpu", adapter=str(adapter))
    assert not caplog.records
    generation = json.loads((tiny / "generation_config.json").read_text())
    (tiny / "generation_config.json").write_text(json.dumps({**generation, "repetition_penalty": 1.2}))
    load(str(tiny), "float32", "cpu", adapter=str(adapter))
    assert "was trained with another generation_config.json of tiny" in caplog.text
    _set(lora_alpha=99)(adapter)
    with pytest.raises(ModelError, match=r"adapter_config.json is damaged: its SHA-256"):
        load(str(tiny), "float32", "cpu", adapter=str(adapter))


SHARED: dict[str, dict[str, Any]] = {
    "embedding of a tied head": {"target_modules": ["embed_tokens", "q_proj"]},
    "tied head": {"target_modules": ["lm_head", "q_proj"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"]},
    "both, tied by peft": {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "layers that share their weights": {
        "target_modules": ["q_proj", "down_proj"],
        "layer_replication": [[0, 2], [0, 2]],
    },
}


@pytest.mark.parametrize("case", SHARED)
def test_weights_that_modules_share_are_parted_before_an_adapter_is_merged(
    case: str, tiny: Path, tmp_path: Path
) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    def base() -> Any:
        return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)

    torch.manual_seed(3)
    wrapped = get_peft_model(base(), LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM", **SHARED[case]))
    for name, weight in wrapped.named_parameters():
        if "lora" in name:
            weight.data.add_(torch.randn_like(weight) * 0.3)
    wrapped.save_pretrained(str(tmp_path / "plain"))
    beside = PeftModel.from_pretrained(base(), tmp_path / "plain").eval()
    merged, tokenizer = load(str(tiny), "float32", "cpu", adapter=str(tmp_path / "plain"))
    wanted = logits(beside, tokenizer)
    torch.testing.assert_close(logits(merged, tokenizer), wanted, atol=1e-4, rtol=1e-4)
    assert (wanted - logits(load(str(tiny), "float32", "cpu")[0], tokenizer)).abs().max() > 0.01
    if "layer_replication" in SHARED[case]:  # transformers does not save layers that share weights
        messages = [{"role": "user", "content": "go to fridge 1"}]
        session = ReplanSession(merged, tokenizer)
        assert session.generate(messages, max_new_tokens=6).text == expected(merged, tokenizer, messages)
        return
    merged.save_pretrained(tmp_path / "merged")
    assert fingerprint(tmp_path / "merged") == fingerprint(merged)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits(again, tokenizer), wanted, atol=1e-4, rtol=1e-4)


def test_an_adapter_that_works_on_some_tokens_only_is_refused(tiny: Path, adapter: Path) -> None:
    _set(alora_invocation_tokens=[5, 6])(adapter)
    with pytest.raises(ModelError) as caught:
        load(str(tiny), "float32", "cpu", adapter=str(adapter))
    assert "\n" not in str(caught.value) and str(adapter) in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_modules", "(["), ("target_modules", [1]), ("exclude_modules", "*x"), ("rank_pattern", "x"),
        ("rank_pattern", {"([": 2}), ("alpha_pattern", {"q_proj": "x"}), ("layers_pattern", "(["),
        ("megatron_config", {"a": 1}),
    ],
)  # fmt: skip
def test_settings_that_peft_fails_at_are_named(field: str, value: Any, tiny: Path, adapter: Path) -> None:
    _set(**{field: value})(adapter)
    with pytest.raises(ModelError, match=rf"adapter_config\.json: {field}: ") as caught:
        load(str(tiny), "float32", "cpu", adapter=str(adapter))
    assert "\n" not in str(caught.value)
