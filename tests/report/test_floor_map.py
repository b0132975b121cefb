"""The map of a recorded episode: what is drawn, where, and that it stays small and escaped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from erecap.errors import RunError
from erecap.report.load import load_run_folder
from erecap.report.page.floor_map import MOST_POINTS, SCALE, draw_scene, draw_ways, frame_of, trails_of
from erecap.report.page.samples import sample_views
from erecap.report.rows import SampleMap, SampleStep
from tests.report.synthetic import episode_row, sample, scene, with_way, write_run
from tests.report.test_page import build, check

MODES = ("full", "expert")


def run_with_maps(folder: Path, **changes: object) -> Path:
    rows = [episode_row("s", mode, 0) for mode in MODES]
    return write_run(folder, rows, samples=[with_way(sample("s", mode, 0)) | changes for mode in MODES])


def test_scene_stands_once_and_every_call_refers_to_it(tmp_path: Path) -> None:
    page = build(run_with_maps(tmp_path / "run"))
    checker = check(page)
    assert page.count("<symbol ") == 1 and "scene0" in checker.ids
    assert page.count('href="#scene0"') == 3 * len(MODES)
    for words in ("kitchen", "<title>red chair</title>", "<title>blue cup</title>", "fill:#c63a34"):
        assert words in page


def test_the_way_grows_call_by_call(tmp_path: Path) -> None:
    (view,) = sample_views(load_run_folder(run_with_maps(tmp_path / "run")))
    ways = [str(call.way) for call in view.modes[0].calls]
    assert ['class="way old"' in way for way in ways] == [False, True, True]
    ends = [re.search(r"translate\((\S+) (\S+)\)", way) for way in ways]
    # Steps 3, 6 and 8 end the calls; half a metre a step, from half a metre on, in a frame with 0.35 m around.
    assert [float(end[1]) for end in ends if end] == [pytest.approx(SCALE * (0.85 + 0.5 * step)) for step in (3, 6, 8)]
    assert all("rotate(0)" in way for way in ways)


def test_an_episode_without_a_map_has_none(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [episode_row("s", "full", 0)], samples=[sample("s", "full", 0)])
    assert "<symbol" not in build(folder) and "<svg class=" not in build(folder)


def test_frame_holds_scene_and_ways() -> None:
    step = SampleStep(step=0, trail={"agent": [(9.0, -1.0)]})
    frame = frame_of(SampleMap.model_validate(scene()), [step])
    assert frame is not None
    assert (frame.left, frame.top) == pytest.approx((-0.35, -1.35))
    assert (frame.wide, frame.high) == pytest.approx((9.7, 5.7))
    assert frame_of(SampleMap(), []) is None


def test_free_floor_is_drawn_where_no_rooms_are_known() -> None:
    plan = SampleMap(floor=[(0, 0, 2, 1), (2, 0, 3, 3)])
    frame = frame_of(plan, [])
    assert frame is not None and str(draw_scene(plan, frame, "a")).count("<rect") == 2


def test_each_robot_has_a_colour_and_a_name() -> None:
    plan = SampleMap.model_validate(scene())
    before, now = {"robot 1": [(1.0, 1.0), (2.0, 1.0)]}, {"robot 2": [(1.0, 3.0)]}
    frame = frame_of(plan, [])
    assert frame is not None
    drawn = str(draw_ways(frame, "a", before, now, "both"))
    assert re.findall(r"--way:var\(--c\d\)", drawn) == ["--way:var(--c1)", "--way:var(--c2)"]
    assert re.findall(r"<title>(robot \d)</title>", drawn) == ["robot 1", "robot 2"]
    assert drawn.count('class="end"') == drawn.count('class="start"') == 2
    assert re.findall(r"var\(--c(\d)\)\"></span> (robot \d)</li>", drawn) == [("1", "robot 1"), ("2", "robot 2")]
    assert "<ul" not in str(draw_ways(frame, "a", before, {}, "one"))


def test_long_ways_are_thinned_and_keep_their_end() -> None:
    passed = [(0.01 * number, 0.0) for number in range(20 * MOST_POINTS)]
    steps = [SampleStep(step=0, trail={"agent": passed})]
    frame = frame_of(SampleMap(), steps)
    assert frame is not None
    drawn = str(draw_ways(frame, "a", {}, trails_of(steps), "long"))
    points = re.search(r'points="([^"]+)"', drawn)
    assert points is not None and len(points[1].split()) <= MOST_POINTS + 1
    assert points[1].split()[-1] == frame.at(passed[-1])


def test_names_of_a_scene_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\"&"
    named = scene()
    named["rooms"][0]["name"] = named["furniture"][0]["name"] = named["things"][0]["name"] = evil
    folder = write_run(
        tmp_path / "run",
        [episode_row("s", "full", 0)],
        samples=[with_way(sample("s", "full", 0), [evil]) | {"map": named}],
    )
    page = build(folder)
    check(page)
    assert page.count("<script>") == 1


@pytest.mark.parametrize("colour", ["red;background:url(x)", "RED", "#12", 'a"b'])
def test_colours_are_words_or_numbers(colour: str, tmp_path: Path) -> None:
    damaged = scene()
    damaged["furniture"][0]["colour"] = colour
    folder = run_with_maps(tmp_path / "run", map=damaged)
    with pytest.raises(RunError, match=r"map\.furniture\.0\.colour"):
        load_run_folder(folder)


def test_frames_that_were_left_out_are_told(tmp_path: Path) -> None:
    assert "7 pictures left out" in build(run_with_maps(tmp_path / "run", frames_left_out=7))
