"""Documents keep their promises: examples run, links lead somewhere, commands exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("[!.]*/README.md")]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    for target in [*re.findall(r"\]\(([^)#]+)[^)]*\)", text), *re.findall(r'<img src="([^"]+)"', text)]:
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for document in DOCUMENTS:
        for named in re.findall(r"(?:^\s*|`)make ([a-z-]+)", document.read_text(), flags=re.MULTILINE):
            assert named in targets, f"{document.name}: make {named}"


def test_every_run_and_suite_is_described() -> None:
    for folder in ("configs", "tasks"):
        text = (ROOT / folder / "README.md").read_text()
        for file in (ROOT / folder).glob("*.yaml"):
            assert f"`{file.stem}`" in text, f"{folder}/README.md does not name {file.stem}"
            assert yaml.safe_load(file.read_text())["name"] == file.stem


def test_every_command_that_the_readme_lists_exists() -> None:
    commands = set(re.findall(r"^erecap ([a-z]+)", README, flags=re.MULTILINE))
    assert commands >= {"compare", "rollout", "report", "models", "doctor"}
    command = [sys.executable, "-m", "erecap.cli.main", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in commands:
        assert re.search(rf"\b{name}\b", done.stdout), f"erecap {name}"


@pytest.mark.integration
def test_the_readme_example_runs(embedded_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = "\n".join(re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
    monkeypatch.setenv("ERECAP_CHECKPOINTS", str(embedded_model_folder.parent))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["answer"].shape[0] == 1  # type: ignore[attr-defined]
    rows = [json.loads(line) for line in (tmp_path / "runs" / "mine" / "replans.jsonl").read_text().splitlines()]
    assert [row["decision"] for row in rows] == ["read", "reused", "reused"]
    assert names["plan"] and len(names["session"].token_ids) > 60  # type: ignore[attr-defined]


def test_the_tables_of_the_readme_are_those_of_the_results() -> None:
    from tools.readme.write import TABLES, filled

    assert filled(README, ROOT / "docs" / "results") == README
    for name in TABLES:
        block = re.search(rf"<!-- results:{name} -->\n(.*?)<!-- /results:{name} -->", README, flags=re.DOTALL)
        assert block is not None and block[1].count("\n|") > 4
