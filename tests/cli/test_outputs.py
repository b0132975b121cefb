"""Places for results that cannot be written are refused in one line, before anything is loaded or measured."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = ". is a folder; allowed: a file"
NO_PLACE = "notes.txt/x.json cannot be written: {here}/notes.txt takes no files (Not a directory)"
PROC = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="of Linux")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("scale", "--out", "."), FOLDER),
        (("scale", "--out", "notes.txt/x.json"), NO_PLACE),
        (("scale", "--out", "/dev/null"), "/dev/null is no regular file; allowed: a file"),
        pytest.param(("scale", "--out", "/proc/x"), "/proc/x cannot be written: /proc takes no files", marks=PROC),
        (("bench", "exits", "--out", "."), FOLDER),
        (("bench", "exits", "--results", "."), FOLDER),
        (("bench", "drafts", "--out", "."), FOLDER),
        (("bench", "replan", "--out", "."), FOLDER),
        (("bench", "fleet", "--out", "."), FOLDER),
        (("bench", "decoders", "--out", "."), FOLDER),
        (("bench", "engines", "--out", "."), FOLDER),
        (("bench", "best-engine", "--out", "."), FOLDER),
        (("bench", "llamacpp", "--out", "."), FOLDER),
        (("bench", "vllm", "--out", "."), FOLDER),
        (("bench", "load", "http://127.0.0.1:9/v1", "--out", "."), FOLDER),
        (("bench", "remote", "notes.txt", "--out", "."), FOLDER),
        (("profile", "prefill", "nowhere", "--out", "."), FOLDER),
        (("train", "exit", "notes.txt", "--out", "notes.txt"), "notes.txt is a file; allowed: a folder"),
        (("train", "exit", "notes.txt", "--out", "notes.txt/x"), NO_PLACE.replace("x.json", "x")),
        (("train", "controller", "notes.txt", "--out", "notes.txt"), "notes.txt is a file; allowed: a folder"),
    ],
)
def test_refused_at_the_start(erecap, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "notes.txt").write_text("mine")
    code, out, err = erecap(*arguments)
    assert (code, out) == (2, "") and err.count("\n") == 1, err
    assert err.startswith(f"error: {arguments[-2]}: {said.format(here=tmp_path.resolve())}"), err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_new_place_is_made_at_the_end_and_a_file_replaced(erecap, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for _ in range(2):
        code, out, err = erecap("scale", "--histories", "4000", "--robots", "1", "--out", "new/place/scale.json")
        assert code == 0 and "results: new/place/scale.json" in out, err
        assert [path.name for path in (tmp_path / "new" / "place").iterdir()] == ["scale.json"]
