"""Robots on one GPU: bytes, seconds of a step, and a simulation that can be followed by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from erecap.cli.main import app
from erecap.cost.fleet.gpu import GPUS, MODELS, SHAPES, Gpu, Served, fit_of, fitted, step_seconds, tokens_held
from erecap.cost.fleet.simulation import Load, Server, simulate
from erecap.cost.fleet.table import Scale, most_robots, scale_table
from erecap.cost.flops import ModelShape, prefill_flops
from erecap.errors import ConfigError

SHAPE = ModelShape(layers=2, hidden_size=8, intermediate_size=16, heads=2, kv_heads=1, head_dim=4, vocab_size=32)
MODEL = Served(SHAPE)  # 32 bytes a token
# No time but that of its memory: 1 s for 1,000 bytes, 0.1 s a step.
SLOW = Gpu("slow", 10_000, 1000, 1e18, memory_share=1, bandwidth_share=1, flops_share=1, step_s=0.1)


def test_bytes_are_those_of_a_real_session() -> None:
    from erecap.language_models.opened import shape_of
    from erecap.session.session import ReplanSession
    from tests.context.small_tokenizers import byte_level
    from tests.session.chats import model, start

    made = model()
    session = ReplanSession(made, byte_level())
    session.read(start())
    served = Served(shape_of(made), weight_bytes_each=4, kv_bytes_each=4)
    assert session.engine.kv_bytes() == len(session.token_ids) * served.bytes_per_token
    matrices = sum(weight.numel() for weight in made.parameters() if weight.dim() > 1)
    assert served.parameters == matrices


def test_published_sizes() -> None:
    eight = Served(SHAPES["8b"])
    assert eight.parameters == pytest.approx(8.03e9, rel=1e-3) and eight.bytes_per_token == 128 * 1024
    assert Served(SHAPES["1b"], tied=True).parameters == pytest.approx(1.236e9, rel=1e-3)
    assert tokens_held(GPUS["h200"], eight) == int((0.9 * 141e9 - eight.weight_bytes) / (128 * 1024))
    with pytest.raises(ValueError, match="the weights need 16 GB, and small has 9 GB"):
        tokens_held(replace(GPUS["l4"], name="small", memory_bytes=10e9), eight)


def test_flops_are_those_of_a_prefill() -> None:
    assert MODEL.flops(7, 0) == prefill_flops(SHAPE, [7, 7]).total
    parts = MODEL.flops(3, 0) + MODEL.flops(4, 3) - 2 * SHAPE.hidden_size * SHAPE.vocab_size  # the head twice
    assert parts == pytest.approx(MODEL.flops(7, 0))


def test_a_step_takes_as_long_as_the_slower_of_memory_and_arithmetic() -> None:
    moved = MODEL.weight_bytes + 32 * (10 + 1 + 20 + 5)
    assert step_seconds(SLOW, MODEL, [(1, 10), (5, 20)]) == pytest.approx(0.1 + moved / 1000)
    flops = MODEL.flops(1, 10) + MODEL.flops(5, 20)
    assert step_seconds(replace(SLOW, flops_per_s=10), MODEL, [(1, 10), (5, 20)]) == pytest.approx(0.1 + flops / 10)


def alone(stored: int, new: int, plan: int, gpu: Gpu = SLOW) -> float:
    """Seconds of one call that nothing else disturbs."""
    reading = step_seconds(gpu, MODEL, [(new, stored)])
    return reading + sum(step_seconds(gpu, MODEL, [(1, stored + new + n)]) for n in range(plan - 1))


def load(**changes: object) -> Load:
    usual = {"robots": 1, "history": 40, "new_tokens": 5, "plan_tokens": 3, "period_s": 50.0, "seconds": 500.0}
    return Load(**{**usual, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "stored", "new"),
    [({}, 40, 5), ({"reuse": False}, 0, 45), ({"kept": 16}, 16, 5), ({"kept": 100}, 40, 5)],
)
def test_one_robot_takes_what_its_steps_take(changes: dict[str, object], stored: int, new: int) -> None:
    found = simulate(load(**changes), SLOW, MODEL)
    assert found.p50_s == pytest.approx(alone(stored, new, 3)) and found.p95_s == pytest.approx(found.p50_s)
    assert found.calls >= 5 and found.late == 0 and found.fetched == 0
    assert found.reread == (1.0 if changes.get("reuse") is False else 0.0)


def test_who_is_not_on_the_gpu_comes_from_the_host_or_is_read_again() -> None:
    room = MODEL.weight_bytes + 32 * 60  # for one robot with 40 tokens and its call, not for two
    gpu = replace(SLOW, memory_bytes=room)
    lost = simulate(load(robots=2), gpu, MODEL)
    assert lost.fits == 1 and lost.reread > 0.3 and lost.fetched == 0
    assert lost.p95_s >= alone(0, 45, 3, gpu) - 1e-9
    host = Server(host_bytes=32 * 40, link_bytes_per_s=32 * 40 / 0.25)
    fetched = simulate(load(robots=2), gpu, MODEL, host)
    assert fetched.reread == 0 and fetched.fetched > 0.3
    slow_link = replace(host, link_bytes_per_s=32 * 40 / 5.25)
    assert simulate(load(robots=2), gpu, MODEL, slow_link).p95_s == pytest.approx(fetched.p95_s + 5, abs=0.5)
    both = simulate(load(robots=2, kept=16), replace(gpu, memory_bytes=room + 32 * 520), MODEL)
    assert both.reread == both.fetched == 0
    long = {"kept": 16, "new_tokens": 30}  # within a budget they are read in chunks, however many they are
    narrow = replace(SLOW, memory_bytes=MODEL.weight_bytes + 32 * 24)
    assert simulate(load(**long), narrow, MODEL, Server(chunk=5)).fits == 1
    with pytest.raises(ValueError, match="one call stores 48 tokens, and 40 fit"):
        simulate(load(), replace(SLOW, memory_bytes=MODEL.weight_bytes + 32 * 40), MODEL)


def test_calls_share_the_reading_of_the_weights() -> None:
    short = {"period_s": 20.0, "history": 2, "new_tokens": 1}
    together = simulate(load(robots=40, **short), replace(SLOW, memory_bytes=1e6), MODEL)
    one = simulate(load(**short), replace(SLOW, memory_bytes=1e6), MODEL)
    assert together.calls > 15 * one.calls and one.p50_s < together.p50_s < 40 * one.p50_s


def test_a_server_that_falls_behind_says_so() -> None:
    found = simulate(load(robots=60, reuse=False, period_s=1.0, seconds=60.0), SLOW, MODEL, Server(most_calls=1))
    assert found.late > 10 and found.p95_s > 10 and found.busy == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("limit", "expected"), [(0, 0), (1, 1), (37, 37), (64, 64), (5000, 1000)])
def test_the_most_robots(limit: int, expected: int) -> None:
    found = most_robots(lambda robots: robots <= limit, (1, 16, 64, 256, 1000))
    assert expected * 0.97 <= found <= expected


def test_speeds_that_were_measured_replace_the_shares() -> None:
    true = replace(GPUS["h200"], bandwidth_share=0.6, flops_share=0.4, step_s=0.003)
    model = Served(SHAPES["8b"])
    decode = [{"agents": n, "kv": 1024, "s": step_seconds(true, model, [(1, 1024)] * n)} for n in (1, 64)]
    read = model.flops(4096, 0) / (true.flops_per_s * 0.4)
    found = fitted(GPUS["h200"], model, {"read_tokens": 4096, "read_s": read, "decode": decode})
    assert found.bandwidth_share == pytest.approx(0.6) and found.flops_share == pytest.approx(0.4)
    assert found.step_s == pytest.approx(0.003)
    with pytest.raises(ValueError, match="two passes are needed"):
        fitted(GPUS["h200"], model, {"read_tokens": 4096, "read_s": read, "decode": decode[:1]})
    with pytest.raises(ValueError, match=r"4096 tokens in 0\.0 s"):
        fitted(GPUS["h200"], model, {"read_tokens": 4096, "read_s": 0, "decode": decode})


def test_measured_speeds_are_those_of_the_same_shape(tmp_path: Path) -> None:
    file: dict[str, Any] = {
        "part": "fleet",
        "model": {**asdict(SHAPES["8b"]), "dtype": "bfloat16"},
        "fit": {"read_tokens": 1},
    }
    assert fit_of(file, MODELS["8b"]) == {"read_tokens": 1} and MODELS["1b"].tied
    for wrong, words in (
        ({"part": "load"}, "no file of erecap bench fleet"),
        ({"model": {**file["model"], "layers": 2}}, "measured with layers 2, and the model has 32"),
        ({"model": {**file["model"], "dtype": "float32"}}, "measured in float32; allowed: bfloat16"),
        ({"model": []}, "no file of erecap bench fleet"),
        ({"fit": None}, "too little was measured"),
    ):
        with pytest.raises(ValueError, match=words):
            fit_of({**file, **wrong}, MODELS["8b"])
        path = tmp_path / "fleet.json"
        path.write_text(json.dumps({**file, **wrong}))
        failed = CliRunner().invoke(app, ["scale", "--histories", "4000", "--robots", "1", "--measured", str(path)])
        assert isinstance(failed.exception, ConfigError) and words in str(failed.exception)


def test_a_file_of_measured_speeds_that_is_none_is_told_in_one_line(tmp_path: Path) -> None:
    passes = [{"agents": 1, "kv": 1000, "s": 0.01}, {"agents": 2, "kv": 1000, "s": 0.02}]
    fit = {"read_tokens": 4096, "read_s": 1.0, "decode": passes}
    path = tmp_path / "fleet.json"
    options = ["scale", "--histories", "4000", "--robots", "1", "--measured", str(path)]
    for wrong, words in (
        (None, "cannot be read: No such file"),
        ({"decode": passes[:1]}, "two passes are needed"),
        ({"decode": [passes[0], {"agents": 2, "kv": 1000}]}, "`fit` lacks 's'"),
        ({"decode": [1, 2]}, ""),
        ({"read_tokens": float("inf")}, ""),
        ({"read_s": "soon"}, "soon"),
        ({}, None),
    ):
        if wrong is not None:
            model = {**asdict(SHAPES["8b"]), "dtype": "bfloat16"}
            path.write_text(json.dumps({"part": "fleet", "model": model, "fit": {**fit, **wrong}}))
        done = CliRunner().invoke(app, options)
        if words is None:
            assert done.exit_code == 0, done.output
            continue
        assert isinstance(done.exception, ConfigError), done.exception
        assert str(done.exception).startswith(f"scale: --measured: {path}: ") and words in str(done.exception)
        assert "\n" not in str(done.exception)


def test_the_table_has_every_way_history_and_number() -> None:
    scale = Scale(histories=(2000, 8000), robots=(1, 8), seconds=20.0)
    found = scale_table(scale, GPUS["h200"], Served(SHAPES["8b"]))
    assert len(found["calls"]) == 2 * 3 * 2 and [row["way"] for row in found["most"]] == ["full", "reuse", "1024"] * 2
    held = {(row["history"], row["way"]): row["robots"] for row in found["holds"]}
    assert held[8000, "1024"] == held[2000, "1024"] > 7 * held[8000, "reuse"]
    p95 = {(row["history"], row["way"], row["robots"]): row["p95_s"] for row in found["calls"]}
    assert p95[8000, "full", 8] > p95[8000, "reuse", 8] > p95[8000, "1024", 8]
    assert json.dumps(found)


def test_the_command(tmp_path: Path) -> None:
    def run(*options: str) -> object:
        return CliRunner().invoke(app, ["scale", "--histories", "4000", "--robots", "1,4", *options])

    done = run("--out", str(tmp_path / "scale.json"))
    assert done.exit_code == 0 and "most robots" in done.output, done.output  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "scale.json").read_text())["gpu"]["name"] == "h200"
    for wrong, words in (
        (("--gpu", "abacus"), "--gpu: got 'abacus'"),
        (("--gpu", "l4", "--host-gb", "-1"), "--host-gb: got -1; allowed: memory from 0 on"),
        (("--period", "0"), "--period: got 0; allowed: seconds above 0"),
        (("--slo", "-0.5"), "--slo: got -0.5; allowed: seconds above 0"),
        (("--measured", str(tmp_path / "none.json")), "scale: "),
    ):
        failed = run(*wrong)
        assert failed.exit_code != 0 and words in str(failed.exception), failed.exception  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"seconds": 0.0}, "seconds: got 0; allowed"), ({"host_gb": -5.0}, "host_gb: got -5; allowed: memory from 0 on")],
)
def test_settings_that_make_no_sense_are_named(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Scale(**changes)
