"""Saving a session where no file can be: one line, and nothing is replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from erecap.errors import RunError
from erecap.files import write_atomic
from erecap.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start


@pytest.mark.parametrize("name", [".", "x" * 300, "a\0b", "pipe", "file/below"])
def test_a_target_that_is_no_file(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("kept")
    session = ReplanSession(model(), byte_level())
    session.read(start())
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RunError, match="cannot be saved") as caught:
        session.save(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "pipe").is_fifo()
    session.save(tmp_path / "whole")
    assert (tmp_path / "whole").is_file()


def test_devices_are_not_replaced() -> None:
    with pytest.raises(OSError, match="not a regular file"):
        write_atomic(Path("/dev/null"), "text")
    assert Path("/dev/null").is_char_device()
