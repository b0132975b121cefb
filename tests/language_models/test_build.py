"""Building language models: one for each mode, on one opened model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from erecap.budget import Budget
from erecap.calibration.calibrate import Calibration
from erecap.calibration.store import save_cost_model
from erecap.config.composition import ModeParts
from erecap.config.modes import Mode, mode_names, parse_mode
from erecap.config.run import BudgetSettings, PruneSettings, ScheduleSettings
from erecap.context import Context, Situation
from erecap.cost.machine import cost_key
from erecap.cost.model import CostModel
from erecap.errors import ConfigError, ModelError
from erecap.generation import Generation, Timing, Usage
from erecap.language_models.build import (
    CallSettings,
    ModelSettings,
    OpenedModel,
    build_language_model,
    open_model,
    session_options,
)
from erecap.language_models.compacted import CompactedSessions
from erecap.language_models.masked import MaskedSessions
from erecap.language_models.opened import warm_up
from erecap.language_models.per_episode import EpisodeSessions
from erecap.language_models.scripted import ScriptedModel
from erecap.language_models.transformers import TransformersLanguageModel
from erecap.models import fingerprint
from erecap.planners.llm import LLMPlanner
from erecap.protocols import LanguageModel
from erecap.registries import DRAFTS
from erecap.session import ReplanSession
from erecap.tokens import PruneConfig
from erecap.tokens.scoring.learned import LearnedScorer
from erecap.tokens.scoring.pruner_files import save_pruner
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.tokens.models import random_pruner

PASSED = {"test": {"rankers": {"learned": {"kl": 0.1}, "random": {"kl": 0.2}}}}
MODES = [name for name in mode_names() if name != "expert"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny")
    model().save_pretrained(made)
    byte_level().save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def opened(folder: Path) -> OpenedModel:
    return open_model(ModelSettings(str(folder), dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def pruner(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("pruner")
    save_pruner(place, random_pruner(), {**PASSED, "base": {"hash": fingerprint(folder)}})
    return str(place)


def settings(**changes: Any) -> CallSettings:
    values = {"budget": BudgetSettings(kv_tokens=150), "prune": PruneSettings(stages=[2, 4], keep=0.5)}
    return CallSettings(**values | changes)  # type: ignore[arg-type]


def mode(**parts: Any) -> Mode:
    return ModeParts.model_validate(parts).mode("mine")


def played(language_model: LanguageModel) -> list[Generation]:
    language_model.reset()
    messages, found = start(), []
    for number in range(5):
        found.append(language_model.generate(messages, max_new_tokens=6))
        messages += turn(found[-1].text, number)
    return found


def test_an_opened_model_is_described(opened: OpenedModel, folder: Path) -> None:
    assert opened.fingerprint == fingerprint(folder) and opened.adapter_hash is None
    assert opened.facts | {"parameters": 0} == {
        "name": folder.name, "hash": fingerprint(folder), "adapter": None, "dtype": "float32", "layers": 8,
        "hidden_size": 32, "intermediate_size": 48, "heads": 4, "kv_heads": 2, "head_dim": 8,
        "vocab_size": len(byte_level()), "parameters": 0,
    }  # fmt: skip
    assert opened.facts["parameters"] == sum(tensor.numel() for tensor in opened.model.parameters())


def test_a_served_mode_asks_no_model_of_this_process(opened: OpenedModel) -> None:
    with pytest.raises(ConfigError, match="mode served: it asks a server"):
        build_language_model(opened, parse_mode("served"), settings())


@pytest.mark.parametrize("name", [name for name in MODES if name != "served"])
def test_every_preset_is_built_and_answers(name: str, opened: OpenedModel, pruner: str) -> None:
    built = build_language_model(opened, parse_mode(name), settings(pruner=pruner))
    assert isinstance(built, LanguageModel) and built.tokenizer is opened.tokenizer and not built.takes_old_plan
    warm_up(built)
    calls = played(built)
    last = calls[-1].usage
    assert (last.reused_tokens > 0) == parse_mode(name).session
    whole = all(max(call.usage.kept_per_layer) == call.usage.prompt_tokens for call in calls)
    assert whole == (name in ("full", "reuse") or name.startswith("prune"))  # the first layer reads all
    pruned = min(last.kept_per_layer) < max(last.kept_per_layer)
    assert pruned == name.startswith("prune")
    again = played(built)
    assert again[0].usage.reused_tokens == 0 and [call.text for call in again] == [call.text for call in calls]


def test_parts_reach_the_session(opened: OpenedModel, pruner: str) -> None:
    kv, decode = {"evict": "attention", "stale_first": True}, {"weights": "int8", "draft": False}
    made = build_language_model(opened, mode(kv=kv, decode=decode, prune="random"), settings(pruner=pruner, seed=4))
    assert isinstance(made, EpisodeSessions)
    twin = ReplanSession(
        opened.model, opened.tokenizer, budget=Budget(150), evict_by="attention", stale_first=True, draft=False, seed=4,
        decode_weights="int8", prune=PruneConfig("random", 0.5, (2, 4), seed=4),
    )  # fmt: skip
    calls = played(made)
    assert sum(call.usage.drafted_tokens for call in calls) == 0 and calls[-1].usage.evicted_tokens
    messages = start()
    for number, call in enumerate(calls):
        assert twin.generate(messages, max_new_tokens=6).text == call.text
        messages += turn(call.text, number)
    assert twin.cache.stored_index().tolist() == made.session.cache.stored_index().tolist()


def test_ways_to_draft_reach_the_session_and_episodes_share_answers_only_where_asked(
    opened: OpenedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERECAP_CACHE", str(tmp_path))

    def passes(calls: list[Generation]) -> int:
        return sum(call.usage.decode_passes for call in calls)

    def built(draft: bool | str) -> EpisodeSessions:
        made = build_language_model(opened, mode(kv="reuse", decode={"draft": draft}), settings())
        assert isinstance(made, EpisodeSessions) and made.session.draft == draft
        return made

    plain = played(built(False))
    for way in (True, *DRAFTS):
        made = built(way)
        first, again = played(made), played(made)
        assert [call.text for call in first] == [call.text for call in again] == [call.text for call in plain]
        assert (passes(again) < passes(first)) == (way in ("automaton-run", "suffix")) or passes(first) == 0
    # Costs that were calibrated for this model, for ways that are named; `true` takes the same passes everywhere.
    dear = CostModel(prefill=(0.0,) * 5, decode=(1.0, 0.0, 0.0, 0.0, 0.0, 2.0, 2.0, 0.0))
    key = cost_key(opened.model, "same", weights=opened.cost_print)
    save_cost_model(key, Calibration(dear, {}, (), rounds=3, seconds=1.0, noise=0.0))
    assert sum(call.usage.drafted_tokens for call in played(built("automaton"))) == 0
    assert sum(call.usage.drafted_tokens for call in played(built(True))) > 0


@pytest.mark.parametrize("name", ["reuse", "erecap", "recency", "random", "attention", "mask"])
def test_the_options_of_the_presets_are_those_that_they_had(name: str) -> None:
    options = session_options(parse_mode(name), budget=Budget(99), seed=3, decode_weights="int8")
    assert options == {
        "budget": None if name in ("reuse", "mask") else Budget(99),
        "evict_by": name if name in ("random", "attention") else "recency",
        "stale_first": name == "erecap",
        "draft": True,
        "decode_weights": "int8",
        "seed": 3,
    }


def test_trained_pruners_of_the_run_and_of_a_mode(opened: OpenedModel, pruner: str, folder: Path) -> None:
    def ranking(of: Mode, **changes: Any) -> Any:
        built = build_language_model(opened, of, settings(**changes))
        assert isinstance(built, EpisodeSessions)
        scores = built.session.cache.read_scores
        return None if scores is None else scores.scorer

    by_run = ranking(parse_mode("erecap"), pruner=pruner)
    assert isinstance(by_run, LearnedScorer)
    assert ranking(mode(kv={"evict": "learned"}), pruner=pruner) is by_run  # loaded once
    assert ranking(mode(kv={"evict": pruner})) is by_run
    assert ranking(parse_mode("erecap")) is None and ranking(parse_mode("recency"), pruner=pruner) is None
    with pytest.raises(ConfigError, match="pruner nobody: no such folder"):
        ranking(mode(kv={"evict": "nobody"}))


def test_a_pruner_of_another_model_is_refused(opened: OpenedModel, tmp_path: Path) -> None:
    save_pruner(tmp_path, random_pruner(), {**PASSED, "base": {"hash": "sha256:other"}})
    for of in (parse_mode("erecap"), parse_mode("prune[learned]"), mode(kv={"evict": str(tmp_path)})):
        with pytest.raises(ModelError, match="trained for weights sha256:other"):
            build_language_model(opened, of, settings(pruner=str(tmp_path)))


def test_what_does_not_fit_is_one_line(opened: OpenedModel) -> None:
    with pytest.raises(ConfigError, match="prune: stage at layer 9, but the model has layers 0 to 7"):
        build_language_model(opened, parse_mode("prune[random]"), settings(prune=PruneSettings(stages=[9])))
    with pytest.raises(ConfigError, match="mode mine: the engine 'tiny' serves a TinyModel, got LlamaForCausalLM"):
        build_language_model(opened, mode(kv="reuse", engine="tiny"), settings())
    with pytest.raises(ConfigError, match="mode expert: it asks no model"):
        build_language_model(opened, parse_mode("expert"), settings())
    with pytest.raises(ConfigError, match="schedule: deadline_ms needs predicted times"):
        build_language_model(opened, parse_mode("erecap"), settings(schedule=ScheduleSettings(deadline_ms=5.0)))


@pytest.mark.parametrize("parts", [{"kv": "reuse"}, {"kv": "reuse", "text": "mask"}, {"kv": {"evict": None}}])
def test_under_a_schedule_a_model_takes_the_old_plan(opened: OpenedModel, parts: dict[str, Any]) -> None:
    built = build_language_model(opened, mode(**parts), settings(schedule=ScheduleSettings()))
    assert built.takes_old_plan
    decided = built.generate(start(), max_new_tokens=4, old_plan="look", trigger="failed")  # type: ignore[call-arg]
    assert decided.decision is not None and decided.decision.action == "append"


def test_every_kind_is_a_language_model() -> None:
    kinds: list[Any] = [
        ScriptedModel(["look"]),
        TransformersLanguageModel(model(), byte_level()),
        EpisodeSessions(model(), byte_level()),
        MaskedSessions(model(), byte_level(), budget=Budget(99)),
        CompactedSessions(model(), byte_level(), budget=Budget(99)),
        ReplanSession(model(), byte_level()),
    ]
    for kind in kinds:
        assert isinstance(kind, LanguageModel), type(kind)
        assert kind.trace is False and kind.takes_old_plan is False
        kind.reset()


class Noting(ScriptedModel):
    """Notes which extra arguments it is called with."""

    def generate(self, messages: Any, **options: Any) -> Generation:  # type: ignore[override]
        self.options = options
        return Generation("look", "stop", Usage(), Timing())


@pytest.mark.parametrize("takes", [False, True])
def test_a_planner_hands_over_the_old_plan_where_it_is_taken(takes: bool) -> None:
    asked = Noting(["look"])
    asked.takes_old_plan = takes
    context = Context("see", situation=Situation(skills=("look",)))
    context.remaining, context.trigger = ("look", "open door"), "period"
    assert LLMPlanner(asked).plan(context).steps == ("look",)
    handed = {key: asked.options[key] for key in ("old_plan", "trigger") if key in asked.options}
    assert handed == ({"old_plan": "look\nopen door", "trigger": "period"} if takes else {})


def test_a_session_traces_as_it_is_told() -> None:
    session = ReplanSession(model(), byte_level())
    assert not session.generate(start(), max_new_tokens=2).pieces
    session.trace = True
    pieces = session.generate(start(), max_new_tokens=2).pieces
    assert "cool the apple" in "".join(piece.text for piece in pieces)
    session.reset()
    assert session.generate(start(), max_new_tokens=2).usage.reused_tokens == 0
