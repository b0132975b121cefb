"""The examples run, as a person starts them."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from erecap.config import Suite
from erecap.envs import make_env
from erecap.errors import ConfigError
from erecap.protocols import ExtraInfo, StepInfo
from erecap.registries import ENVIRONMENTS, SCORERS
from tests.serving.conftest import Server

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.integration


@pytest.fixture
def example(monkeypatch, capsys) -> Iterator[Callable[..., str]]:  # type: ignore[no-untyped-def]
    """Runs an example with arguments; what it printed."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run(name: str, *args: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *args])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return str(capsys.readouterr().out)

    yield run
    for name in ("home", "custom_environment"):
        sys.modules.pop(name, None)
    for registry, name in ((ENVIRONMENTS, "lamps"), (SCORERS, "norm")):
        registry.pop(name, None)


@pytest.fixture
def household() -> None:
    pytest.importorskip("alfworld")


@pytest.mark.usefixtures("household")
def test_openai_client(example, serve: Callable[..., Server]) -> None:  # type: ignore[no-untyped-def]
    out = example("openai_client", "--url", serve().url + "/v1", "--calls", "3")
    counts = [(int(tokens), int(cached)) for tokens, cached in re.findall(r"(\d+) tokens, +(\d+) of them", out)]
    assert len(counts) == 3 and counts[0][1] == 0
    # All that was there at a call was read by the end of it.
    assert all(cached >= before for (before, _), (_, cached) in pairwise(counts))
    assert "goal: " in out and "solved after" in out


@pytest.mark.usefixtures("household")
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


@pytest.mark.usefixtures("household")
def test_langgraph_agent(example, serve: Callable[..., Server]) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("langgraph")
    pytest.importorskip("langchain_openai")
    out = example("langgraph_agent", "--url", serve().url + "/v1", "--model", "tiny", "--calls", "4")
    counts = [(int(tokens), int(cached)) for tokens, cached in re.findall(r"(\d+) tokens, +(\d+) of them", out)]
    assert len(counts) == 4 and counts[0][1] == 0
    assert all(cached >= before for (before, _), (_, cached) in pairwise(counts))
    assert "9 messages in the state" in out and "solved after" in out


@pytest.mark.usefixtures("checkpoints", "household")
def test_react_household(example) -> None:  # type: ignore[no-untyped-def]
    args = ("react_household", "--steps", "5")
    wrapped = [int(n) for n in re.findall(r"(\d+) tokens:", example(*args, "--keep-tokens", "300"))]
    bare = [int(n) for n in re.findall(r"(\d+) tokens:", example(*args, "--bare"))]
    assert len(wrapped) == len(bare) == 5 and bare == sorted(bare) and wrapped[0] == bare[0]
    assert wrapped[-1] < bare[-1]


@pytest.mark.usefixtures("checkpoints", "household")
def test_cooperative_pair(example) -> None:  # type: ignore[no-untyped-def]
    out = example("cooperative_pair", "--calls", "5", "--kv-tokens", "400")
    read = [(int(new), int(stored)) for new, stored in re.findall(r"(\d+) tokens read, +(\d+) stored", out)]
    assert "Red begins" in out and len(read) == 5
    assert read[0][0] > 150 and all(new < 150 and stored <= 400 for new, stored in read[1:])


@pytest.mark.usefixtures("checkpoints")
def test_hello_replan(example) -> None:  # type: ignore[no-untyped-def]
    lines = example("hello_replan").splitlines()
    counts = [[int(n) for n in re.findall(r"(\d+) (?:tokens in|of them)", line)] for line in lines]
    (first, read), *later = counts
    assert len(lines) == 3 and first == read > 50
    # A later prompt holds all of the one before, and only what came after its answer is read.
    assert all(new < prompt - before for (before, _), (prompt, new) in pairwise(counts)) and len(later) == 2
    assert all(re.search(r"read now: \S", line) for line in lines)


@pytest.mark.usefixtures("checkpoints", "household")
def test_wrap_transformers(example) -> None:  # type: ignore[no-untyped-def]
    args = ("wrap_transformers", "--suite", "household-chains-unseen", "--calls", "4")
    pattern = r"(\d+) tokens, +(\d+) of them stored, +[\d.]+ s: (.*)"
    wrapped, bare = (re.findall(pattern, example(*args, *more)) for more in ((), ("--bare",)))
    assert len(wrapped) == 4
    assert [(tokens, plan) for tokens, _, plan in wrapped] == [(tokens, plan) for tokens, _, plan in bare]
    assert [int(stored) for _, stored, _ in bare] == [0] * 4 and int(wrapped[0][1]) == 0
    for (before, _, _), (_, stored, _) in pairwise(wrapped):
        assert int(stored) > int(before)


