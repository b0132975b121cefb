"""Calibration sequences: their sources, their shares, their order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError
from erecap.tuning.calibration_texts import WINDOWS, calibration_ids, digest_of
from tests.context.small_tokenizers import byte_level
from tests.tuning.histories import episode, write

TASK = {
    "id": "t",
    "instruction": "Say it.",
    "instances": [{"input": "", "output": "It."}, {"input": "A", "output": "B"}],
}


def text_file(folder: Path, rows: int = 40) -> Path:
    path = folder / "general.jsonl"
    lines = [json.dumps(f"Sentence number {number} of a text.") for number in range(rows)]
    path.write_text("\n".join([*lines, json.dumps(TASK), json.dumps({"text": "One more."})]) + "\n")
    return path


def test_texts_are_shuffled_joined_and_cut(tmp_path: Path) -> None:
    path, tokenizer = text_file(tmp_path), byte_level()
    found = calibration_ids(path, tokenizer, count=5, length=32, seed=1)
    assert len(found) == 5 and {len(ids) for ids in found} == {32} and len(set(found)) == 5
    joined = [token for ids in found for token in ids]
    text = tokenizer.decode(joined)
    end = tokenizer.eos_token
    assert end in text and all(part in path.read_text() for part in text.split(end)[1:-1])
    assert found == calibration_ids(path, tokenizer, count=5, length=32, seed=1)
    assert found.digest != calibration_ids(path, tokenizer, count=5, length=32, seed=2).digest
    (source,) = found.sources
    assert (source.name, source.kind, source.count) == ("general.jsonl", "text", 5)
    assert source.digest == found.digest == digest_of(list(found))
    whole = tokenizer.decode([t for ids in calibration_ids(path, tokenizer, count=30, length=32) for t in ids])
    assert f"{end}Say it.\nIt.\nA\nB{end}" in whole and f"{end}One more.{end}" in whole


def test_a_plain_file_is_one_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefgh" * 10)
    (found,) = calibration_ids(tmp_path / "a.txt", byte_level(), count=1, length=8)
    text = byte_level().decode(found)
    assert len(found) == 8 and len(text) >= 8 and ("abcdefgh" * 10).startswith(text)


def test_trajectories_as_the_planner_reads_them(tmp_path: Path) -> None:
    folder, tokenizer = write(tmp_path / "collected", episodes=6, turns=8), byte_level()
    found = calibration_ids(folder, tokenizer, count=12, length=40)
    rendered = [
        tuple(render_prompt(episode(number, 8 if number else 1)["messages"], tokenizer, False).input_ids)
        for number in range(6)
    ]
    starts = [ids[start : start + 40] for ids in rendered for start in range(0, len(ids) - 39, 40)]
    assert set(found) <= set(starts) and found.sources[0].kind == "trajectories"
    # Several chats, and of each its beginning.
    owners = [
        next(n for n, ids in enumerate(rendered) if sequence in starts and _within(sequence, ids)) for sequence in found
    ]
    assert len(set(owners)) >= 12 / WINDOWS and found[0] in {ids[:40] for ids in rendered}
    most = calibration_ids(folder, tokenizer, count=len(set(starts)) - 20, length=40)
    assert len(most) > 6 * WINDOWS  # when all chats gave four, the others follow


def _within(sequence: tuple[int, ...], ids: tuple[int, ...]) -> bool:
    return any(ids[start : start + len(sequence)] == sequence for start in range(0, len(ids), len(sequence)))


def test_several_sources_take_turns(tmp_path: Path) -> None:
    path, folder, tokenizer = text_file(tmp_path), write(tmp_path / "collected"), byte_level()
    found = calibration_ids([folder, path], tokenizer, count=5, length=32)
    assert [source.count for source in found.sources] == [3, 2]
    assert list(found[::2]) == list(calibration_ids(folder, tokenizer, count=3, length=32))
    assert list(found[1::2]) == list(calibration_ids(path, tokenizer, count=2, length=32))
    assert [fact["name"] for fact in found.facts()] == ["collected", "general.jsonl"]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    path, tokenizer = text_file(tmp_path), byte_level()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    for name, row in {"number": "3", "keys": '{"a": 1}', "cut": '{"text": "a', "list": '{"text": [1]}'}.items():
        (tmp_path / f"{name}.jsonl").write_text('"fine"\n' + row + "\n")
    cases = {
        "nowhere": "got 'nowhere'; allowed: planner, a file, or a collected folder",
        str(tmp_path / "empty"): "holds no meta.json; `erecap collect` makes such a folder",
        str(tmp_path / "bytes.txt"): "is not UTF-8",
        **{str(tmp_path / f"{name}.jsonl"): rf"{name}.jsonl:2: no text" for name in ("number", "keys", "cut", "list")},
    }
    for source, message in cases.items():
        with pytest.raises(ConfigError, match=message) as error:
            calibration_ids(source, tokenizer, count=1, length=4)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"general.jsonl has \d+ sequences of 32 tokens, 500 are needed"):
        calibration_ids(path, tokenizer, count=500, length=32)
    with pytest.raises(ConfigError, match="calibration count: got 1; allowed: 2 or more"):
        calibration_ids([path, tmp_path / "bytes.txt"], tokenizer, count=1)
    with pytest.raises(ConfigError, match="calibration length: got 1; allowed: 2 or more"):
        calibration_ids(path, tokenizer, length=1)
    with pytest.raises(ConfigError, match="name one source or more, each once"):
        calibration_ids([path, path], tokenizer)


@pytest.mark.integration
def test_household_games_of_training_floor_plans() -> None:
    pytest.importorskip("alfworld")
    tokenizer = byte_level()
    found = calibration_ids("planner", tokenizer, count=6, length=200)
    assert len(set(found)) == 6 and found.sources[0].kind == "household games"
    texts = [tokenizer.decode(ids) for ids in found]
    assert byte_level().decode(found[0]).startswith("<|im_start|>system") and "Goal" in "".join(texts)
    assert list(found) == list(calibration_ids("planner", tokenizer, count=6, length=200))
    assert not set(found[1:WINDOWS]) & set(calibration_ids("planner", tokenizer, count=6, length=200, seed=1))
