"""The examples run, as a person starts them."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.serving.conftest import Server

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.integration


@pytest.fixture
def example(monkeypatch, capsys) -> Iterator[Callable[..., str]]:  # type: ignore[no-untyped-def]
    """Runs an example with arguments; what it printed."""
    pytest.importorskip("alfworld")
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run(name: str, *args: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *args])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return str(capsys.readouterr().out)

    yield run
    sys.modules.pop("home", None)


def test_openai_client(example, serve: Callable[..., Server]) -> None:  # type: ignore[no-untyped-def]
    out = example("openai_client", "--url", serve().url + "/v1", "--calls", "3")
    counts = [(int(tokens), int(cached)) for tokens, cached in re.findall(r"(\d+) tokens, +(\d+) of them", out)]
    assert len(counts) == 3 and counts[0][1] == 0
    # All that was there at a call was read by the end of it.
    assert all(cached >= before for (before, _), (_, cached) in pairwise(counts))
    assert "goal: " in out and "solved after" in out


def test_langchain_agent(example, serve: Callable[..., Server], tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("langchain_openai")
    options = ("--url", serve().url + "/v1", "--model", "tiny", "--calls", "6", "--keep-tokens", "700")
    out = example("langchain_agent", *options, "--log", str(tmp_path))
    counts = [int(count) for count in re.findall(r"(\d+) messages in the state", out)]
    assert counts == [2, 4, 6, 8, 10, 12]  # nothing is lost there
    assert len((tmp_path / "replans.jsonl").read_text().splitlines()) == 6


@pytest.fixture
def checkpoints(embedded_model_folder: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("ERECAP_CHECKPOINTS", str(embedded_model_folder.parent))


@pytest.mark.usefixtures("checkpoints")
def test_react_household(example) -> None:  # type: ignore[no-untyped-def]
    args = ("react_household", "--steps", "5")
    wrapped = [int(n) for n in re.findall(r"(\d+) tokens:", example(*args, "--keep-tokens", "300"))]
    bare = [int(n) for n in re.findall(r"(\d+) tokens:", example(*args, "--bare"))]
    assert len(wrapped) == len(bare) == 5 and bare == sorted(bare) and wrapped[0] == bare[0]
    assert wrapped[-1] < bare[-1]


@pytest.mark.usefixtures("checkpoints")
def test_cooperative_pair(example) -> None:  # type: ignore[no-untyped-def]
    out = example("cooperative_pair", "--calls", "5", "--kv-tokens", "400")
    read = [(int(new), int(stored)) for new, stored in re.findall(r"(\d+) tokens read, +(\d+) stored", out)]
    assert "Red begins" in out and len(read) == 5
    assert read[0][0] > 150 and all(new < 150 and stored <= 400 for new, stored in read[1:])
