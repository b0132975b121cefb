"""Calibration end to end: through a session's own code on a tiny model, and on the embedded one in short."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from erecap.calibration.calibrate import Calibration, Grid, Kind, Point, calibrate, fit, held_out_errors
from erecap.calibration.report import BUSY, disturbance, in_words
from erecap.calibration.workload import Workload, chat_of
from erecap.cli import main as command_line
from erecap.cost.machine import cost_key
from erecap.cost.model import CostModel
from erecap.cost.store import load_cost_model
from erecap.errors import ConfigError
from erecap.models import fingerprint
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model

SHORT = Grid(
    stored=(384, 128, 0), new=(8, 32, 96), passes=(1, 3), held_out_stored=(256,), held_out_new=(16, 64),
    held_out_passes=(1, 2), rounds=2, least_rounds=2, seconds=5,
)  # fmt: skip


def test_the_workload_is_what_a_session_would_store() -> None:
    work = Workload(model("llama", 1024), byte_level(), 400)
    work.restart()
    assert work.kv >= 400
    for level in (300, 120, 0):
        work.go_to(level)
        session = work._session
        assert session.cache.get_seq_length() == work.kv and abs(work.kv - level) < 130
        assert work.prefill(40) > 0 and work.read(3) > 0
        assert session.cache.get_seq_length() == work.kv, "what was timed is taken back"
        assert set(session.cache.kept_lengths()) == {work.kv}
        if work.kv > 250:
            assert work.evict() > 0 and work.splice() > 0
            assert set(session.cache.kept_lengths()) == {work.kv}, "edits happen on copies"
    work.restart()
    assert work.kv >= 400


def test_the_chat_has_the_length_asked_for_and_ends_with_an_observation() -> None:
    messages = chat_of(900, byte_level())
    sizes = [len(byte_level()(message["content"])["input_ids"]) for message in messages]
    assert 900 <= sum(sizes) < 1500 and messages[-1]["role"] == "user"
    assert messages[: len(chat_of(300, byte_level()))] == chat_of(300, byte_level())


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_calibrating_a_tiny_model(name: str) -> None:
    found = calibrate(model(name, 1024), byte_level(), grid=SHORT)
    assert found.rounds == 2 and found.noise >= 0
    assert {point.kind for point in found.points} == {"prefill", "decode", "evict", "splice"}
    assert found.errors["prefill"].points == 2 and found.errors["decode"].points == 2
    fitted = {(p.kind, p.tokens, p.kv) for p in found.points if not p.held_out}
    assert not fitted & {(p.kind, p.tokens, p.kv) for p in found.points if p.held_out}
    assert all(0 < p.low <= p.ms <= p.high for p in found.points)
    assert found.cost.predict_replan(100, 300, 8) > found.cost.predict_pass(1, 300) > 0


def test_keys_that_cannot_be_moved_have_no_cost_of_a_splice(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> float:
        raise ValueError("keys cannot be moved")

    monkeypatch.setattr(Workload, "splice", refuse)
    found = calibrate(model("llama", 1024), byte_level(), grid=SHORT)
    assert found.cost.splice == (0.0, 0.0) and "splice" not in found.errors
    assert not any(line.startswith("splice") for line in in_words(found.cost))


def test_held_out_points_are_not_fitted_to() -> None:
    true = CostModel((40, 1.2, 0.3, 0.01, 2e-4), (15, 0.004, 0.003, 0, 0, 1.1, 1.1, 1e-4))
    points = [
        Point("prefill", n, kv, False, true.predict_prefill(n, kv), 1, 1) for n in (8, 32, 128, 512) for kv in (0, 999)
    ]
    points += [
        Point("decode", n, kv, False, true.predict_pass(n, kv), 1, 1) for n in (1, 3, 9, 20, 48) for kv in (0, 99, 999)
    ]
    wrong = Point("decode", 2, 500, True, 2 * true.predict_pass(2, 500), 1, 1)
    found = fit([*points, wrong])
    assert found.decode == pytest.approx(true.decode, rel=1e-3)
    errors = held_out_errors(found, [*points, wrong])
    assert set(errors) == {"decode"} and errors["decode"].worst == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_fit_to_known_costs_predicts_sizes_that_it_has_not_seen(noise: float) -> None:
    true = CostModel(
        (40, 1.2, 0.3, 0.01, 2e-4), (15, 0.004, 0.003, 0, 0, 1.1, 1.1, 1e-4), evict=(2, 0.01), splice=(3, 0.02)
    )
    off = itertools.cycle([1 + noise, 1 - noise, 1.0])  # what a busy machine adds and takes, of known size

    def points(held_out: bool, new: Sequence[int], passes: Sequence[int], stored: Sequence[int]) -> list[Point]:
        known: list[tuple[Kind, int, int, float]] = []
        for kv in stored:
            known += [("prefill", n, kv, true.predict_prefill(n, kv)) for n in new]
            known += [("decode", n, kv, true.predict_pass(n, kv)) for n in passes]
            known += [("evict", 0, kv, true.predict_evict(kv)), ("splice", 0, kv, true.predict_splice(kv))]
        return [Point(kind, n, kv, held_out, ms * next(off), 1, 1) for kind, n, kv, ms in known]

    grid = Grid()
    found = fit(points(False, grid.new, grid.passes, grid.stored))
    unseen = points(True, grid.held_out_new, grid.held_out_passes, grid.held_out_stored)
    errors = held_out_errors(found, unseen)
    assert set(errors) == {"prefill", "decode", "evict", "splice"}
    assert all(error.median <= 1.5 * noise + 1e-3 for error in errors.values())


def test_short_and_long_chunks_are_fitted_apart_where_each_has_two_sizes() -> None:
    short = CostModel((10, 1, 0, 0.01, 1e-4), (1,) * 8)
    true = CostModel((40, 2, 0, 0.02, 2e-4), (1,) * 8, prefill_short=short.prefill, short=128)
    passes = [Point("decode", 1, 0, False, 1.0, 1, 1)]

    def points(*sizes: int) -> list[Point]:
        return [
            Point("prefill", n, kv, False, true.predict_prefill(n, kv), 1, 1) for n in sizes for kv in (0, 500, 999)
        ]

    found = fit([*points(8, 32, 128, 160, 512), *passes])
    for size in (20, 100, 128, 129, 400):
        assert found.predict_prefill(size, 700) == pytest.approx(true.predict_prefill(size, 700), rel=0.01)
    together = fit([*points(8, 32, 128, 160), *passes])
    assert together.prefill_short is None and together.predict_prefill(160, 0) > together.predict_prefill(32, 0)


def test_the_grid_fits_the_window() -> None:
    full = Grid().fitted_to(8192, 512)
    assert full == replace(Grid(), new=tuple(sorted(Grid().new)))
    small = Grid().fitted_to(1024, 512)
    assert max(small.stored) == 512 and max(small.new) == 256
    assert not set(full.new) & set(full.held_out_new) and not set(full.stored) & set(full.held_out_stored)
    with pytest.raises(ConfigError, match="256"):
        Grid().fitted_to(256, 512)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ERECAP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tiny"
    model("llama", 1024).save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_command_stores_what_it_prints_where_runs_look_for_it(
    dtype: str, saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("erecap.calibration.calibrate.Grid", lambda: SHORT)
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["erecap", "calibrate", str(saved), "--dtype", dtype, "--threads", "1"])
    try:
        with pytest.raises(SystemExit) as left:
            command_line.main()
        assert not left.value.code
        out = capsys.readouterr().out
        assert "per pass of decoding" in out and "median error" in out and "stored in" in out
        in_use = deepcopy(model("llama", 1024)).to(getattr(torch, dtype))  # other tests share the model
        stored = load_cost_model(cost_key(in_use, weights=fingerprint(saved)))
        assert stored is not None and f"{next(in_words(stored))}\n" in out
    finally:
        torch.set_num_threads(threads)


def test_wrong_weights_are_one_line(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["erecap", "calibrate", str(saved), "--decode-weights", "int2"])
    with pytest.raises(SystemExit) as left:
        command_line.main()
    assert left.value.code == 2 and "allowed: same, int8, int4" in capsys.readouterr().err


def test_a_disturbed_calibration_is_called_so() -> None:
    quiet = Calibration(CostModel((1.0,) * 5, (1.0,) * 8), {}, (), rounds=3, seconds=40.0, noise=BUSY)
    assert disturbance(quiet) is None
    assert "differ by 50%" in (disturbance(replace(quiet, noise=0.5)) or "")


@pytest.mark.integration
def test_the_embedded_model_in_short(embedded_model: tuple[Any, Any]) -> None:
    grid = Grid(
        stored=(1024, 384, 0), new=(8, 32, 128), passes=(1, 4), held_out_stored=(640,), held_out_new=(16, 80),
        held_out_passes=(1, 2), rounds=2, least_rounds=1, seconds=5,
    )  # fmt: skip
    found = calibrate(*embedded_model, grid=grid)
    # How well the times of one machine are fitted is the calibration's own report, and no test's business.
    assert 1 <= found.rounds <= 2 and found.noise >= 0 and found.seconds > 0
    assert all(0 < point.low <= point.ms <= point.high < math.inf for point in found.points)
    sizes = {kind: {p.tokens for p in found.points if p.kind == kind} for kind in ("prefill", "decode")}
    assert sizes == {"prefill": {8, 16, 32, 80, 128}, "decode": {1, 2, 4}}
    assert len({point.kv for point in found.points}) == 4
    assert all(0 <= error.median <= error.worst < math.inf for error in found.errors.values())
    assert found.errors["prefill"].points == found.errors["decode"].points == 2
    cost = found.cost
    terms = (*cost.prefill, *(cost.prefill_short or ()), *cost.decode, *cost.evict, *cost.splice)
    assert all(0 <= term < math.inf for term in terms)
    for kv in (0, 500, 1000):  # more to do never costs less
        assert 0 < cost.predict_prefill(32, kv) <= cost.predict_prefill(64, kv)
        assert 0 < cost.predict_pass(1, kv) <= cost.predict_pass(2, kv)
