"""Modes of parts: their syntax among a run's modes, their meaning, and their way to worker processes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from erecap.config import Decode, Evict, Mode, RunConfig, load_run
from erecap.config.exits import Exit
from erecap.config.modes import PRESETS, parse_mode
from erecap.errors import ConfigError
from erecap.registries import DRAFTS

INT8 = {"name": "erecap-int8", "kv": {"evict": "attention", "stale_first": True}, "decode": {"weights": "int8"}}


def config(folder: Path, modes: Any, *overrides: str, **values: Any) -> RunConfig:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"name": "r", "suites": ["household-demo"], "modes": modes, **values}))
    return load_run(path, overrides)


def test_presets_and_parts_stand_side_by_side(tmp_path: Path) -> None:
    run = config(tmp_path, ["full", INT8, "erecap"])
    assert run.modes == ["full", "erecap-int8", "erecap"]
    assert run.mode("erecap-int8") == Mode(
        "erecap-int8", kv=Evict("attention", stale_first=True), decode=Decode(weights="int8")
    )
    assert run.mode("full") is PRESETS["full"]
    assert str(run.mode("erecap-int8")) == "erecap-int8" and not run.mode("erecap-int8").preset
    assert config(tmp_path, ["full"], f"modes=[reuse, {json.dumps(INT8)}]").modes == ["reuse", "erecap-int8"]


@pytest.mark.parametrize(
    ("parts", "mode"),
    [
        ({}, Mode("x")),
        ({"prune": "attention"}, Mode("x", prune="attention")),
        ({"kv": "reuse"}, Mode("x", kv="reuse")),
        ({"kv": "reuse", "text": "compact"}, Mode("x", kv="reuse", text="compact")),
        ({"kv": {"evict": None}}, Mode("x", kv=Evict())),
        ({"kv": {"evict": None, "kv_tokens": "auto"}}, Mode("x", kv=Evict(kv_tokens="auto"))),
        ({"kv": {"evict": "recency", "kv_tokens": 64}}, Mode("x", kv=Evict("recency", kv_tokens=64))),
        ({"kv": {"evict": "runs/pruner"}, "prune": "random"}, Mode("x", kv=Evict("runs/pruner"), prune="random")),
        ({"kv": "reuse", "decode": {"draft": False}}, Mode("x", kv="reuse", decode=Decode(draft=False))),
        *(
            ({"kv": "reuse", "decode": {"draft": way}}, Mode("x", kv="reuse", decode=Decode(draft=way)))
            for way in DRAFTS
        ),
        (
            {"kv": "reuse", "decode": {"exit": {"layer": 12, "drafts": 2}}},
            Mode("x", kv="reuse", decode=Decode(exit=Exit(layer=12, drafts=2))),
        ),
        (
            {"kv": "reuse", "decode": {"exit": {"predictor": "runs/exits", "lossless": False}}},
            Mode("x", kv="reuse", decode=Decode(exit=Exit("runs/exits", lossless=False))),
        ),
        ({"kv": "reuse", "decode": {"exit": False}}, Mode("x", kv="reuse")),
        ({"engine": "transformers"}, Mode("x")),
        ({"engine": "tiny", "kv": "reuse"}, Mode("x", kv="reuse", engine="tiny")),
        ({"layers": "runs/thin"}, Mode("x", layers="runs/thin")),
    ],
    ids=str,
)
def test_what_parts_mean(tmp_path: Path, parts: dict[str, Any], mode: Mode) -> None:
    run = config(tmp_path, [{"name": "x", **parts}])
    assert run.mode("x") == mode
    # The parts state what differs from `full`, and say the same when they are read again.
    assert config(tmp_path, [{"name": "x", **mode.parts()}]).mode("x") == mode


def test_presets_are_the_compositions_that_they_were() -> None:
    parts = {name: mode.parts() for name, mode in PRESETS.items()}
    assert parts == {
        "full": {},
        "expert": {},
        "reuse": {"kv": "reuse"},
        "erecap": {"kv": {"evict": None, "stale_first": True}},
        "recency": {"kv": {"evict": "recency", "stale_first": False}},
        "random": {"kv": {"evict": "random", "stale_first": False}},
        "attention": {"kv": {"evict": "attention", "stale_first": False}},
        "mask": {"kv": "reuse", "text": "mask"},
        "served": {},
    }
    assert [name for name, mode in PRESETS.items() if mode.budgeted] == [
        "erecap", "recency", "random", "attention", "mask",
    ]  # fmt: skip
    assert [name for name, mode in PRESETS.items() if not mode.session] == ["full", "expert", "served"]
    assert [name for name, mode in PRESETS.items() if not mode.needs_model] == ["expert"]
    assert parse_mode("prune[learned]").needs_run_pruner and PRESETS["erecap"].takes_run_pruner
    assert not PRESETS["erecap"].needs_run_pruner and not PRESETS["recency"].takes_run_pruner


def test_they_travel_as_json_and_to_workers(tmp_path: Path) -> None:
    run = config(tmp_path, ["full", INT8])
    assert RunConfig.model_validate(json.loads(json.dumps(run.model_dump(mode="json")))) == run
    travelled = pickle.loads(pickle.dumps(run))  # noqa: S301  # as worker processes get it
    assert travelled.mode("erecap-int8") == run.mode("erecap-int8")


def test_runs_without_parts_are_written_as_before(tmp_path: Path) -> None:
    written = config(tmp_path, ["full"]).model_dump(mode="json")
    assert "compositions" not in written and "name" not in written["planner"]


MISTAKES: list[tuple[Any, str]] = [
    ([{"kv": "reuse"}], "modes: got {'kv': 'reuse'}; a mode of parts needs a name, such as"),
    ([{"name": "full"}], "modes: 'full' is the name of a preset"),
    ([{"name": "a b"}], "modes: got name 'a b'; allowed: letters"),
    ([{"name": "prune[x]"}], "modes: got name"),
    ([INT8, INT8], "modes: two modes of parts are called 'erecap-int8'"),
    (["full", "full"], "modes: 'full' is named twice"),
    ([{"name": "x", "kv": "keep"}], "compositions.x.kv: got 'keep' (text); allowed: reread, reuse or a mapping"),
    ([{"name": "x", "kv": {"evikt": "recency"}}], "compositions.x.kv.evict: is missing"),
    ([{"name": "x", "kv": {"evict": 3}}], "compositions.x.kv.evict: got 3; allowed: text or null"),
    ([{"name": "x", "kv": {"evict": None, "kv_tokens": 8}}], "compositions.x.kv.kv_tokens: got 8; allowed: auto, null"),
    ([{"name": "x", "depth": "thin"}], "compositions.x.depth: unknown key; allowed keys: kv, prune, text, layers"),
    ([{"name": "x", "layers": 3}], "compositions.x.layers: got 3; allowed: text or null"),
    ([{"name": "x", "kv": "reuse", "engine": "tiny", "layers": "thin"}], "layers: got a plan with engine: tiny"),
    ([{"name": "x", "kv": "reuse", "decode": {"leave": 1}}], "compositions.x.decode.leave: unknown key; allowed keys"),
    ([{"name": "x", "kv": "reuse", "decode": {"exit": {}}}], "decode.exit: exit needs a predictor"),
    (
        [{"name": "x", "kv": "reuse", "decode": {"exit": {"layer": 3, "schedule": "often"}}}],
        "decode.exit.schedule: got 'often' (text); allowed: two-level",
    ),
    (
        [{"name": "x", "kv": "reuse", "decode": {"exit": {"layer": 3, "schedule": "every"}}}],
        "decode.exit: exit: got schedule 'every' beside a layer; allowed: with a predictor",
    ),
    (
        [{"name": "x", "kv": "reuse", "engine": "tiny", "decode": {"exit": {"layer": 3}}}],
        "decode.exit: got it with engine: tiny; allowed: with engine: transformers",
    ),
    ([{"name": "x", "kv": "reuse", "decode": {"weights": "int2"}}], "decode.weights: got 'int2' (text); allowed: same"),
    ([{"name": "x", "decode": {"weights": "int8"}}], "decode: sessions have these settings"),
    ([{"name": "x", "text": "mask"}], "text: mask is read by a session that keeps all of it"),
    ([{"name": "x", "kv": {"evict": "recency"}, "text": "compact"}], "text: compact is read by a session"),
    ([{"name": "x", "prune": "magic"}], "compositions.x.prune: unknown scorer 'magic'; allowed: attention"),
    ([{"name": "x", "prune": "learned"}], "mode x needs a trained pruner; give pruner: FOLDER"),
    ([{"name": "x", "kv": {"evict": "learned"}}], "mode x needs a trained pruner; give pruner: FOLDER"),
    ([{"name": "x", "kv": {"evict": "p"}, "prune": "learned"}], "allowed: one pruner in a mode"),
    ([{"name": "x", "engine": "abacus"}], "unknown engine 'abacus'; allowed: llamacpp, tiny, transformers"),
]


@pytest.mark.parametrize(("modes", "words"), MISTAKES, ids=[words for _, words in MISTAKES])
def test_mistakes_are_one_line(tmp_path: Path, modes: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, modes)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_parts_that_nobody_plays_and_batches(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compositions: 'x' is none of the modes"):
        config(tmp_path, ["full"], compositions={"x": {"kv": "reuse"}})
    with pytest.raises(ConfigError, match="batch: got 2 with mode x"):
        config(tmp_path, [{"name": "x", "prune": "random"}], batch=2)
    assert config(tmp_path, [INT8], batch=2).batch == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [("expert", "the expert plays as the mode expert; allowed: cooperative, llm"), ("poet", "'poet' is not a")],
)
def test_planners_that_a_run_cannot_have(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"planner\.name: {words}"):
        config(tmp_path, ["full"], planner={"name": name})
