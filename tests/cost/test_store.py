"""A stored cost model comes back as it was, for its own key only."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from erecap.calibration.calibrate import Calibration, KindError, Point
from erecap.calibration.store import save_cost_model
from erecap.cost.machine import CostKey, cost_key
from erecap.cost.model import CostModel
from erecap.cost.store import cost_path, load_cost_model
from erecap.errors import ConfigError
from tests.tokens.models import tiny

COST = CostModel((40, 1.2, 0.3, 0.01, 2e-4), (15, 0.004, 0.003, 0, 0, 1.1, 1.1, 1e-4), (1, 0.01), (2, 0.06), chunk=256)
BOTH = replace(COST, prefill_short=(10.0, 1.0, 0.0, 0.0, 0.0), short=128)
FOUND = Calibration(
    COST, {"prefill": KindError(0.04, 0.1, 12)}, (Point("prefill", 8, 0, False, 1.5, 1.0, 2.0),), 3, 41.0, 0.05
)
KEY = CostKey("a processor", ("avx2",), 2, 2, "cpu", "sha256:00", "float32", "same")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ERECAP_CACHE", str(tmp_path / "cache"))


def test_round_trip() -> None:
    assert load_cost_model(KEY) is None
    path = save_cost_model(KEY, FOUND)
    assert path == cost_path(KEY) and path.parent.name == "cost"
    assert load_cost_model(KEY) == COST
    save_cost_model(KEY, replace(FOUND, cost=BOTH))
    assert load_cost_model(KEY) == BOTH
    # Another setting has a file of its own.
    assert load_cost_model(replace(KEY, threads=1)) is None
    assert load_cost_model(replace(KEY, decode_weights="int4")) is None
    content = json.loads(path.read_text())
    assert content["errors"]["prefill"]["median"] == 0.04 and content["points"][0]["kv"] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("weights", "sha256:11"), ("threads", 1), ("features", ("avx2", "amx_tile")), ("decode_weights", "int8")],
)
def test_a_file_of_another_key_is_refused(field: str, value: object, tmp_path: Path) -> None:
    path = save_cost_model(KEY, FOUND, tmp_path / "here.json")
    assert load_cost_model(KEY, path) == COST
    with pytest.raises(ConfigError, match=rf"here\.json: calibrated for {field}"):
        load_cost_model(replace(KEY, **{field: value}), path)  # type: ignore[arg-type]


def broken(change: str, path: Path) -> None:
    content = json.loads(path.read_text())
    if change == "format":
        content["format"] = 99
    elif change == "no key":
        del content["key"]
    elif change == "negative":
        content["model"]["decode"][0] = -1
    elif change == "no model":
        del content["model"]
    elif change == "too much":
        content["model"]["extra"] = [1.0]
    elif change == "another file":
        content = {"name": "a run"}
    path.write_text(json.dumps(content) if change != "cut short" else path.read_text()[:200])


@pytest.mark.parametrize(
    "change", ["format", "no key", "negative", "no model", "too much", "another file", "cut short"]
)
def test_a_damaged_file_is_one_line(change: str) -> None:
    path = save_cost_model(KEY, FOUND)
    broken(change, path)
    with pytest.raises(ConfigError, match="erecap calibrate") as caught:
        load_cost_model(KEY)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_the_key_of_a_model_knows_its_weights_and_its_dtype() -> None:
    first = cost_key(tiny("llama"), weights="sha256:a")
    assert first.weights == "sha256:a" and first.dtype == "float32" and first.device == "cpu"
    assert first.digest() == cost_key(tiny("llama"), weights="sha256:a").digest()
    assert first.digest() != cost_key(tiny("llama"), weights="sha256:b").digest()
    assert first.digest() != cost_key(deepcopy(tiny("llama")).bfloat16(), weights="sha256:a").digest()
