"""The documents keep their word: examples run, links and anchors lead somewhere, commands and messages exist."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import erecap

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("[!.]*/README.md")]
README = (ROOT / "README.md").read_text()
CODE = re.compile(r"^```.*?^```", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#]*)(#[^)]*)?\)")


@cache
def anchors(document: Path) -> set[str]:
    """Names of the headings of a page, as GitHub and mkdocs make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", CODE.sub("", document.read_text()), flags=re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.add(re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", text.lower()).strip()))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = CODE.sub("", document.read_text())
    for target in re.findall(r'<img src="([^"]+)"', text):
        assert "://" in target or (document.parent / target).exists(), f"{document.name}: {target}"
    for target, anchor in LINK.findall(text):
        if "://" in target:
            continue
        found = document.parent / target if target else document
        assert found.exists(), f"{document.name}: {target}"
        if anchor and found.suffix == ".md":
            assert anchor[1:] in anchors(found), f"{document.name}: {target}{anchor}"


def test_anchors_are_those_of_the_headings() -> None:
    assert {"modes", "which-mode-do-i-want", "engine"} <= anchors(DOCS / "concepts.md")
    assert "faster-decoding-on-a-cpu" in anchors(DOCS / "sessions.md")


def test_every_page_is_in_the_navigation_and_the_index_leads_to_it() -> None:
    class Loader(yaml.SafeLoader):
        """The plain part of mkdocs.yml is all that is asked for."""

    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        inner = entry.values() if isinstance(entry, dict) else entry
        return [page for part in inner for page in pages(part)]  # type: ignore[attr-defined]

    named = pages(yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"])
    assert sorted(named) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in reached or page.suffix != ".md" or not page.is_relative_to(DOCS):
            continue
        reached.add(page)
        waiting += [page.parent / target for target, _ in LINK.findall(page.read_text()) if "://" not in target]
    assert {page.resolve() for page in DOCS.rglob("*.md")} == reached


def test_the_log_is_newest_first() -> None:
    topics = [page for page in (DOCS / "dev" / "log").glob("*.md") if page.name != "index.md"]
    assert len(topics) > 3
    for page in topics:
        dates = re.findall(r"^## (\d{4}-\d\d-\d\d)\b", page.read_text(), flags=re.MULTILINE)
        assert dates and dates == sorted(dates, reverse=True), page.name
        assert len(dates) == len(re.findall(r"^## ", page.read_text(), flags=re.MULTILINE)), page.name


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


def test_every_command_that_the_documents_list_exists() -> None:
    commands = {
        name for page in DOCUMENTS for name in re.findall(r"^erecap ([a-z]+)", page.read_text(), flags=re.MULTILINE)
    }
    assert commands >= {"compare", "rollout", "report", "models", "doctor"}
    command = [sys.executable, "-m", "erecap.cli.main", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in commands:
        assert re.search(rf"\b{name}\b", done.stdout), f"erecap {name}"


def test_every_command_has_its_help_on_the_reference_page() -> None:
    from tools.readme.cli_reference import PAGE, cli_reference

    page = (DOCS / PAGE).read_text()
    assert page == cli_reference(), "`make readme` writes it anew"
    shown = subprocess.run(
        [sys.executable, "-m", "erecap.cli.main", "--help"], capture_output=True, text=True, check=True
    ).stdout
    listed = re.findall(r"^[│|] ([a-z]+) ", shown, flags=re.MULTILINE)
    assert len(listed) > 10
    for command in listed:
        assert re.search(rf"^## erecap {command}\b", page, flags=re.MULTILINE), command
    assert "| `--kv-tokens`" in page and "| `CONFIG` | needed |" in page


@pytest.mark.parametrize("name", erecap.__all__)
def test_every_public_name_is_on_the_reference_page(name: str) -> None:
    page = (DOCS / "reference" / "python.md").read_text()
    if name == "__version__":
        assert "::: erecap.__version__\n" in page
        return
    home = re.search(rf"^::: (\S+)\n    options:\n      heading: erecap\.{name}\n", page, flags=re.MULTILINE)
    assert home is not None
    module, _, attribute = home[1].rpartition(".")
    assert getattr(__import__(module, fromlist=[attribute]), attribute) is getattr(erecap, name)


def test_the_messages_of_the_troubleshooting_page_are_in_the_code() -> None:
    constants = [
        node.value
        for room in ("erecap", "envs", "planners")
        for file in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    said = "\n".join(constants)
    page = (DOCS / "troubleshooting.md").read_text()
    messages = [row for row in re.findall(r"^\| `(.+?)` \|", page, flags=re.MULTILINE) if not row.isdigit()]
    assert len(messages) > 60
    for message in messages:
        parts = [part.strip(" '") for part in message.split("…")]
        assert any(len(part) > 8 for part in parts), message
        for part in parts:
            assert part in said, f"{message}: no message of the code says {part!r}"
    for error in ("ModelError", "BudgetError", "ConfigError", "RunError", "EnvironmentUnavailable", "GameError"):
        assert error in page


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_row_stands_outside_a_table(document: Path) -> None:
    lines = CODE.sub("", document.read_text()).splitlines()
    assert rows_outside_tables(lines) == []


def rows_outside_tables(lines: list[str]) -> list[str]:
    """Lines that look like rows of a table, and have no line of dashes above them in their block."""
    outside, block = [], []  # type: ignore[var-annotated]
    for line in [*lines, ""]:
        if line.startswith("|"):
            block.append(line)
        elif block:
            if len(block) < 2 or not re.fullmatch(r"\|( *:?-+:? *\|)+", block[1]):
                outside += block
            block = []
    return outside


def test_a_blank_line_within_a_table_is_found() -> None:
    table = ["| a | b |", "|---|:-:|", "| 1 | 2 |"]
    assert rows_outside_tables(table) == rows_outside_tables(["x", *table, "", *table]) == []
    assert rows_outside_tables([*table, "", "| 3 | 4 |", "| 5 | 6 |", "end"]) == ["| 3 | 4 |", "| 5 | 6 |"]


def test_the_readme_is_short_and_cites_the_five_systems() -> None:
    assert len(README.splitlines()) <= 150
    for system in ("SDTP", "E-RECAP", "CASRAP", "SPRINT", "SpecEE"):
        assert re.search(rf"^\| {system} \| .*\]\(https://", README, flags=re.MULTILINE), system
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    links = set(re.findall(r"\((https://(?:arxiv|github)[^)]+)\)", README))
    assert {reference["url"] for reference in cited["references"]} == links and cited["license"] == "MIT"


def test_the_changelog_has_the_version_on_top() -> None:
    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    found = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+) \((unreleased|\d{4}-\d\d-\d\d)\)", head) for head in heads]
    releases = [match.groups() for match in found if match is not None]
    assert heads and len(releases) == len(heads), heads
    numbers = [tuple(map(int, release[:3])) for release in releases]
    assert numbers == sorted(set(numbers), reverse=True)  # newest first, each once
    number, _, development = erecap.__version__.partition(".dev")
    assert ".".join(releases[0][:3]) == number and (not development or releases[0][3] == "unreleased")
    assert all(release[3] != "unreleased" for release in releases[1:])


def test_the_parts_of_the_changelog_are_those_of_keep_a_changelog() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    parts = [line.removeprefix("### ") for line in lines if line.startswith("### ")]
    assert parts and set(parts) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    first = next(place for place, line in enumerate(lines) if line.startswith("## "))
    for line, following in pairwise(line for line in lines[first:] if line):
        assert line.startswith(("## ", "### ", "- ", "  ")), line
        assert not line.startswith("## ") or following.startswith("### "), line
        assert not line.startswith("### ") or following.startswith("- "), line


def test_the_citation_and_the_wheel_to_install_have_the_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+) \((.*)\)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest is not None
    assert (cited["version"], str(cited["date-released"])) == newest.groups()
    assert cited["version"] == erecap.__version__
    wheels = [name for page in DOCUMENTS for name in re.findall(r"erecap-[\w.]+-py3-none-any\.whl", page.read_text())]
    assert wheels and set(wheels) == {f"erecap-{erecap.__version__}-py3-none-any.whl"}


def test_forms_of_issues_ask_for_what_is_there() -> None:
    forms = ROOT / ".github" / "ISSUE_TEMPLATE"
    assert yaml.safe_load((forms / "config.yml").read_text())["blank_issues_enabled"] is True
    names = {"bug", "wrong-answer-or-slow", "host-or-model"}
    assert {path.stem for path in forms.glob("*.yml")} == names | {"config"}
    for name in names:
        form = yaml.safe_load((forms / f"{name}.yml").read_text())
        assert form["name"] and form["description"] and form["labels"]
        asked = [part for part in form["body"] if part["type"] != "markdown"]
        assert len({part["id"] for part in asked}) == len(asked)
        assert all(part["type"] in ("input", "textarea", "dropdown", "checkboxes") for part in asked)
        assert all(part["attributes"]["label"] for part in asked)
        for target in re.findall(r"blob/main/([^)]+)\)", (forms / f"{name}.yml").read_text()):
            assert (ROOT / target).exists(), target
    request = (ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", request)) == {"test", "lint"} <= targets


def test_every_example_is_listed() -> None:
    listed = re.findall(r"^\| `(\S+)` \|", (ROOT / "examples" / "README.md").read_text(), flags=re.MULTILINE)
    there = {path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".ipynb")}
    assert sorted(listed) == sorted(there - {"home.py"}) and listed[0] == "hello_replan.py"


def python_blocks(document: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", document.read_text(), flags=re.DOTALL)


@pytest.mark.integration
def test_the_readme_examples_run(embedded_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    five_lines, gpu = python_blocks(ROOT / "README.md")
    monkeypatch.setenv("ERECAP_CHECKPOINTS", str(embedded_model_folder.parent))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(five_lines, names)
    assert names["answer"].shape[0] == 1  # type: ignore[attr-defined]
    assert len([line for line in five_lines.splitlines() if line and "import" not in line]) == 5
    # The quickstart for a GPU, with another model folder, on the device and in the number format at hand.
    folder = str(embedded_model_folder)
    for theirs, ours in [("Qwen/Qwen2.5-7B-Instruct", folder), ("cuda", "cpu"), ("bfloat16", "float32")]:
        assert gpu.count(f'"{theirs}"') == 1
        gpu = gpu.replace(f'"{theirs}"', f'"{ours}"')
    exec(gpu, names)
    rows = [json.loads(line) for line in (tmp_path / "runs" / "mine" / "replans.jsonl").read_text().splitlines()]
    assert [row["decision"] for row in rows] == ["read", "reused", "reused"]


@pytest.mark.integration
def test_the_bytes_of_a_session_are_as_the_readme_counts_them(embedded_model_folder: Path) -> None:
    from erecap.engines.token_bytes import bytes_per_token
    from erecap.models import load

    formula = re.search(r"^    bytes = tokens \* (.*) \* bytes of the dtype$", README, flags=re.MULTILINE)
    assert formula is not None
    model, _ = load(str(embedded_model_folder), dtype="float32", device="cpu")
    config = model.config
    sizes = {name: getattr(config, name) for name in ("num_hidden_layers", "num_key_value_heads")}
    sizes["head_dim"] = config.hidden_size // config.num_attention_heads
    assert eval(formula[1], sizes) * 4 == bytes_per_token(model)
    # The worked example.
    ours = re.search(r"has (\d+) layers, (\d+) key-value heads and a head dimension of (\d+)", README)
    assert ours is not None
    layers, heads, width = map(int, ours.groups())
    a_token = eval(formula[1], {"num_hidden_layers": layers, "num_key_value_heads": heads, "head_dim": width}) * 2
    assert f"{a_token:,} bytes a token: {a_token * 1024 / 2**20:.0f} MiB" in README
    assert f"{a_token * 32768 / 2**30:.2f} GiB at its full window of 32,768" in README


@pytest.mark.integration
def test_the_examples_of_the_session_page_run(
    embedded_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERECAP_CHECKPOINTS", str(embedded_model_folder.parent))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec("\n".join(python_blocks(DOCS / "sessions.md")), names)
    assert names["plan"] and len(names["session"].token_ids) > 60  # type: ignore[attr-defined]
    assert len(names["plans"]) == 2  # type: ignore[arg-type]


def test_the_example_of_the_remote_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec("\n".join(python_blocks(DOCS / "remote-planners.md")), names)
    assert names["plan"] == "go to shelf 2"
    assert len((tmp_path / "runs" / "remote" / "replans.jsonl").read_text().splitlines()) == 1


def test_the_run_of_the_comparison_page_is_one(tmp_path: Path) -> None:
    from erecap.config import load_run

    whole, reread = re.findall(r"```yaml\n(.*?)```", (DOCS / "compare.md").read_text(), flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(whole)
    config = load_run(str(tmp_path / "mine.yaml"))
    assert list(map(str, config.modes)) == ["reuse", "erecap", "recency", "random"]
    (tmp_path / "reread.yaml").write_text(whole + reread)
    assert load_run(str(tmp_path / "reread.yaml")).reread.every == 6  # type: ignore[union-attr]


def test_what_is_generated_is_up_to_date() -> None:
    from tools.readme.time_figure import FIGURE, time_figure
    from tools.readme.write import LINES, SCALE, TABLES, filled

    results = DOCS / "results"
    for document, blocks, least in (
        (ROOT / "README.md", LINES, 0),
        (DOCS / "results.md", TABLES, 4),
        (DOCS / "scale.md", SCALE, 4),
    ):
        text = document.read_text()
        assert filled(text, results) == text
        for name, (files, _) in blocks.items():
            block = re.search(rf"<!-- results:{name} -->\n(.*?)<!-- /results:{name} -->", text, flags=re.DOTALL)
            assert block is not None and block[1].strip()
            if all((results / file).exists() for file in files):
                assert block[1].count("\n|") >= least + bool(least)
            else:
                assert "ot measured" in block[1]
    assert (results / FIGURE).read_text() == time_figure(json.loads((results / "replan.json").read_text()))


def test_links_out_of_the_site_become_text() -> None:
    from tools.site.hooks import inside

    text = "[a](../erecap/x.py) [b](quality.md#rows) ![c](../a.svg) [d](https://e.org/f) [g](#h) [i](../../README.md)"
    assert inside(text, "serving.md").startswith("a (`erecap/x.py`) [b](quality.md#rows) ![c](../a.svg) [d](https://")
    assert inside("[i](../../README.md) [j](../cost.md)", "dev/a.md") == "i (`README.md`) [j](../cost.md)"


@pytest.mark.integration
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install 'erecap[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "reference" / "python.html").read_text()
    for name in erecap.__all__:
        assert f"erecap.{name}" in reference
    assert (tmp_path / "reference" / "cli.html").read_text().count("<h2") > 20
    pages = " ".join(page.read_text() for page in tmp_path.rglob("*.html"))
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//', pages)  # nothing is fetched
