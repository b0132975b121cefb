"""`erecap bench`: bad options give one line, good ones a table and a file, and faults an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from erecap.cli.main import app
from erecap.errors import ConfigError, ErecapError, RunError
from tests.bench.test_replan import byte_level, model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a folder that can be loaded."""
    place = tmp_path_factory.mktemp("models") / "tiny"
    model().save_pretrained(place)
    byte_level().save_pretrained(place)
    return place


def bench(*arguments: str) -> str:
    """The output of the command; its error is raised."""
    done = CliRunner().invoke(app, ["bench", *arguments], catch_exceptions=False, standalone_mode=False)
    return done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("replan", "--lengths", "1000,many"), "--lengths: got '1000,many'; allowed: whole numbers from 1 on"),
        (("decode", "--kv", "-1"), "--kv: got '-1'; allowed: whole numbers from 0 on"),
        (("all", "--parts", "replan,sleep"), "--parts: unknown part sleep; allowed: replan, prefill, decode, episode"),
        (("all", "--parts", ","), "--parts: unknown part none"),
        (("replan", "--dtype", "int8"), "dtype 'int8' is not known"),
    ],
)
def test_bad_options_give_one_line(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        bench(*arguments)
    assert "\n" not in str(error.value)


def test_a_device_map_reaches_the_model(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"device_map: layer 1 is on no device"):
        bench("replan", "--model", str(folder), "--lengths", "300", "--device-map", "cpu=0")


@pytest.mark.integration  # for the seconds that a process takes to import torch
def test_prefill_with_its_memory(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("alfworld")
    monkeypatch.setattr("erecap.bench.suite.MODES", ("prune",))
    out = tmp_path / "prefill.json"
    said = bench("prefill", "--tokens", "600", "--repetitions", "2", "--model", str(folder), "--out", str(out))
    assert "FLOP ceiling" in said and "keep 1.0" in said and "…" not in said
    part = json.loads(out.read_text())
    assert part["settings"]["tokens"] == 600 and part["model"]["name"] == "tiny" and str(folder) not in out.read_text()
    assert part["rows"] == []  # not the published settings
    peaks = {entry["mode"]: entry["peak_bytes"] for entry in part["summary"]["modes"]}
    if Path("/proc/self/clear_refs").exists():
        assert 0 < peaks["prune"] < 2e9 and peaks["full"] is None


def test_a_fault_ends_with_an_error_after_the_results_were_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from erecap.bench import suite as module
    from erecap.bench.prefill import PrefillBench

    def play(settings: Any, loaded: Any, tokenizer: Any, about: Any, say: Any, *, source: str) -> dict[str, Any]:
        head = {"part": "decode", "settings": {"tokens": settings.tokens}, **about}
        return {**head, "summary": {"plain": [], "repeated": []}, "raw": [], "rows": [], "faults": ["3 above 2"]}

    monkeypatch.setattr(module, "play", play)
    monkeypatch.setattr(module, "PUBLISHED", {"prefill": PrefillBench(tokens=600)})
    results = tmp_path / "results.json"
    place = ["--folder", str(tmp_path / "bench"), "--results", str(results), "--model", str(folder)]
    with pytest.raises(RunError, match="3 above 2"):
        bench("all", "--parts", "prefill", *place)
    content = json.loads(results.read_text())
    assert content["parts"]["prefill"]["command"] == "erecap bench all --parts prefill"
    assert issubclass(RunError, ErecapError) and RunError.exit_code == 1


def test_memory_of_a_process_that_fails_names_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from erecap.bench.memory import peak_growth

    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak is read from /proc")
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\ncat > /dev/null\necho 'started' >&2\necho 'no room left' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(failing))
    with pytest.raises(RunError, match="measuring the memory of full failed: no room left"):
        peak_growth("tiny", "float32", "full", [1, 2, 3], 0.7, "recency", 1)


@pytest.mark.integration
def test_all_parts_on_the_embedded_model(
    embedded_model: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reduced: it shows that everything runs and that the product row decodes what it should, not how fast."""
    from erecap.bench.decode_settings import DecodeBench
    from erecap.bench.prefill import prefill_call
    from erecap.bench.replan.settings import ReplanBench
    from erecap.bench.suite import play

    pytest.importorskip("alfworld")
    about = {
        "command": "erecap bench replan",
        "date": "2026-01-31",
        "machine": {"cpu": "a processor", "threads": 1},
        "versions": {},
        "model": {"name": "embedded", "dtype": "float32"},
    }
    short = ReplanBench(
        (300,), ("full", "erecap"), ("algorithm", "product"), plan_tokens=6, repetitions=1, kv_tokens=400
    )
    part = play(short, *embedded_model, about, lambda text: None, source="")
    calls = {(call["row"], call["mode"]): call for call in part["summary"]["calls"]}
    assert set(calls) == {(row, mode) for row in ("algorithm", "product") for mode in ("full", "erecap", "floor")}
    assert calls["product", "full"]["new_tokens"] == calls["algorithm", "full"]["new_tokens"] > 300
    quality = part["summary"]["quality"]
    assert quality["agreement"] > 0.9 and abs(quality["difference"]) < 0.1  # published in 4 bits, unpacked
    repeated = DecodeBench((0,), 8, ("same", "int4"), True, "int4", points=2, history=300, kv_tokens=400, repetitions=1)
    part = play(repeated, *embedded_model, about, lambda text: None, source="")
    assert all(row["same_text"] for row in part["raw"]["repeated"] if row["weights"] == "same")
    ids = list(range(1000, 1200))
    kept = prefill_call("prune", embedded_model[0], ids, 0.7, "recency")()
    assert kept[:4] == [200] * 4 and kept[-1] < 20


def test_decoders_are_measured_again_with_another_number_format(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "decoders.json"
    arguments = ["decoders", "--stored", "40", "--steps", "2", "--repetitions", "1", "--no-llamacpp"]
    for dtype in ("float32", "bfloat16"):
        bench(*arguments, "--model", str(folder), "--dtype", dtype, "--out", str(out))
        assert json.loads(out.read_text())["model"]["dtype"] == dtype


def test_figures_at_other_settings_than_they_are_defined_for_go_into_no_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from erecap.bench.results import Figure, result_row
    from erecap.bench.sides import FLOOR, OURS, side_summary
    from erecap.cli.benching import finish_sides

    raw = [{"mode": mode, "total_ms": ms, "repetition": 0} for mode, ms in ((OURS, 2000.0), (FLOOR, 1000.0))]
    part = {"part": "vllm", "date": "d", "command": "c", "settings": {}, "model": {}, "raw": raw, "rows": [],
            "summary": {"calls": side_summary(raw)}}  # fmt: skip
    finish_sides("calls", part, {}, tmp_path / "part.json", tmp_path / "results.json", "8 agents")
    said = " ".join(capsys.readouterr().out.split())
    assert "defined for 8 agents" in said and "2.00" in said
    assert (tmp_path / "part.json").exists() and not (tmp_path / "results.json").exists()
    about = {**part, "machine": {"cpu": "x", "threads": 2}}
    part["rows"] = [result_row("R9-speed", Figure(3.0, 3.0, 3.0, 1), about, row="algorithm", note="n")]
    results = tmp_path / "results.json"
    finish_sides("calls", part, {"blocks": lambda entry: "17.5"}, tmp_path / "part.json", results, "8 agents")
    assert "17.5" in capsys.readouterr().out
    written = json.loads(results.read_text())
    assert written["rows"][0]["id"] == "R9-speed" and written["parts"]["vllm"]["raw"] == raw
