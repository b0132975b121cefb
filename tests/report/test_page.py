"""The page and the table: self-contained, escaped, and valid for runs that hold little."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

import erecap.report
from erecap.report.load import load_run_folder
from erecap.report.page.samples import MAX_CALLS, sample_views, shade_of
from erecap.report.page.summary import summarise
from tests.report.synthetic import (
    MODES,
    episode_row,
    expert_replan,
    make_run,
    replan_row,
    sample,
    write_run,
)

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Checker(HTMLParser):
    """Balanced tags, unique ids, and every address that the page names."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
                self.addresses.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> does not close what is open"


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    return checker


def build(folder: Path) -> str:
    return erecap.report.build(folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("page") / "run", episodes=4, calls=5)


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return build(folder)


def test_loads_nothing_from_anywhere(page: str) -> None:
    checker = check(page)
    assert checker.addresses
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in checker.addresses)
    anchors = {address[1:] for address in checker.addresses if address.startswith("#")}
    assert anchors <= set(checker.ids)
    assert not checker.tags & {"link", "iframe", "object", "embed", "base"}
    assert not re.search(r"@import|url\((?!#)|https?://|fetch\(|XMLHttpRequest", page)


def test_says_what_it_is(page: str) -> None:
    for words in (
        "Smoke test",
        "Some CPU @ 2.0 GHz",
        "smollm2-135m-instruct",
        "torch 2.13.0",
        "erecap compare made-up",
    ):
        assert words in page
    assert "the game engine stopped answering" in page
    assert page.count("<svg") == 5
    assert "beside other episodes" in page


