"""Runs whose modes have layer plans: identities, facts, rows, and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tinyworld import tiny_run, tiny_suite

from erecap.errors import ConfigError, RunError
from erecap.layers import Base, LayerPlan, save_plan
from erecap.models import fingerprint
from erecap.report.load import load_run_folder
from erecap.report.page.html import setup_rows
from erecap.report.page.summary import summarise
from erecap.rollout.components import RealComponents
from erecap.rollout.run import run
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model
from tests.tokens.models import LAYERS

SUITE = tiny_suite(episodes=1, horizon=2)


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, str]:
    """Folders of a model and two plans for it."""
    model("llama", 2048).save_pretrained(tmp_path / "model")
    byte_level().save_pretrained(tmp_path / "model")
    base = Base("tiny", fingerprint(tmp_path / "model"))
    save_plan(tmp_path / "thin", LayerPlan(LAYERS, blocks=(2, 5), base=base))
    save_plan(tmp_path / "holed", LayerPlan(LAYERS, attention=(3,), base=base))
    return {name: str(tmp_path / name) for name in ("model", "thin", "holed")}


def play(folder: Path, quiet: Console, modes: list[Any], **changes: Any) -> dict[str, Any]:
    config = tiny_run(modes=modes, dtype="float32", device="cpu", planner={"max_new_tokens": 8}, **changes)
    run(config, folder, suites={"tiny": SUITE}, open_components=RealComponents, console=quiet)
    return dict(json.loads((folder / "run.json").read_text())["model"])


def calls(folder: Path) -> dict[str, list[int]]:
    rows = [json.loads(line) for line in (folder / "replans.jsonl").read_text().splitlines()]
    assert not any(row.get("problem") for row in rows if row.get("problem") == "error")
    return {row["mode"]: row["kept_per_layer"] for row in rows}


def test_modes_with_plans_beside_the_whole_model(tiny: dict[str, str], tmp_path: Path, quiet: Console) -> None:
    modes = ["full", "reuse", *({"name": name, "kv": "reuse", "layers": tiny[name]} for name in ("thin", "holed"))]
    facts = play(tmp_path / "run", quiet, [*modes, {"name": "again", "layers": tiny["holed"]}], model=tiny["model"])
    assert facts["layers"] == LAYERS and "plan" not in facts
    assert {mode: (plan["name"], plan["layers"]) for mode, plan in facts["plans"].items()} == {
        "thin": ("thin", LAYERS - 2), "holed": ("holed", LAYERS), "again": ("holed", LAYERS),
    }  # fmt: skip
    kept = calls(tmp_path / "run")
    assert {mode: len(layers) for mode, layers in kept.items()} == {
        "full": LAYERS, "reuse": LAYERS, "thin": LAYERS - 2, "holed": LAYERS, "again": LAYERS,
    }  # fmt: skip
    for mode, layers in kept.items():
        empty = [3] if mode in ("holed", "again") else []
        assert [number for number, tokens in enumerate(layers) if not tokens] == empty, mode
    loaded = load_run_folder(tmp_path / "run")
    shown = dict(setup_rows(loaded))
    assert shown["layer plan of thin"].startswith("thin, sha256:") and "layer plan" not in shown
    summary = summarise(loaded)
    assert list(summary["modes"]) == ["full", "reuse", "thin", "holed", "again"]


@pytest.mark.parametrize("batch", [1, 2])
def test_one_plan_for_all_modes(batch: int, tiny: dict[str, str], tmp_path: Path, quiet: Console) -> None:
    modes = ["reuse", "erecap"] if batch > 1 else ["full", "prune[recency]", "erecap"]
    prune = {"stages": [2, 4], "keep": 0.5}
    facts = play(tmp_path / "run", quiet, modes, model=tiny["model"], layers=tiny["thin"], batch=batch, prune=prune)
    assert facts["plan"]["name"] == "thin" and facts["layers"] == LAYERS - 2 and "plans" not in facts
    assert {len(layers) for layers in calls(tmp_path / "run").values()} == {LAYERS - 2}
    loaded = load_run_folder(tmp_path / "run")
    assert loaded.head.model is not None and loaded.head.model.plan.name == "thin"  # type: ignore[union-attr]


@pytest.mark.parametrize("own", [False, True])
def test_a_run_does_not_go_on_with_another_plan_of_that_name(
    own: bool, tiny: dict[str, str], tmp_path: Path, quiet: Console
) -> None:
    modes: list[Any] = ["full", {"name": "mine", "layers": tiny["thin"]}] if own else ["full", "reuse"]
    changes = {} if own else {"layers": tiny["thin"]}
    play(tmp_path / "run", quiet, modes, model=tiny["model"], **changes)
    lines = (tmp_path / "run" / "episodes.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "episodes.jsonl").write_text("".join(lines[:-1]))
    base = Base("tiny", fingerprint(tmp_path / "model"))
    save_plan(tmp_path / "thin", LayerPlan(LAYERS, blocks=(2, 6), base=base))
    with pytest.raises(RunError, match=r"were played with layer plan thin sha256.*, now it is thin sha256"):
        play(tmp_path / "run", quiet, modes, model=tiny["model"], **changes)


def test_a_plan_that_is_not_there_ends_the_run_at_once(tiny: dict[str, str], tmp_path: Path, quiet: Console) -> None:
    with pytest.raises(ConfigError, match="layer plan nowhere: no such folder"):
        play(tmp_path / "run", quiet, ["reuse"], model=tiny["model"], layers="nowhere")
