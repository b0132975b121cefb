"""Recorded episodes: small frames, few of them, and the map with the way."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tinyworld import TinyEnv, TinyOptions

from erecap.errors import GameError
from erecap.report.rows import Sample
from erecap.rollout.jobs import Job
from erecap.rollout.observed import Observed
from erecap.rollout.run_folder import samples
from erecap.rollout.run_folder.frames import PNG_BYTES, SIDE, image_uri
from erecap.rollout.run_folder.samples import SampleRecorder

JOB = Job("tiny", "full", 0, 5, sample=True)
MAP = {
    "rooms": [{"name": "kitchen", "outline": [(0, 0), (4, 0), (4, 3), (0, 3)]}],
    "furniture": [{"name": "red chair", "outline": [(0, 0), (1, 0), (1, 1)], "colour": "#c63a34"}],
}


def opened(uri: str) -> tuple[str, Image.Image]:
    kind, data = uri.removeprefix("data:image/").split(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(data)))


def tiny() -> TinyEnv:
    env = TinyEnv(TinyOptions(), seed=1, episodes=1, render_mode="rgb_array")
    env.reset(seed=1, options={"episode": 0})
    return env


def seen(env: TinyEnv, **info: Any) -> Observed:
    return Observed.read("You see.", {**env.info_now(""), **info})


def test_drawings_are_png_and_photographs_jpeg() -> None:
    drawing = np.zeros((64, 64, 3), np.uint8)
    drawing[10:20, 10:30] = (200, 30, 30)
    kind, image = opened(image_uri(drawing))
    assert kind == "png" and np.array_equal(np.asarray(image), drawing)
    photograph = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    kind, image = opened(uri := image_uri(photograph))
    assert kind == "jpeg" and image.size == (320, 240)
    assert len(uri) < photograph.size / 2 and PNG_BYTES < photograph.size


def test_large_frames_are_scaled_down() -> None:
    _, image = opened(image_uri(np.zeros((1200, 1600, 3), np.uint8)))
    assert image.size == (SIDE, SIDE * 3 // 4)


@pytest.mark.parametrize(("limit", "value"), [("MOST_FRAMES", 2), ("MOST_FRAME_BYTES", 150)])
def test_frames_are_few_and_small(limit: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, limit, value)
    env = tiny()
    recorder = SampleRecorder(JOB, env)
    for step in range(5):
        recorder.observed(step, None, seen(env))
    sample = Sample.model_validate(recorder.finish("go", True))
    assert [step.frame is not None for step in sample.steps] == [True, True, False, False, False]
    assert sample.frames_left_out == 3


def test_an_environment_may_have_nothing_to_draw_with() -> None:
    class Dark(TinyEnv):
        def render(self) -> None:  # type: ignore[override]
            return None

    env = Dark(TinyOptions(), seed=1, episodes=1, render_mode="rgb_array")
    env.reset(seed=1, options={"episode": 0})
    recorder = SampleRecorder(JOB, env)
    recorder.observed(0, None, seen(env))
    finished = recorder.finish("go", True)
    assert finished["frames_unit"] is None and "frames_left_out" not in finished and "map" not in finished


def test_map_and_trail_are_kept() -> None:
    env = tiny()
    recorder = SampleRecorder(JOB, env)
    recorder.observed(0, None, seen(env, map=MAP, trail={"agent": [(1, 1)]}))
    recorder.observed(1, "go", seen(env, trail={"agent": [(1.23456, 2), np.array([2.0, 2.5])]}))
    recorder.observed(2, "look", seen(env, trail={}))
    finished = recorder.finish("go", True)
    assert "trail" not in finished["steps"][2]
    sample = Sample.model_validate(finished)
    assert sample.map is not None and sample.map.rooms[0].outline[2] == (4.0, 3.0)
    assert [step.trail for step in sample.steps] == [{"agent": [(1, 1)]}, {"agent": [(1.23, 2), (2, 2.5)]}, {}]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"rooms": [{"outline": []}]}, "rooms.0.name"),
        ({"furniture": [{"name": "x", "outline": [(0, float("nan"))]}]}, "furniture.0.outline.0.1"),
        ({"things": [{"name": "x", "at": (0, 0), "colour": "url(x)"}]}, "things.0.colour"),
    ],
)
def test_a_map_that_cannot_be_drawn_costs_its_episode(change: dict[str, Any], where: str) -> None:
    env = tiny()
    with pytest.raises(GameError, match=f"the environment's map, {where}: ") as caught:
        SampleRecorder(JOB, env).observed(0, None, seen(env, map=MAP | change))
    assert "\n" not in str(caught.value)


def test_a_trail_into_nowhere_costs_its_episode() -> None:
    with pytest.raises(GameError, match="trail has a point that is not finite"):
        seen(tiny(), trail={"agent": [(0, float("inf"))]})
