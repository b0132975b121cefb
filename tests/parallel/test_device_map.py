"""Device maps as users write them: what they mean, what is refused, and what a model loaded by one stores where."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from erecap.config import load_run
from erecap.engines.places import places_of
from erecap.errors import ConfigError
from erecap.language_models.opened import ModelSettings, open_model
from erecap.models import load
from erecap.parallel.device_map import resolve_device_map
from erecap.parallel.placement import waiting_weights
from erecap.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("placed") / "tiny"
    model("llama").save_pretrained(found)
    byte_level().save_pretrained(found)
    return found


def test_ranges_of_layers_place_the_ends_with_the_first_and_the_last() -> None:
    found = resolve_device_map(model("llama"), "disk=0-2,cpu=3-7", torch.float32)
    assert found["model.embed_tokens"] == found["model.rotary_emb"] == "disk"
    assert found["model.norm"] == found["lm_head"] == "cpu"
    assert [found[f"model.layers.{number}"] for number in range(8)] == ["disk"] * 3 + ["cpu"] * 5


@pytest.mark.parametrize("word", ["auto", "balanced", "sequential"])
def test_without_accelerators_everything_is_on_the_cpu(word: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert set(resolve_device_map(model("llama"), word, torch.float32).values()) == {"cpu"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cpu=0-3,disk=5-7", "layer 4 is on no device; the model has layers 0 to 7"),
        ("cpu=0-8", "got layer 8 on cpu; the model has layers 0 to 7"),
        ("cpu=0-7,disk=3", "got layer 3 on disk; each layer lies on one device"),
        ("cpu=7-0", "got cpu=7-0; allowed: ranges that rise"),
        ("cuda:97=0-7", "device 'cuda:97' is not on this machine; allowed: "),
        ("toaster=0-7", "device 'toaster' is not known; allowed: cuda:N, cpu, disk"),
        ("somewhere", "got 'somewhere'; allowed: auto, balanced, sequential, ranges of layers"),
        ("missing.json", "missing.json cannot be read"),
        ({"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu"}, "model.layers.0.self_attn.q_proj"),
        ({"": "cpu", "model.layer.0": "disk"}, "has no part 'model.layer.0'; its parts: model.embed_tokens, "),
        ([], "got []; allowed: {part: device}, or auto"),
    ],
)  # fmt: skip
def test_what_fits_nothing_is_refused_in_one_line(text: Any, words: str, tmp_path: Path) -> None:
    if not isinstance(text, str):
        (tmp_path / "map.json").write_text(json.dumps(text))
        text = str(tmp_path / "map.json")
    with pytest.raises(ConfigError) as caught:
        resolve_device_map(model("llama"), text, torch.float32)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("device_map: ")


@pytest.mark.parametrize("given", [3, {}, {1: "cpu"}, {"": ["cpu"]}])
def test_mappings_that_are_none_are_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"device_map: got .*; allowed: {part: device}, or auto"):
        resolve_device_map(model("llama"), given, torch.float32)


def test_tied_weights_lie_together() -> None:
    made = copy.deepcopy(model("llama"))
    apart = {"model": "cpu", "lm_head": "disk"}
    assert resolve_device_map(made, apart, torch.float32) == apart
    made.config.tie_word_embeddings = True
    with pytest.raises(ConfigError, match=r"lm_head is on disk, model.embed_tokens on cpu; they share their weights"):
        resolve_device_map(made, apart, torch.float32)
    assert resolve_device_map(made, {"": "cpu", "model.layers.1": "disk"}, torch.float32)


def test_a_mapping_places_as_its_file_does(folder: Path) -> None:
    loaded, _ = load(str(folder), "float32", device_map={"": "cpu", "model.layers.7": "disk"})
    assert {one.name.split(".")[2] for one in waiting_weights(loaded)} == {"7"}


def test_a_file_places_part_by_part(tmp_path: Path) -> None:
    parts = {"": "cpu", "model.layers.6": "disk", "model.layers.7.mlp": "disk"}
    (tmp_path / "map.json").write_text(json.dumps(parts))
    found = resolve_device_map(model("llama"), str(tmp_path / "map.json"), torch.float32)
    # No part lies within another: what is put apart is taken out of what holds it.
    assert {part for part, device in found.items() if device == "disk"} == {"model.layers.6", "model.layers.7.mlp"}
    assert {part for part in found if part.startswith("model.layers.7.")} >= {"model.layers.7.self_attn"}
    assert found["model.layers.5"] == found["lm_head"] == "cpu" and not {"", "model", "model.layers.7"} & set(found)


def test_a_loaded_model_has_its_layers_where_the_map_says(folder: Path) -> None:
    opened = open_model(ModelSettings(str(folder), dtype="float32", device_map="cpu=0-4,disk=5-7"))
    waiting = {one.name.split(".")[2] for one in waiting_weights(opened.model) if ".layers." in one.name}
    assert waiting == {"5", "6", "7"}
    whole, tokenizer = load(str(folder), dtype="float32", device="cpu")
    answers = [
        ReplanSession(one, tokenizer, budget=60).generate(start(), max_new_tokens=6).text
        for one in (opened.model, whole)
    ]
    assert answers[0] == answers[1]
    with pytest.raises(ConfigError, match="device: got cpu beside a device map; allowed: one of the two"):
        load(str(folder), device="cpu", device_map="auto")


def test_places_count_weights_and_tokens(folder: Path) -> None:
    found = places_of(str(folder), "cpu=0-4,disk=5-7", "float32")
    weights = sum(weight.numel() * 4 for weight in model("llama").parameters())
    cpu, disk = found.places
    assert cpu.layers == (0, 1, 2, 3, 4) and disk.layers == (5, 6, 7) and cpu.weights + disk.weights == weights
    # Layers that wait on disk run on the CPU, and store their keys and values there: 8 layers, 2 heads of 8 numbers.
    assert disk.token == 0 and disk.tokens is None and cpu.token == 8 * 2 * 2 * 8 * 4
    assert found.tokens == (cpu.free - cpu.weights) // cpu.token and found.window == 4096


def test_the_command_shows_them(erecap: Any, folder: Path) -> None:
    code, out, _ = erecap("doctor", "--model", folder, "--device-map", "cpu=0-4,disk=5-7", "--dtype", "float32")
    assert code == 0 and "layers 0-4, " in out and "layers 5-7, " in out and "tokens fit beside" in out
    code, _, err = erecap("doctor", "--model", folder, "--device-map", "cpu=0-3")
    assert code != 0 and "device_map: layer 4 is on no device" in err
    code, _, err = erecap("doctor", "--device-map", "auto")
    assert code != 0 and "give --model" in err


def test_runs_name_one(tmp_path: Path) -> None:
    assert load_run("smoke", ["device_map=cpu=0-9,disk=10-29"]).device_map == "cpu=0-9,disk=10-29"
    assert "device_map" not in load_run("smoke").model_dump()
    with pytest.raises(ConfigError, match="device: got cpu beside a device_map"):
        load_run("smoke", ["device_map=auto", "device=cpu"])
