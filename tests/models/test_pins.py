"""A name of the catalog stands for what was pulled under it: weights, configuration, tokenizer, template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from erecap.errors import ModelError
from erecap.models import check, fingerprint, load
from erecap.models.catalog import CARD, CATALOG, HubModel, WheelModel
from erecap.models.settings_files import changed_files, settings_files

NAME = "pinned-model"


@pytest.fixture
def pinned(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands in the catalog, with the card that pulling writes."""
    monkeypatch.setenv("ERECAP_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setitem(CATALOG, NAME, HubModel(NAME, "owner/model", "MIT", 1))
    folder = Path(shutil.copytree(tiny, tmp_path / "checkpoints" / NAME))
    card = {"name": NAME, "fingerprint": fingerprint(folder), "settings": settings_files(folder)}
    (folder / CARD).write_text(json.dumps(card))
    return folder


def edit(file: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] += 1e-6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def named_template(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "default.jinja").write_text("{{ messages[0].content }}")


def linked_config(folder: Path) -> None:
    edit("config.json", rms_norm_eps=0.5)(folder)
    (folder / "config.json").rename(folder.parent / "elsewhere.json")
    (folder / "config.json").symlink_to(folder.parent / "elsewhere.json")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one number of the weights": (weights, "the weights in"),
    "an epsilon": (edit("config.json", rms_norm_eps=0.1), "config.json is not as it was pulled"),
    "the rope": (edit("config.json", rope_parameters={"rope_theta": 5.0, "rope_type": "default"}), "config.json"),
    "the end of an answer": (edit("generation_config.json", eos_token_id=7), "generation_config.json is not"),
    "a penalty": (edit("generation_config.json", repetition_penalty=1.3), "generation_config.json is not"),
    "a special token": (edit("tokenizer_config.json", eos_token="<s>"), "tokenizer_config.json is not"),
    "the normalizer": (edit("tokenizer.json", normalizer={"type": "Lowercase"}), "tokenizer.json is not"),
    "the template": (lambda f: (f / "chat_template.jinja").write_text("{{ messages[0].content }}"), "chat_template"),
    "a template more": (lambda f: (f / "chat_template.json").write_text("{}"), "chat_template.json"),
    "the default among several": (named_template, "additional_chat_templates/default.jinja is not as it was pulled"),
    "words of another tokenizer": (lambda f: (f / "vocab.txt").write_text("a\nb"), "vocab.txt is not as it was pulled"),
    "configuration by a link": (linked_config, "config.json is not as it was pulled"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_was_changed_under_a_name_is_named(case: str, pinned: Path) -> None:
    load(NAME, "float32", "cpu")
    change, words = CHANGES[case]
    change(pinned)
    with pytest.raises(ModelError, match=words) as caught:
        load(NAME, "float32", "cpu")
    assert "\n" not in str(caught.value) and f"erecap models pull {NAME} --force" in str(caught.value)
    assert any(result.ok is False for result in check(NAME))
    load(str(pinned), "float32", "cpu")  # by its path it is a model of the user's own


def test_who_wrote_a_file_does_not_matter(pinned: Path) -> None:
    edit("config.json", transformers_version="9.9.9")(pinned)
    load(NAME, "float32", "cpu")
    assert changed_files({}, pinned) == [] and all(result.ok for result in check(NAME))


def test_a_folder_pulled_before_there_were_such_pins_keeps_those_it_has(pinned: Path) -> None:
    (pinned / CARD).write_text(json.dumps({"fingerprint": fingerprint(pinned)}))
    edit("generation_config.json", eos_token_id=7)(pinned)
    load(NAME, "float32", "cpu")
    weights(pinned)
    with pytest.raises(ModelError, match="the weights in"):
        load(NAME, "float32", "cpu")


def test_the_catalog_itself_pins_the_embedded_model(pinned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = CATALOG["smollm2-135m-instruct"]
    assert isinstance(embedded, WheelModel) and dict(embedded.config)["rope_theta"] == 100000.0
    (pinned / CARD).unlink()
    own = replace(embedded, name=NAME, fingerprint=fingerprint(pinned), config=(("hidden_size", 32), ("vocab_size", 9)))
    monkeypatch.setitem(CATALOG, NAME, own)
    with pytest.raises(ModelError, match="another vocab_size than the pinned 9"):
        load(NAME, "float32", "cpu")
    monkeypatch.setitem(CATALOG, NAME, replace(own, fingerprint="sha256:" + "0" * 64))
    with pytest.raises(ModelError, match=r"pinned are sha256:0+"):
        load(NAME, "float32", "cpu")


@pytest.mark.integration
def test_the_embedded_model_is_as_pinned(embedded_model_folder: Path) -> None:
    from erecap.models.pins import check_pins

    check_pins("smollm2-135m-instruct", embedded_model_folder)
