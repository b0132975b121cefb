"""The hosts page keeps its word: its tests exist, its versions are theirs, and the README is its short form."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "hosts.md").read_text()
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
ROWS = [
    [cell.strip() for cell in line.strip("| \n").split(" | ")] for line in PAGE.splitlines() if line.startswith("| ")
]
HOSTS = [row for row in ROWS if len(row) == 5 and row[0] != "host"]
PACKAGES = {
    "openai, `chat.completions`": "openai",
    "openai, `responses`": "openai",
    "openai, Azure": "openai",
    "LangChain": "langchain",
    "LangGraph": "langgraph",
    "DSPy": "dspy",
    "smolagents": "smolagents",
    "Pydantic AI": "pydantic-ai-slim",
    "openai-agents": "openai-agents",
    "LiteLLM": "litellm",
    "transformers pipeline": "transformers",
}


def test_every_host_has_a_row() -> None:
    assert len(HOSTS) == 14
    assert {row[0].split(" (")[0] for row in HOSTS} == set(PACKAGES) | {"anthropic", "LlamaIndex", "AutoGen"}


@pytest.mark.parametrize("row", HOSTS, ids=lambda row: row[0])
def test_a_row_names_its_test_and_the_version_that_it_ran_with(row: list[str]) -> None:
    host, versions, how, _, tests = row
    for test in re.findall(r"`(tests/[^`]+)`", tests):
        assert (ROOT / test).is_file(), test
    assert "erecap.wrap(" in how or "the same client" in how or "the chat model" in how
    if "by hand" not in tests:
        assert PINS[PACKAGES[host]] in versions.split(", "), f"{host}: the tests run with {PINS[PACKAGES[host]]}"


def test_planners_of_embodied_agents_are_played() -> None:
    played = (ROOT / "tests" / "wrapping" / "hosts" / "test_interfaces.py").read_text()
    for row in ROWS:
        if len(row) == 4 and row[0] not in ("planner",) and "---" not in row[0]:
            assert re.search(rf"def test_{row[0].lower().replace('-', '_')}", played), row[0]


def test_the_readme_is_the_short_form_of_the_page() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme[readme.index("## You have X, use Y") : readme.index("## On a GPU")]
    for name in (*(row[0].split(",")[0].split(" (")[0] for row in HOSTS), "PARTNR", "BALROG", "LLM-Planner", "ReAct"):
        assert name.split(" ")[0].lower() in table.lower(), name
    assert len(readme.splitlines()) <= 150
