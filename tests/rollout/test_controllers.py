"""Runs whose sessions a controller steers: rows, identities, the report, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console
from tinyworld import tiny_run, tiny_suite

from erecap.config.controller import ControllerSettings
from erecap.config.run import RunConfig
from erecap.errors import ConfigError, RunError
from erecap.layers import Base, LayerPlan, save_plan
from erecap.models import fingerprint
from erecap.report.load import load_run_folder
from erecap.report.page.html import setup_rows
from erecap.report.page.summary import summarise
from erecap.rollout.components import RealComponents
from erecap.rollout.run import run
from erecap.rollout.run_folder.identity import identity_of, weights_of
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model
from tests.tokens.models import LAYERS

SUITE = tiny_suite(episodes=1, horizon=3)


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, str]:
    """Folders of a model and a plan for it, and a file of actions."""
    model("llama", 2048).save_pretrained(tmp_path / "model")
    byte_level().save_pretrained(tmp_path / "model")
    save_plan(tmp_path / "thin", LayerPlan(LAYERS, blocks=(2, 5), base=Base("tiny", fingerprint(tmp_path / "model"))))
    (tmp_path / "actions.yaml").write_text(
        f"dense: {{}}\nsmall: {{kv_tokens: 400}}\nthin: {{layers: {tmp_path / 'thin'}}}\n"
    )
    return {name: str(tmp_path / name) for name in ("model", "thin", "actions.yaml")}


def play(folder: Path, quiet: Console, tiny: dict[str, str], modes: list[Any], **changes: Any) -> list[dict[str, Any]]:
    config = tiny_run(
        modes=modes, model=tiny["model"], dtype="float32", device="cpu", planner={"max_new_tokens": 8}, **changes
    )
    run(config, folder, suites={"tiny": SUITE}, open_components=RealComponents, console=quiet)
    return [json.loads(line) for line in (folder / "replans.jsonl").read_text().splitlines()]


def test_a_forced_action_beside_the_mode_without_one(tiny: dict[str, str], tmp_path: Path, quiet: Console) -> None:
    forced = {"fixed": "thin", "actions": tiny["actions.yaml"]}
    rows = play(tmp_path / "run", quiet, tiny, ["reuse", {"name": "thin", "kv": "reuse", "controller": forced}])
    plain, thin = ([row for row in rows if row["mode"] == mode] for mode in ("reuse", "thin"))
    assert plain and thin and all(row["controller"] is None for row in plain)
    for row in thin:
        taken = row["controller"]
        assert (taken["action"], taken["reason"], taken["switched"]) == ("thin", "forced by the run", False)
        assert row["total_ms"] >= taken["switch_ms"] >= 0 and len(row["kept_per_layer"]) == LAYERS - 2
    head = json.loads((tmp_path / "run" / "run.json").read_text())
    assert head["model"]["controllers"]["thin"]["name"] == "action thin"
    loaded = load_run_folder(tmp_path / "run")
    assert dict(setup_rows(loaded))["controller of thin"].startswith("action thin, sha256:")
    assert list(summarise(loaded)["modes"]) == ["reuse", "thin"]
    # It goes on with the same action only.
    lines = (tmp_path / "run" / "episodes.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "episodes.jsonl").write_text("".join(lines[:-1]))
    (tmp_path / "actions.yaml").write_text("thin: {draft: false}\n")
    with pytest.raises(RunError, match="of mode thin were played with controller action thin sha256"):
        play(tmp_path / "run", quiet, tiny, ["reuse", {"name": "thin", "kv": "reuse", "controller": forced}])


def test_a_controller_for_all_modes(tiny: dict[str, str], tmp_path: Path, quiet: Console) -> None:
    forced = {"fixed": "small", "actions": tiny["actions.yaml"]}
    rows = play(tmp_path / "run", quiet, tiny, ["erecap", "recency"], controller=forced)
    assert {row["mode"] for row in rows} == {"erecap", "recency"}
    assert {row["controller"]["action"] for row in rows} == {"small"}


def test_what_cannot_be_served_ends_the_run_at_once(tiny: dict[str, str], tmp_path: Path, quiet: Console) -> None:
    for number, (forced, said) in enumerate(
        (
            ({"fixed": "small", "actions": tiny["actions.yaml"]}, "mode reuse cannot have kv_tokens of action small"),
            ({"fixed": "fast", "actions": tiny["actions.yaml"]}, "no action 'fast'; allowed: dense, small, thin"),
            ({"fixed": "kv-512", "actions": str(tmp_path / "none.yaml")}, "cannot be read"),
            ({"checkpoint": "nowhere"}, "controller nowhere: no such folder"),
        )
    ):
        folder = tmp_path / f"run-{number}"
        with pytest.raises(ConfigError, match=said) as refused:
            play(folder, quiet, tiny, ["reuse"], controller=forced)
        assert "\n" not in str(refused.value) and not (folder / "episodes.jsonl").read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modes": ["full"]}, "mode full keeps no session of transformers over the whole chat"),
        ({"modes": ["mask"]}, "mode mask keeps no session"),
        ({"modes": ["erecap"], "schedule": {}}, "mode erecap has one beside schedule"),
        ({"modes": ["erecap"], "batch": 2}, "beside batch 2"),
        ({"modes": ["erecap"], "planner": {"name": "cooperative"}}, "beside planner.name cooperative"),
        ({"modes": ["erecap"], "reread": {"mode": "erecap", "every": 1}}, "got erecap, which a controller steers"),
        ({"modes": ["erecap"], "budget": {"pays": 0.2}}, "beside budget.pays"),
        ({"modes": [{"name": "a", "controller": "x"}], "controller": None}, "it steers a session, got kv: reread"),
        ({"modes": [{"name": "a", "kv": "reuse", "engine": "tiny", "controller": "x"}], "controller": None},
         "got engine: tiny"),
        ({"modes": ["erecap"], "controller": {}}, "got neither a checkpoint nor fixed"),
        ({"modes": ["erecap"], "controller": {"checkpoint": "a", "actions": "b"}}, "got a file beside a checkpoint"),
    ],
)  # fmt: skip
def test_settings_that_exclude_each_other(changes: dict[str, Any], said: str) -> None:
    values = {"name": "t", "suites": ["s"], "controller": {"fixed": "dense"}, **changes}
    with pytest.raises(ValidationError, match=said):
        RunConfig.model_validate(values)


def test_a_name_is_short_for_a_checkpoint_and_the_expert_has_none() -> None:
    config = RunConfig.model_validate({"name": "t", "suites": ["s"], "modes": ["erecap", "expert"], "controller": "x"})
    assert config.controller == ControllerSettings(checkpoint="x")
    assert config.controller_of(config.mode("expert")) is None
    assert config.controller_of(config.mode("erecap")) == config.controller
    plain = RunConfig.model_validate({"name": "t", "suites": ["s"], "modes": ["erecap"]})
    assert "controller" not in plain.model_dump()


def test_rows_count_by_what_the_controller_is(tiny: dict[str, str]) -> None:
    def identity(**changes: Any) -> str:
        values = {"name": "t", "suites": ["tiny"], "modes": ["erecap"], "model": tiny["model"], **changes}
        config = RunConfig.model_validate(values)
        return identity_of(config, SUITE, config.mode(config.modes[0]), weights_of(config)).config

    actions = Path(tiny["actions.yaml"])
    forced = {"fixed": "small", "actions": str(actions)}
    before = identity(controller=forced)
    moved = actions.with_name("moved.yaml")
    moved.write_text(actions.read_text())
    assert identity(controller={**forced, "actions": str(moved)}) == before  # wherever the file lies
    moved.write_text("small: {kv_tokens: 300}\n")
    changed = {identity(), before, identity(controller={**forced, "actions": str(moved)})}
    changed |= {identity(controller={**forced, "slo_ms": 5.0}), identity(controller={**forced, "fixed": "thin"})}
    assert len(changed) == 5
    parts = {"name": "mine", "kv": {"evict": None, "stale_first": True}}
    assert identity(modes=[{**parts, "controller": forced}]) != identity(modes=[parts])