def test_custom_environment_and_read_run(example, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    out = example("custom_environment", "--episodes", "3")
    assert re.search(r"expert +3 +100 %", out)
    told = example("read_run", "runs/lamps")
    rows = [json.loads(line) for line in Path("runs/lamps/replans.jsonl").read_text().splitlines()]
    assert "lamps: finished, on " in told and "expert: 3 episodes, success 100%, SPL 1.00" in told
    table = [[float(n) for n in line.split()] for line in told.splitlines() if re.match(r" +\d+ +\d+ ", line)]
    assert [row[1] for row in table] == [sum(row["replan"] == n for row in rows) for n in range(len(table))]
    assert table[0][1] == 3 and len(rows) == sum(row[1] for row in table)


@pytest.mark.usefixtures("checkpoints")
def test_the_custom_environment_with_a_model(example, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    example("custom_environment", "--episodes", "1", "--modes", "erecap", "--rooms", "2")
    told = example("read_run", "runs/lamps")
    rows = [json.loads(line) for line in Path("runs/lamps/replans.jsonl").read_text().splitlines()]
    assert "erecap: 1 episodes, success " in told and rows[0]["prompt_tokens"] == rows[0]["new_tokens"] > 50
    first = re.search(r"^ +0 +1 +(\d+) +(\d+) +([\d.]+)$", told, flags=re.MULTILINE)
    assert first is not None and int(first[1]) == int(first[2]) == rows[0]["prompt_tokens"]
    assert float(first[3]) == pytest.approx(rows[0]["total_ms"], abs=0.06)


def test_the_custom_environment_keeps_the_contract(example, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    example("custom_environment", "--episodes", "1")
    values = {"name": "lamps", "env": "lamps", "episodes": 2, "seed": 7, "horizon": 20, "options": {"rooms": 6}}
    env = make_env(Suite.model_validate(values), expert=True)
    first, info = env.reset(seed=3, options={"episode": 1})
    assert env.reset(seed=3, options={"episode": 1}) == (first, info)
    assert set(info) == set(StepInfo.__annotations__) - set(ExtraInfo.__annotations__)
    seen, _, over, _, failed = env.step("open the window")
    assert failed["failed"] and seen == f"that is not possible here: {first}" and not over
    done = 0
    while not info["success"]:
        for command in info["expert_actions"]:
            assert command in info["skills"]
            _, _, over, _, info = env.step(command)
            done += 1
    assert over and done <= info["expert_steps"] and info["progress"] == 1.0
    with pytest.raises(ConfigError, match="no episode 2"):
        env.reset(seed=3, options={"episode": 2})


@pytest.mark.usefixtures("checkpoints")
def test_custom_scorer(example) -> None:  # type: ignore[no-untyped-def]
    pattern = r"(norm|recency|random) +(\d+)% +(-?[\d.]+) +(\d+)%"
    whole = re.findall(pattern, example("custom_scorer", "--keep", "1.0", "--prompts", "1"))
    SCORERS.pop("norm")
    half = re.findall(pattern, example("custom_scorer", "--keep", "0.5", "--prompts", "1"))
    assert [row[0] for row in whole] == [row[0] for row in half] == ["norm", "recency", "random"]
    assert all(stored == "100" and abs(float(kl)) < 1e-3 and same == "100" for _, stored, kl, same in whole)
    assert len({stored for _, stored, _, _ in half}) == 1 and int(half[0][1]) < 60
    assert all(float(kl) > 0.001 for _, _, kl, _ in half)


def cells_of(notebook: Path) -> list[str]:
    """The code of a notebook's cells, in order."""
    book = json.loads(notebook.read_text(encoding="utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert book["nbformat"] == 4 and len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)  # kept without results
    return ["".join(cell["source"]) for cell in code]


@pytest.mark.usefixtures("checkpoints")
def test_the_notebook_plots_a_run(example, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    example("custom_environment", "--episodes", "1", "--modes", "expert", "erecap", "--rooms", "2")
    cells = cells_of(EXAMPLES / "plot_run.ipynb")
    assert sum(cell.count('"../runs/demo"') for cell in cells) == 1
    names: dict[str, Any] = {}
    for cell in cells:
        exec(cell.replace('"../runs/demo"', '"runs/lamps"'), names)
    rows = [json.loads(line) for line in Path("runs/lamps/replans.jsonl").read_text().splitlines()]
    called = [row for row in rows if row["mode"] == "erecap"]
    assert names["modes"] == ["erecap"] and len(called) > 1  # the expert calls no model
    (seconds,), (tokens,) = (names[figure].axes[0].lines for figure in ("seconds", "tokens"))
    assert seconds.get_label() == tokens.get_label() == "erecap"
    assert list(seconds.get_xdata()) == [row["prompt_tokens"] for row in called]
    assert list(seconds.get_ydata()) == pytest.approx([row["total_ms"] / 1000 for row in called])
    assert list(tokens.get_ydata()) == [row["new_tokens"] for row in called]
    assert dict(names["success"]["episodes"]) == {"erecap": 1, "expert": 1}
    assert names["success"]["success"]["expert"] == 1.0
