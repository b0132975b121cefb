"""The demo's own configuration, cut short: every way is played, and the terminal ends with what the rows say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erecap.config import load_run, load_suites
from erecap.report.load import load_run_folder
from erecap.report.page.course import RE_READ, courses
from erecap.report.page.course_sentences import course_sentences


def test_its_modes_are_the_ways_that_it_shows() -> None:
    demo = load_run("demo")
    assert [(name, demo.mode(name).own_kv_tokens) for name in demo.modes] == [
        ("reuse", None), ("automatic", "auto"), ("budget-1024", 1024),
    ]  # fmt: skip
    assert demo.reread is not None and demo.reread.mode == "reuse" and demo.reread.every > 1
    suites = load_suites(demo).values()
    assert {suite.env for suite in suites} == {"household", "babyai"} and all(
        len(suite.numbers) == 1 for suite in suites
    )


@pytest.mark.integration
def test_a_short_demo(erecap, embedded_model_folder: Path) -> None:  # type: ignore[no-untyped-def]
    changes = ["horizon=6", "reread.every=2", f"model={embedded_model_folder}"]
    code, out, err = erecap("compare", "demo", *changes)
    assert code == 0, err
    run = load_run_folder(Path("runs/demo"))
    assert {(row.suite, row.mode) for row in run.episodes} == {(s, m) for s in run.suites for m in run.modes}
    assert all(row.error is None for row in run.episodes)
    for call in run.replans:
        assert (call.reread is not None) == (call.mode == "reuse" and call.replan % 2 == 0)
    first = next(call for call in run.replans if call.reread)
    assert first.reread is not None and first.reread.same and first.reread.new_tokens == first.prompt_tokens
    sentences = course_sentences(run)
    assert len(sentences) == 3 and " ".join(out.split()).endswith(" ".join(sentences))
    found = courses(run)
    assert len(found) == 2 and [way.name for way in found[0].ways] == [RE_READ, *run.modes]
    assert f"Seconds a replan, {found[0].suite}: call 1 to" in out
    page = Path("runs/demo/report.html").read_text(encoding="utf-8")
    assert all(sentence in page for sentence in sentences)
    assert json.loads(Path("runs/demo/run.json").read_text())["machine"]["busy_beside"] is not None
    rows = Path("runs/demo/replans.jsonl").read_bytes()
    code, again, err = erecap("compare", "demo", *changes)
    assert code == 0 and "finished already, all 6 episodes are there (--fresh plays anew)" in err
    assert Path("runs/demo/replans.jsonl").read_bytes() == rows and again == out
