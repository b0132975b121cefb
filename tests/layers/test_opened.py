"""Plans by name: opened with a model, named by modes, and served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from erecap.budget import Budget
from erecap.config import load_run
from erecap.config.composition import ModeParts
from erecap.config.modes import parse_mode
from erecap.config.run import BudgetSettings, RunConfig
from erecap.errors import ConfigError, ModelError
from erecap.language_models.build import CallSettings, ModelSettings, OpenedModel, build_language_model, open_model
from erecap.layers import Base, LayerPlan, load_plan, plan_of, save_plan
from erecap.models import fingerprint
from erecap.rollout.run_folder.identity import identity_of, weights_of
from erecap.serving.opening import open_engine
from erecap.session.session import ReplanSession
from erecap.tokens.scoring.learned import LearnedScorer
from erecap.tokens.scoring.pruner_files import save_pruner
from tests.context.small_tokenizers import byte_level
from tests.layers.plans import PLANS, identities
from tests.session.chats import model, start, turn
from tests.tokens.models import LAYERS, random_pruner

NEW = 8
PASSED = {"test": {"rankers": {"learned": {"kl": 0.1}, "random": {"kl": 0.2}}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny")
    model().save_pretrained(made)
    byte_level().save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def plans(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of the plans, for the model in `folder`."""
    place = tmp_path_factory.mktemp("plans")
    for kind, plan in PLANS.items():
        parts = {name: getattr(plan, name) for name in ("blocks", "attention", "mlp", "heads", "channels")}
        save_plan(place / kind, LayerPlan(LAYERS, **parts, base=Base("tiny", fingerprint(folder))))
    return {kind: str(place / kind) for kind in PLANS}


def opened_with(folder: Path, plan: str | None) -> OpenedModel:
    return open_model(ModelSettings(str(folder), dtype="float32", device="cpu", layers=plan))


def answers(language_model: Any) -> list[str]:
    language_model.reset()
    messages, found = start(), []
    for number in range(3):
        found.append(language_model.generate(messages, max_new_tokens=NEW).text)
        messages += turn(found[-1], number)
    return found


@pytest.mark.parametrize("mode", ["full", "prune[recency]", "reuse", "erecap", "mask"])
@pytest.mark.parametrize("kind", ["blocks", "all"])
def test_every_mode_answers_as_on_the_whole_model_with_identities(
    kind: str, mode: str, folder: Path, plans: dict[str, str]
) -> None:
    from erecap.config.run import PruneSettings

    # Blocks that are out shift the stages behind them.
    stages, kept = [3, 7], PLANS[kind].kept
    whole = CallSettings(budget=BudgetSettings(kv_tokens=120), prune=PruneSettings(stages=stages, keep=0.6))
    moved = PruneSettings(stages=[sum(layer < stage for layer in kept) for stage in stages], keep=0.6)
    found = answers(
        build_language_model(
            opened_with(folder, plans[kind]), parse_mode(mode), CallSettings(budget=whole.budget, prune=moved)
        )
    )
    reference = opened_with(folder, None)
    with identities(reference.model, PLANS[kind]):
        assert answers(build_language_model(reference, parse_mode(mode), whole)) == found


def test_an_opened_model_says_which_plan_it_has(folder: Path, plans: dict[str, str]) -> None:
    dense, opened = opened_with(folder, None), opened_with(folder, plans["blocks"])
    assert "plan" not in dense.facts and dense.plan_hash is None and dense.cost_print == dense.fingerprint
    assert opened.facts["plan"]["name"] == "blocks" and opened.plan_hash == opened.facts["plan"]["hash"]
    assert opened.facts["layers"] == LAYERS - 3 and opened.facts["parameters"] < dense.facts["parameters"]
    assert opened.fingerprint == dense.fingerprint and opened.cost_print not in (dense.cost_print, opened.fingerprint)
    assert opened.with_layers(plans["blocks"]) is opened and opened.with_layers(None) is opened
    with pytest.raises(ConfigError, match="layers: the model was opened with plan blocks, a mode names"):
        opened.with_layers(plans["mlp"])
    with pytest.raises(ConfigError, match="layer plan nowhere: no such folder"):
        dense.with_layers("nowhere")


def test_modes_with_plans_of_their_own_stand_beside_the_whole_model(folder: Path, plans: dict[str, str]) -> None:
    opened = opened_with(folder, None)
    dense = answers(build_language_model(opened, parse_mode("reuse"), CallSettings()))
    found = {}
    for kind in ("mlp", "all"):
        mode = ModeParts.model_validate({"kv": "reuse", "layers": plans[kind]}).mode("thin")
        found[kind] = answers(build_language_model(opened, mode, CallSettings()))
        same = answers(build_language_model(opened_with(folder, plans[kind]), parse_mode("reuse"), CallSettings()))
        assert found[kind] == same
        run_s = answers(build_language_model(opened, parse_mode("reuse"), CallSettings(layers=plans[kind])))
        assert run_s == found[kind]
    assert dense == answers(build_language_model(opened, parse_mode("reuse"), CallSettings()))
    assert found["mlp"] != found["all"] and dense not in found.values() and plan_of(opened.model) is None
    planned = opened.with_layers(plans["mlp"])
    assert planned is opened.with_layers(plans["mlp"])
    assert planned.model.model.embed_tokens.weight is opened.model.model.embed_tokens.weight


