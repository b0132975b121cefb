"""Shared fixtures of all tests. Set before torch or transformers are imported anywhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# No test asks a model hub for anything, and none opens a window.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: more threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

from erecap.errors import ModelError
from erecap.models.folders import candidates

# A busy machine is no fault of an example.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

EMBEDDED = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def embedded_model_folder() -> Path:
    """Folder of the embedded model; integration tests fail, not skip, where it is missing."""
    for folder in candidates(EMBEDDED):
        if folder.is_dir():
            return folder
    raise ModelError(f"integration tests need the embedded model: run `erecap models pull {EMBEDDED}`")


@pytest.fixture(scope="session")
def embedded_model(embedded_model_folder: Path) -> tuple[Any, Any]:
    """The embedded model and its tokenizer in float32 on the CPU, loaded once: leave it as you found it."""
    from erecap.models import load

    return load(str(embedded_model_folder), dtype="float32", device="cpu")


@pytest.fixture
def erecap(monkeypatch, capsys, tmp_path):
    """Calls the command in an empty folder; returns exit code, stdout, stderr."""
    from erecap.cli import main as command_line

    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["erecap", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            command_line.main()
        out, err = capsys.readouterr()
        return left.value.code or 0, out, err

    return call
