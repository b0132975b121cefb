"""Fixtures that make the small text world available to tests and to the worker processes that they start."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module", autouse=True)
def tiny_environment():
    """The environment `tiny` is registered while a module of these tests runs, and for no other test."""
    from tinyworld import ENTRY

    from erecap.envs import ENVIRONMENTS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENTS, "tiny", ENTRY)
        yield


@pytest.fixture
def quiet():
    """A console whose output nobody sees; `quiet.file.getvalue()` tells what it was."""
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def rows_of():
    """Reads the rows of a run folder without what may differ between two plays: timings, and `contended`."""

    def read(folder: Path, *, sort: bool = False) -> tuple[list[dict], list[dict]]:
        result = []
        for name in ("episodes.jsonl", "replans.jsonl"):
            rows = [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
            for row in rows:
                for key in [k for k in row if k.endswith("_ms") or k in ("wall_s", "contended")]:
                    del row[key]
            result.append(sorted(rows, key=json.dumps) if sort else rows)
        return result[0], result[1]

    return read