def test_a_plan_for_another_base_is_refused_when_it_is_opened(
    folder: Path, plans: dict[str, str], tmp_path: Path
) -> None:
    other = model("llama").state_dict()
    shutil.copytree(folder, tmp_path / "other")
    with torch.no_grad():
        changed = type(model())(model().config)
        changed.load_state_dict({name: tensor * 1.01 for name, tensor in other.items()})
    changed.save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="the layer plan was made for tiny, weights sha256"):
        opened_with(tmp_path / "other", plans["mlp"])


def test_a_trained_pruner_moves_to_the_layers_that_are_left(folder: Path, tmp_path: Path) -> None:
    save_pruner(tmp_path / "pruner", random_pruner((1, 2, 3, 4, 6)), {**PASSED, "base": {"hash": fingerprint(folder)}})
    base = Base("tiny", fingerprint(folder))
    save_plan(tmp_path / "front", LayerPlan(LAYERS, blocks=(5,), base=base))
    opened = opened_with(folder, str(tmp_path / "front"))
    scorer = opened.learned_scorer(str(tmp_path / "pruner"))
    assert scorer.pruner.stages == (1, 2, 3, 4, 5) and scorer.layer == 5
    whole = random_pruner((1, 2, 3, 4, 6))
    hidden = torch.randn(1, 4, 32)
    assert torch.equal(scorer.pruner(5, hidden), whole(6, hidden))
    session = ReplanSession(opened.model, opened.tokenizer, budget=100, evict_by=scorer)
    for number in range(4):
        session.generate([*start(), *turn("go", number)], max_new_tokens=NEW)
    assert isinstance(scorer, LearnedScorer) and session.cache.read_scores is not None
    by_name = ReplanSession(opened.model, opened.tokenizer, budget=100, evict_by=str(tmp_path / "pruner"))
    assert by_name.cache.read_scores.layer == 5
    save_plan(tmp_path / "middle", LayerPlan(LAYERS, blocks=(2,), base=base))
    message = r"its stages 1, 2, 3, 4, 6 would be 1, 2, 2, 3, 5 of 7 layers; they have to rise"
    with pytest.raises(ModelError, match=message):
        opened_with(folder, str(tmp_path / "middle")).learned_scorer(str(tmp_path / "pruner"))


def test_a_server_runs_with_a_plan(folder: Path, plans: dict[str, str]) -> None:
    engine = open_engine(
        str(folder), adapter=None, evict_by="recency", budget=Budget(None), dtype="float32", device="cpu",
        decode_weights="same", threads=1, layers=plans["all"], say=lambda line: None,
    )  # fmt: skip
    session = engine.store.take(start()).session
    text = session.generate(start(), max_new_tokens=NEW).text
    assert plan_of(session.model) is not None
    with identities(model(), PLANS["all"]):
        assert ReplanSession(model(), byte_level()).generate(start(), max_new_tokens=NEW).text == text


def run_config(folder: Path, **values: Any) -> RunConfig:
    given = {"name": "r", "suites": ["household-demo"], "modes": ["full"], "model": str(folder), **values}
    return RunConfig.model_validate(given)


def config_hash(config: RunConfig, mode: str) -> str:
    from erecap.config import load_suite

    return identity_of(config, load_suite("household-demo"), config.mode(mode), weights_of(config)).config


def test_a_plan_is_part_of_an_episode_s_identity_by_its_content(
    folder: Path, plans: dict[str, str], tmp_path: Path
) -> None:
    plain = config_hash(run_config(folder), "full")
    found = {kind: config_hash(run_config(folder, layers=plans[kind]), "full") for kind in PLANS}
    assert len({plain, *found.values()}) == 1 + len(PLANS)
    shutil.copytree(plans["mlp"], tmp_path / "elsewhere")
    assert config_hash(run_config(folder, layers=str(tmp_path / "elsewhere")), "full") == found["mlp"]
    parts = [{"name": "thin", "layers": plans["mlp"]}, {"name": "thick"}]
    own = run_config(folder, modes=["full", *parts])
    assert config_hash(own, "full") == plain and config_hash(own, "thin") != config_hash(own, "thick")
    # A mode's own plan and the run's are one thing.
    assert config_hash(run_config(folder, modes=["full", parts[1]], layers=plans["mlp"]), "thick") == config_hash(
        own, "thin"
    )
    assert own.plans() == {None, plans["mlp"]} and own.plan_of(own.mode("thin")) == plans["mlp"]
    expert = run_config(folder, modes=["expert"], layers=plans["mlp"])
    assert config_hash(expert, "expert") == config_hash(run_config(folder, modes=["expert"]), "expert")


def test_configurations_with_plans(folder: Path, plans: dict[str, str]) -> None:
    assert "layers" not in run_config(folder).model_dump(mode="json")
    assert run_config(folder, layers="x").model_dump(mode="json")["layers"] == "x"
    assert load_run("smoke", ["layers=runs/thin"]).layers == "runs/thin"
    thin = {"name": "thin", "kv": "reuse", "layers": plans["mlp"]}
    with pytest.raises(ValueError, match="batch: got 2 with modes of several layer plans; allowed: 1, or one plan"):
        run_config(folder, modes=["reuse", thin], batch=2)
    run_config(folder, modes=["reuse", thin], batch=2, layers=plans["mlp"])
    with pytest.raises(ValueError, match="layers: mode other has another engine"):
        run_config(folder, modes=[{"name": "other", "kv": "reuse", "engine": "tiny"}], layers=plans["mlp"])


def test_the_plan_file_is_small(plans: dict[str, str]) -> None:
    assert sum(path.stat().st_size for path in Path(plans["all"]).iterdir()) < 3000
    assert load_plan(plans["all"]).structure() == PLANS["all"].structure()
    assert json.loads((Path(plans["all"]) / "card.json").read_text())["out"] == PLANS["all"].words()
