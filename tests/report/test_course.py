"""The course of an episode: its sentences, its chart and its figures, from made-up rows."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import erecap.report
from erecap.report import Report
from erecap.report.load import Run, load_run_folder
from erecap.report.page.course import RE_READ, Course, courses, successes
from erecap.report.page.course_chart import COLUMNS, HEIGHTS, WIDTH, course_chart
from erecap.report.page.course_plots import course_looks, seconds_by_call, tokens_by_call
from erecap.report.page.course_sentences import busy_sentence, course_sentences, meanings
from erecap.report.page.headline import headline
from erecap.report.page.summary import summarise
from erecap.report.svg import series_of
from tests.report.synthetic import episode_row, make_head, replan_row, write_run
from tests.report.test_page import check

COMPOSITIONS = {
    "automatic": {"kv": {"evict": None, "stale_first": True, "kv_tokens": "auto"}},
    "small": {"kv": {"evict": None, "stale_first": True, "kv_tokens": 1024}},
}
MODES = ["reuse", *COMPOSITIONS]
CALLS = 9
SECONDS = {"reuse": (0.5, 1.0), "automatic": (0.5, 0.8), "small": (0.5, 0.5)}  # of the first and of the last call


def between(ends: tuple[float, float], number: int, calls: int = CALLS) -> float:
    return ends[0] + (ends[1] - ends[0]) * number / (calls - 1)


def rows(
    suite: str = "chain",
    *,
    again: tuple[float, float] = (1.0, 9.0),
    seconds: dict[str, tuple[float, float]] = SECONDS,
    longest: dict[str, int] | None = None,
    dropping: tuple[str, ...] = ("small",),
    other: tuple[int, ...] = (),
    **changes: Any,
) -> list[dict[str, Any]]:
    """Calls of each mode, every second one of `reuse` re-read; the history grows evenly to 4,500 tokens."""
    found = []
    for mode in MODES:
        for number in range(CALLS):
            tokens = round(between((500, (longest or {}).get(mode, 4500)), number))
            read, ms = 500 if number == 0 else 100, 1000 * between(seconds[mode], number)
            call: dict[str, Any] = {"prompt_tokens": tokens, "new_tokens": read, "total_ms": ms}
            if mode == "reuse" and number % 2 == 0:
                longer = 1000 * between(again, number)
                call["reread"] = {"new_tokens": tokens, "total_ms": longer, "same": number not in other}
            if mode in dropping and number > 3:
                call["dropped_because"] = "it was full"
            found.append(replan_row(suite, mode, 0, number, **call, **changes))
    return found


def episodes(suite: str = "chain", lost: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    return [
        episode_row(suite, mode, 0, success=mode not in lost, end="horizon" if mode in lost else "success")
        for mode in MODES
    ]


def a_run(
    folder: Path, replans: list[dict[str, Any]], played: list[dict[str, Any]] | None = None, **machine: Any
) -> Run:
    config = {"modes": MODES, "compositions": COMPOSITIONS, "budget": {"kv_tokens": 512}}
    head = {"config": config, "machine": make_head()["machine"] | machine}
    return load_run_folder(write_run(folder, episodes() if played is None else played, replans, **head))


def sentences(folder: Path, **changes: Any) -> list[str]:
    return course_sentences(a_run(folder / "run", rows(**changes)))


def test_what_is_drawn(tmp_path: Path) -> None:
    (course,) = courses(a_run(tmp_path / "run", rows()))
    assert (course.suite, course.episode, course.mode, course.calls, course.longest) == ("chain", 0, "reuse", 9, 4500)
    assert [way.name for way in course.ways] == [RE_READ, *MODES]
    again, reuse = course.ways[:2]
    assert [point.call for point in again.points] == [1, 3, 5, 7, 9] and len(reuse.points) == 9
    assert [(point.seconds, point.read) for point in again.points][::4] == [(1.0, 500), (9.0, 4500)]
    assert [point.read for point in reuse.points] == [500, *[100] * 8]


def test_the_three_sentences_are_from_the_rows(tmp_path: Path) -> None:
    # Early: up to 1,500 tokens, calls 1 to 3; late: from 3,000 on, calls 6 to 9, of which 7 and 9 were re-read.
    assert sentences(tmp_path) == [
        "Reading everything again (re-read) took 2.0 s early in chain and 8.0 s late, 4.0 times as long, as the "
        "history grew to 4,500 tokens (early and late: medians of the calls in the first and in the last third of that "
        "length).",
        "Late in the same episode reuse took 0.91 s, automatic 0.74 s and small 0.50 s: 8.8, 11 and 16 times as "
        "fast as re-reading.",
        "Episodes won: reuse 1 of 1 (re-read planned the same in 5 of 5 calls), automatic 1 of 1 and small 1 of 1; "
        "reuse and automatic dropped nothing, small dropped history in 5 of 9 calls.",
    ]


def test_a_way_that_lost_is_told(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", rows(other=(2, 8)), episodes(lost=("small",)))
    assert successes(run) == [("reuse", 1, 1), ("automatic", 1, 1), ("small", 0, 1)]
    assert (
        "reuse 1 of 1 (re-read planned the same in 3 of 5 calls), automatic 1 of 1 and small 0 of 1;"
        in (course_sentences(run)[2])
    )


def test_a_way_that_was_no_faster_is_told(tmp_path: Path) -> None:
    slow = SECONDS | {"small": (0.5, 20.0), "automatic": (9.0, 9.0)}
    text = sentences(tmp_path, seconds=slow)[1]
    assert text.endswith("8.8 times as fast as re-reading; automatic and small were no faster.")
    none = sentences(tmp_path / "none", seconds=dict.fromkeys(MODES, (9.0, 9.0)))[1]
    assert none.endswith("and small 9.0 s; reuse, automatic and small were no faster than that.")


def test_re_reading_that_did_not_grow_is_told(tmp_path: Path) -> None:
    text = sentences(tmp_path, again=(3.0, 1.0))[0]
    assert "took no longer late in chain than early, 1.2 s after 2.8 s, although the history grew to 4,500" in text


def test_a_shorter_history_is_not_compared(tmp_path: Path) -> None:
    text = sentences(tmp_path, longest={"small": 2000})[1]
    assert "8.8 and 11 times as fast" in text and text.endswith("small never had so long a history.")


def test_one_re_read_call_says_what_it_took(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", [row for row in rows() if row["mode"] != "reuse" or row["replan"] == 0])
    first, second, _ = course_sentences(run)
    assert first == "Reading everything again (re-read) took 1.0 s in chain, after a history of 500 tokens."
    assert "times as fast" in second or "was measured" in second


def test_runs_without_re_read_calls_have_none_of_it(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", [row | {"reread": None} for row in rows()])
    assert courses(run) == [] and course_sentences(run) == [] and Report(run, summarise(run)).ending() is None
    page = erecap.report.build(run.folder).read_text(encoding="utf-8")
    assert "<b>re-read" not in page and "Seconds a replan" not in page


def test_contended_calls_are_not_drawn(tmp_path: Path) -> None:
    assert courses(a_run(tmp_path / "run", rows(contended=True))) == []


def test_the_longest_history_comes_first(tmp_path: Path) -> None:
    replans = [*rows("short", longest=dict.fromkeys(MODES, 900)), *rows("chain")]
    run = a_run(tmp_path / "run", replans, [*episodes("short"), *episodes("chain")])
    assert [course.suite for course in courses(run)] == ["chain", "short"]
    assert "reuse 2 of 2" in course_sentences(run)[2] and "in 10 of 10 calls" in course_sentences(run)[2]


def bars(course: Course) -> dict[str, str]:
    lines = course_chart(course)[1:]
    room = max(len(way.name) for way in course.ways) + 2
    return {line.split()[0]: line[room : room + WIDTH * min(COLUMNS, 5)] for line in lines}


def test_the_chart_has_one_scale_and_leaves_gaps(tmp_path: Path) -> None:
    (course,) = courses(a_run(tmp_path / "run", rows()))
    lines = course_chart(course)
    assert lines[0] == "Seconds a replan, chain: call 1 to 9, up to 4,500 tokens"
    assert lines[1].startswith("re-read    ") and lines[1].endswith("early 2.0 s, late 8.0 s")
    told = course_sentences(a_run(tmp_path / "again", rows()))[0]
    assert "took 2.0 s early in chain and 8.0 s late, 4.0 times" in told  # the same figures
    assert max(len(line) for line in lines) < 80
    drawn = bars(course)
    heights = [HEIGHTS.index(bar) for bar in drawn[RE_READ][::WIDTH]]
    assert heights == sorted(heights) and heights[0] == 0 and heights[-1] == len(HEIGHTS) - 1
    assert set(drawn["small"]) == {HEIGHTS[0]}
    # A way that ends early leaves its last stretches empty.
    few = [row for row in rows() if row["mode"] != "small" or row["replan"] < 4]
    drawn = bars(courses(a_run(tmp_path / "few", few))[0])
    assert drawn["small"].rstrip() != "" and drawn["small"].endswith(" " * WIDTH)


def test_the_figures_name_each_line_at_its_end(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", rows())
    (course,) = courses(run)
    looks = course_looks(course, series_of(run.modes))
    assert len({look.index for look in looks.values()}) == len({look.marker for look in looks.values()}) == 4
    for draw, word in ((seconds_by_call, "seconds a replan"), (tokens_by_call, "tokens read")):
        svg = draw(course, series_of(run.modes), "x")
        texts = re.findall(r">([^<>]+)</text>", svg)
        assert all(any(name in text for text in texts) for name in looks) and word in texts
        heights = [float(height) for height in re.findall(r' y="([\d.]+)" [^>]*>[●■▲◆] ', svg)]
        assert len(heights) == len(looks)
        gaps = [abs(a - b) for i, a in enumerate(heights) for b in heights[:i]]
        assert min(gaps) > 8, "names of lines lie on each other"


def test_the_page_begins_with_them(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", rows(), busy_beside=0.93)
    page = erecap.report.build(run.folder).read_text(encoding="utf-8")
    check(page)
    places = [
        page.index(text) for text in (*course_sentences(run), "Seconds a replan", "<b>re-read</b> reads", "Smoke test")
    ]
    assert places == sorted(places)
    busy = busy_sentence(run)
    assert busy is not None and page.count(busy) == 1 and f'<p class="note">{busy}</p>' in page


def test_the_terminal_ends_with_them(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", rows(), busy_beside=0.93)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    ending = Report(run, summarise(run)).ending()
    assert ending is not None
    console.print(ending)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    words = " ".join(re.sub(r"\x1b\[[\d;]*m", "", text).split())
    assert words.endswith(" ".join(course_sentences(run)))
    assert words.index(busy_sentence(run) or "?") < words.index(course_sentences(run)[0])
    assert "\x1b[2mThis machine was busy" in text and "\x1b[31m" not in text  # grey, and nothing is red


@pytest.mark.parametrize(
    ("machine", "told"),
    [
        ({"busy_beside": None}, False), ({"busy_beside": 0.1}, False), ({"busy_beside": "much"}, False),
        ({"busy_beside": 0.3}, True), ({"busy_beside": 0.3, "threads": None}, False),
        ({"busy_beside": 9.0, "cores": 16, "threads": 4}, False),
        ({"busy_beside": 13.0, "cores": 16, "threads": 4}, True),
    ],
)  # fmt: skip
def test_a_machine_is_busy_where_others_take_more_than_was_left(
    tmp_path: Path, machine: dict[str, Any], told: bool
) -> None:
    busy = busy_sentence(a_run(tmp_path / "run", rows(), **machine))
    assert (busy is not None) == told
    assert busy is None or f"took {machine['busy_beside']:.1f} of its {machine.get('cores', 2)} cores" in busy


def test_a_busy_machine_is_told_for_other_runs_too(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", [row | {"reread": None} for row in rows()], busy_beside=1.26)
    told = [sentence for sentence in headline(run, summarise(run)) if "busy" in sentence.text]
    assert [(sentence.kind, sentence.text) for sentence in told] == [
        ("note", "This machine was busy, times are rough: other programs took 1.3 of its 2 cores meanwhile.")
    ]


def test_what_the_lines_mean(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", rows())
    words = dict(meanings(run, courses(run)[0]))
    assert words["re-read"].startswith("reads everything again; measured on some calls of reuse")
    assert words["reuse"] == "reads each token once and drops nothing"
    assert words["automatic"] == (
        "reads each token once and drops nothing while the history fits the window; "
        "as long as it fits, the same as reuse"
    )
    assert words["small"] == "reads each token once, within a budget of 1,024 tokens"


def test_each_mode_is_shown_with_the_budget_that_counts(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", rows())
    assert [run.kv_tokens(mode) for mode in (*MODES, "erecap")] == [None, "auto", 1024, 512]
    assert summarise(run)["modes"]["small"]["kv_tokens"] == 1024
