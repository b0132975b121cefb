"""GGUF files that other people made, found by their path."""

from __future__ import annotations

from pathlib import Path

import pytest

from erecap.errors import ConfigError, ModelError
from erecap.models.gguf_files import locate_gguf


@pytest.mark.parametrize("content", [b"", b"GG", b"<!DOCTYPE html>", b"gguf and more"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"model.gguf: no GGUF file: it does not begin with the letters GGUF"):
        locate_gguf(str(tmp_path / "model.gguf"))


def test_a_path_is_taken_and_a_folder_is_not(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF\3\0\0\0")
    assert locate_gguf(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"
    with pytest.raises(ConfigError, match=r"does not come as a GGUF file; allowed: .*, or a path to a .gguf file"):
        locate_gguf(str(tmp_path))