def test_plots_follow_the_colour_scheme(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "var(--c1)" in page and "var(--ink)" in page
    # No stand-in colour may be left over, and no text may be drawn in a fixed black.
    assert not re.search(r"#0101\d\d|#0102\d\d", page)
    for text in re.findall(r"<text [^>]*>", page):
        assert "fill: var(--ink)" in text


def test_first_prompt_is_visible_without_scripts(page: str) -> None:
    samples = page[page.index('id="samples"') : page.index('id="apart"')]
    for article in samples.split("<article")[1:]:
        assert len(re.findall(r'<div class="mode">', article)) == 1
        first = article[article.index('<div class="mode">') : article.index('<div class="mode" hidden>')]
        assert len(re.findall(r'<div class="call">', first)) == 1
        assert "<option selected>" in first
    assert 'class="k1"' in samples and 'class="k5"' in samples
    assert '<img src="data:image/png;base64,' in samples
    assert 'class="failed"' in samples


def test_summary_is_written_beside_the_page(folder: Path, page: str) -> None:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["format"] == 1
    assert list(summary["modes"]) == list(MODES)
    assert sorted(path.name for path in folder.iterdir()) == [
        "episodes.jsonl",
        "replans.jsonl",
        "report.html",
        "run.json",
        "samples",
        "summary.json",
    ]


def test_text_of_a_run_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\"&"
    rows = [
        episode_row(evil, evil, 0, goal=evil),
        episode_row(evil, evil, 1, goal=evil, end="error", error=evil, triggers={evil: 2}),
    ]
    recorded = sample("s", evil, 0) | {"suite": evil, "goal": evil}
    recorded["replans"][0] |= {"plan": [evil], "problem": evil, "trigger": evil}
    recorded["replans"][0]["pieces"][1] = [0, evil, 0.5]
    recorded["replans"][0]["messages"][0] = {"role": evil}
    recorded["steps"][1] |= {"action": evil, "observation": evil, "events": [evil]}
    folder = write_run(tmp_path / "run", rows, [replan_row(evil, evil, 0, n) for n in range(4)], name=evil)
    (folder / "samples").mkdir()
    (folder / "samples" / "0.json").write_text(json.dumps(recorded), encoding="utf-8")
    page = build(folder)
    checker = check(page)
    assert page.count("<script>") == 1  # the page's own
    assert "&lt;script&gt;alert" in page
    assert not [name for name in checker.attributes if name.startswith("on")]


@pytest.mark.parametrize("status", ["running", "interrupted", "finished"])
def test_a_run_without_a_finished_episode(tmp_path: Path, status: str) -> None:
    folder = write_run(tmp_path / "run", [], [replan_row("s", "full", 0, 0)], status=status)
    page = build(folder)
    check(page)
    assert "No episode has finished yet" in page
    assert "No episode has finished yet" in terminal(folder, 80)


def test_row_files_may_not_exist_yet(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [], status="running")
    (folder / "episodes.jsonl").unlink()
    (folder / "replans.jsonl").unlink()
    assert "No episode has finished yet" in build(folder)


@pytest.mark.parametrize("modes", [("full",), ("prune[random]",), ("expert",), ("full", "expert")])
def test_few_modes(tmp_path: Path, modes: Sequence[str]) -> None:
    folder = make_run(tmp_path / "run", episodes=2, calls=3, modes=modes, samples=False)
    page = build(folder)
    check(page)
    assert "No episode of this run was recorded for reading" in page
    assert ("No language model was called" in page) == (modes == ("expert",))
    assert modes[0] in terminal(folder, 80)


def test_a_run_without_a_model(tmp_path: Path) -> None:
    rows = [episode_row("s", "expert", 0, success=True, end="success")]
    folder = write_run(tmp_path / "run", rows, [expert_replan("s", 0, 0)], model=None, config={"modes": ["expert"]})
    page = build(folder)
    check(page)
    assert "no mode of this run calls a language model" in page


def test_calls_without_a_model_shape_have_no_ceiling(tmp_path: Path) -> None:
    rows = [episode_row("s", mode, 0) for mode in ("full", "prune[recency]")]
    replans = [replan_row("s", mode, 0, n) for mode in ("full", "prune[recency]") for n in range(3)]
    folder = write_run(tmp_path / "run", rows, replans, model=None)
    check(build(folder))
    ceiling = json.loads((folder / "summary.json").read_text())["ceiling"]["prune[recency]"]
    assert ceiling["total"] is None and ceiling["prefill_speed_up"] > 1 and not ceiling["fault"]


def test_only_errors(tmp_path: Path) -> None:
    rows = [episode_row("s", "full", n, end="error", error="gone", goal="") for n in range(2)]
    folder = write_run(tmp_path / "run", rows, config={"modes": ["full", "prune[recency]"]})
    page = build(folder)
    check(page)
    assert "2 episodes ended with an error and stand apart" in page


def test_long_samples_are_thinned_and_say_so(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "run", [episode_row("s", "full", 0)], samples=[sample("s", "full", 0, replans=20, frames=True)]
    )
    (view,) = sample_views(load_run_folder(folder))
    calls = view.modes[0].calls
    assert len(calls) == MAX_CALLS
    assert (calls[0].number, calls[-1].number, view.modes[0].all_calls) == (1, 20, 20)
    assert "20 calls, of which 8 are on this page" in build(folder)


def test_steps_stand_under_the_call_that_led_to_them(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [episode_row("s", "full", 0)], samples=[sample("s", "full", 0)])
    (view,) = sample_views(load_run_folder(folder))
    steps = [[step.step for step in call.steps] for call in view.modes[0].calls]
    assert steps == [[0, 1, 2, 3], [4, 5, 6], [7, 8]]  # step 0 is what the agent saw at first


def test_shades() -> None:
    assert [shade_of(share) for share in (0, 0.01, 0.249, 0.25, 0.5, 0.75, 0.99, 1)] == [0, 1, 1, 2, 3, 4, 4, 5]


def test_page_figures_and_table_are_made_of_one_loading(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", episodes=2, calls=3)
    report = erecap.report.Report.of(folder)
    for name in ("run.json", "episodes.jsonl", "replans.jsonl"):
        (folder / name).unlink()
    assert "<html" in report.write().read_text("utf-8")
    assert json.loads((folder / "summary.json").read_text("utf-8")) == json.loads(json.dumps(report.summary))
    assert report.table() is not None


def test_the_command_loads_a_run_once(erecap, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from erecap.report import load

    folder = make_run(tmp_path / "run", episodes=2, calls=3)
    loaded, really = [], load.load_run_folder

    def counted(given: Path) -> load.Run:
        loaded.append(given)
        return really(given)

    monkeypatch.setattr(load, "load_run_folder", counted)
    code, out, err = erecap("report", folder)
    assert code == 0 and "report.html" in out, err
    assert loaded == [folder]


def terminal(folder: Path, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None, legacy_windows=False)
    console.print(erecap.report.Report.of(folder).table())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in text.splitlines())
    return text


@pytest.mark.parametrize("width", [80, 120])
def test_table_keeps_every_row_on_one_line(folder: Path, width: int) -> None:
    text = terminal(folder, width)
    for mode in MODES:
        rows = [line for line in text.splitlines() if line.strip().startswith(mode + " ")]
        assert len(rows) == (1 if mode == "expert" else 2), mode
    assert "…" not in text
    assert "Smoke test" in text and "ceiling" in text


def test_budgets_and_how_often_they_dropped(tmp_path: Path) -> None:
    rows = [episode_row("s", mode, 0) for mode in ("full", "erecap")]
    calls = [replan_row("s", mode, 0, number) for mode in ("full", "erecap") for number in range(4)]
    calls[-1] |= {"evicted_tokens": 70, "dropped_because": "it passed the window"}
    run = {"modes": ["full", "erecap"], "budget": {"kv_tokens": "auto", "kv_ratio": None}}
    folder = tmp_path / "run"
    write_run(folder, rows, calls, [], config=run)
    summary = summarise(load_run_folder(folder))
    assert [summary["modes"][mode]["kv_tokens"] for mode in ("full", "erecap")] == [None, "auto"]
    assert [summary["modes"][mode]["dropping"] for mode in ("full", "erecap")] == [0.0, 0.25]
    shown = [line.split() for line in terminal(folder, 80).splitlines()]
    assert ["erecap", "auto", "100", "%", "25", "%"] in shown
    assert "<td>auto</td>" in build(folder)


def test_importing_the_package_is_light() -> None:
    heavy = ("matplotlib", "jinja2", "pydantic", "rich", "torch")
    code = f"import sys, erecap.report; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


@pytest.mark.parametrize("pruned", [False, True])
def test_parts_about_pruning_are_there_where_something_was_pruned(pruned: bool, tmp_path: Path) -> None:
    # Sessions read what is new, so no two calls of equal length can be compared, and nothing is pruned at prefill.
    calls = [
        replan_row("s", mode, 0, number, prune_ms=3.0 if pruned else 0.0, prompt_tokens=100 + 900 * number)
        for number, mode in enumerate(MODES)
    ]
    run = load_run_folder(write_run(tmp_path / "run", [episode_row("s", mode, 0) for mode in MODES], calls))
    page = erecap.report.build(run.folder).read_text(encoding="utf-8")
    assert (page.count("pruning P50") == 1) == pruned and ("</span> prune</li>" in page) == pruned
    assert "Measured prefill speed-up beside its ceiling" not in page and "</span> prefill</li>" in page
    assert ">smoke test</span>" in page and 'title="Fewer than 100 episodes' in page
    console = Console(file=io.StringIO(), width=80)
    console.print(erecap.report.Report(run, summarise(run)).table())
    assert "Replanning calls\n" in re.sub(r" +\n", "\n", console.file.getvalue())  # type: ignore[attr-defined]
    assert "ceiling" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_early_exits_are_on_the_page_of_a_run_that_used_them(tmp_path: Path) -> None:
    calls = [replan_row("s", "full", 0, 0)]
    for number, layers in enumerate(([20, 24, 24], [24])):
        calls.append(replan_row("s", "early", 0, number, exit_layers=layers, exit_skipped_layers=10, exit_bytes=2048))
    rows = [episode_row("s", mode, 0) for mode in ("full", "early")]
    folder = write_run(tmp_path / "run", rows, calls, config={"modes": ["full", "early"]}, suites={"s": {}})
    report = erecap.report.Report.of(folder)
    assert report.summary["modes"]["full"]["exits"] is None
    assert report.summary["modes"]["early"]["exits"] == {
        "left": 4, "share": 4 / 48, "mean_layer": 23.0, "skipped_layers": 20, "differing": 0, "most_bytes": 2048,
        "layers": {"20": 1, "24": 3},
    }  # fmt: skip
    page = build(folder)
    check(page)
    assert '<section id="exits">' in page and "Layers after which tokens left" in page
    console = Console(file=io.StringIO(), width=100)
    console.print(report.table())
    assert "Early exit; skipped" in console.file.getvalue()  # type: ignore[attr-defined]
    (folder / "replans.jsonl").write_text(json.dumps(calls[0]) + "\n", encoding="utf-8")
    assert "exits" not in check(build(folder)).ids
