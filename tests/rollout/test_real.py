"""A run with the embedded model in the real simulators."""

import pytest

from erecap.config import load_run
from erecap.errors import ConfigError
from erecap.report.load import load_run_folder
from erecap.rollout.run import run

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def played(tmp_path_factory, embedded_model_folder):
    folder = tmp_path_factory.mktemp("run") / "smoke"
    changes = [
        "modes=full,prune[attention],reuse,erecap",
        "budget.kv_tokens=256",
        "horizon=2",
        f"model={embedded_model_folder}",
    ]
    run(load_run("smoke", changes), folder)
    return load_run_folder(folder)


def test_rows(played):
    assert [(row.suite, row.mode) for row in played.episodes] == [
        (suite, mode)
        for suite in ("household-demo", "babyai-demo")
        for mode in ("full", "prune[attention]", "reuse", "erecap")
    ]
    assert all(row.error is None and row.steps for row in played.episodes)
    assert {row.goal for row in played.episodes[:4]} == {played.episodes[0].goal}


def test_calls(played):
    layers = played.head.model.layers
    for row in played.replans:
        assert row.problem is None
        assert len(row.kept_per_layer) == layers
        if row.mode in ("full", "reuse"):
            assert min(row.kept_per_layer) == row.prompt_tokens
        elif row.mode == "prune[attention]":
            assert min(row.kept_per_layer) < row.prompt_tokens
        assert bool(row.reused_tokens) == (row.mode in ("reuse", "erecap") and row.replan > 0)
        assert row.prefill_ms > 0 and row.decode_ms > 0 and row.total_ms >= row.prefill_ms


def test_reuse_plans_as_full_does(played):
    for suite in ("household-demo", "babyai-demo"):
        plans = {
            mode: [row.plan for row in played.replans if (row.suite, row.mode) == (suite, mode)]
            for mode in ("full", "reuse")
        }
        assert plans["full"] == plans["reuse"]


def test_samples_show_what_was_kept_and_what_was_seen(played):
    assert len(played.samples) == 8
    for sample in played.samples:
        drawn = [step.frame is not None for step in sample.steps]
        assert all(drawn) if sample.suite == "babyai-demo" else not any(drawn)
        call = sample.replans[0]
        shares = [share for _, _, share in call.pieces]
        assert sample.goal in "".join(text for _, text, _ in call.pieces)
        if sample.mode != "erecap":  # whether it had to evict depends on the episode
            assert (min(shares) < 1) == (sample.mode == "prune[attention]")
        assert max(message for message, _, _ in call.pieces) < len(call.messages)


def test_the_model_is_described_without_paths(played, embedded_model_folder):
    assert played.head.model.name == "smollm2-135m-instruct"
    assert played.head.model.hash.startswith("sha256:")
    assert str(embedded_model_folder.parent) not in (played.folder / "run.json").read_text()


def test_a_scheduled_run_says_what_it_decided_and_predicted(tmp_path, monkeypatch, embedded_model_folder):
    from erecap.cost.machine import cost_key
    from erecap.models import fingerprint, load

    monkeypatch.setenv("ERECAP_CACHE", str(tmp_path / "cache"))
    model, _ = load(str(embedded_model_folder), "auto", "auto")
    store_cost_model(cost_key(model, "int8", weights=fingerprint(embedded_model_folder)))
    changes = [
        "modes=full,erecap",
        "suites=household-demo",
        "budget.kv_tokens=512",
        "decode_weights=int8",
        "planner.period=1",
        "planner.max_steps=5",
        "planner.max_new_tokens=64",
        "horizon=6",
        "schedule={deadline_ms: 1.0, may_defer: true}",
        f"model={embedded_model_folder}",
    ]
    run(load_run("smoke", changes), tmp_path / "run")
    rows = [row for row in load_run_folder(tmp_path / "run").replans if row.mode == "erecap"]
    assert all(row.reason != "set by the mode" and row.predicted_ms is not None for row in rows)
    assert "which nothing meets" in rows[0].reason and rows[0].decision != "defer"  # there was no old plan yet
    put_off = [row for row in rows if row.decision == "defer"]
    assert put_off and all(row.trigger == "period" and row.plan and row.plan_tokens == 0 for row in put_off)


def test_a_deadline_without_a_calibrated_model_is_refused(tmp_path, monkeypatch, embedded_model_folder):
    monkeypatch.setenv("ERECAP_CACHE", str(tmp_path / "cache"))
    changes = [
        "modes=erecap",
        "suites=babyai-demo",
        "schedule={deadline_ms: 500.0}",
        f"model={embedded_model_folder}",
    ]
    with pytest.raises(ConfigError, match=r"deadline_ms needs predicted times, .*; run `erecap calibrate`"):
        run(load_run("smoke", changes), tmp_path / "run")
    assert not (tmp_path / "run" / "episodes.jsonl").read_text()


def store_cost_model(key):
    """Round figures in place of a calibration."""
    from dataclasses import asdict

    from erecap.cost.model import DECODE_TERMS, CostModel
    from erecap.cost.store import FORMAT, cost_path
    from erecap.files import write_json

    cost = CostModel(prefill=(5, 1, 0, 0, 0.001), decode=(20, 0.01, *[0] * (len(DECODE_TERMS) - 2)), evict=(5, 0.01))
    cost_path(key).parent.mkdir(parents=True)
    write_json(cost_path(key), {"format": FORMAT, "key": asdict(key), "model": asdict(cost)})
