"""Sessions that a controller steers: levers between calls, the price of a switch, and what cannot be served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from erecap.budget import Budget
from erecap.config.controller import ControllerSettings
from erecap.config.modes import parse_mode
from erecap.config.run import BudgetSettings, PruneSettings
from erecap.errors import BudgetError, ConfigError, ModelError
from erecap.generation import Generation
from erecap.language_models.build import CallSettings, ModelSettings, OpenedModel, build_language_model, open_model
from erecap.language_models.controlled import (
    Chooser,
    ControlledSessions,
    describe_controller,
    folder_digests,
    open_chooser,
    refuse_unservable,
)
from erecap.language_models.lever_session import LeverSession
from erecap.layers import Base, LayerPlan, save_plan
from erecap.models import fingerprint
from erecap.protocols import LanguageModel
from erecap.scheduling.actions import make_actions
from erecap.scheduling.checkpoint import TrainedController, save_controller
from erecap.scheduling.controllers import LearnerSettings, make_controller
from erecap.scheduling.features import Normaliser, feature_names
from erecap.scheduling.hardware import Hardware, HardwareMonitor
from erecap.session import ReplanSession
from erecap.session.looking_ahead import tokens_of_call
from erecap.session.teacher_forcing import plan_loss
from tests.context.small_tokenizers import byte_level
from tests.decoding.exiting import folder as exits_folder
from tests.session.chats import model, start, turn
from tests.tokens.models import LAYERS

OWN: dict[str, Any] = {
    "budget": Budget.auto(), "evict_by": "recency", "stale_first": True, "draft": True, "decode_weights": "same",
    "seed": 0, "prune": None, "scheduler": None, "engine": "transformers",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny")
    model().save_pretrained(made / "model")
    byte_level().save_pretrained(made / "model")
    save_plan(made / "thin", LayerPlan(LAYERS, blocks=(2, 5), base=Base("tiny", fingerprint(made / "model"))))
    return made


@pytest.fixture(scope="module")
def opened(folder: Path) -> OpenedModel:
    return open_model(ModelSettings(str(folder / "model"), dtype="float32", device="cpu"))


def actions(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        "dense": {},
        "small": {"kv_tokens": 100},
        "thin": {"layers": str(folder / "thin")},
        "plain": {"draft": False},
    }


class Busy(HardwareMonitor):
    """A machine that is as busy as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.others = 0.0

    def read(self) -> Hardware:
        return Hardware(cpu_others=self.others, memory_free=0.5)


def trained(opened: OpenedModel, folder: Path, stated: dict[str, dict[str, Any]]) -> TrainedController:
    """A controller with a planted rule: when other programs are busy the second action, else the first."""
    made = make_actions(stated, "here")
    names = [action.name for action in made]
    columns = feature_names(names)
    learner = make_controller("linucb", len(columns), len(names), LearnerSettings())
    size = len(columns) + 1  # a constant comes last
    sums = torch.full((len(names), size), 0.0, dtype=torch.float64)
    sums[0, -1], sums[1, -1], sums[2:, -1] = 0.0, -1.0, -5.0
    sums[1, columns.index("cpu_others")] = 2.0
    learner.load({"inverse": torch.eye(size, dtype=torch.float64).repeat(len(names), 1, 1), "sums": sums})
    base = {"name": "tiny", "hash": opened.fingerprint, "adapter": None}
    # Wide, so that no state of these tests is outside of what was trained; the share of the processor as it is.
    wide = [1.0 if column == "cpu_others" else 1e6 for column in columns]
    normaliser = Normaliser((0.0,) * len(columns), tuple(wide))
    return TrainedController(learner, made, normaliser, LearnerSettings(), (100.0,), base, folders=folder_digests(made))


def talk(asked: LanguageModel, calls: int, before: Any = lambda number: None) -> list[Generation]:
    asked.reset()
    messages, found = start(), []
    for number in range(calls):
        before(number)
        found.append(asked.generate(messages, max_new_tokens=6))
        messages += turn(found[-1].text, number)
    return found


def test_each_action_answers_as_a_session_with_its_levers(opened: OpenedModel, folder: Path) -> None:
    thin = opened.with_layers(str(folder / "thin"))
    twins = {
        "dense": ReplanSession(opened.model, opened.tokenizer, **OWN),
        "small": ReplanSession(opened.model, opened.tokenizer, **{**OWN, "budget": 100}),
        "plain": ReplanSession(opened.model, opened.tokenizer, **{**OWN, "draft": False}),
        "thin": ReplanSession(thin.model, thin.tokenizer, **OWN),
    }
    for action in make_actions(actions(folder), "here"):
        found = talk(ControlledSessions(opened, OWN, Chooser(None, action, None)), 4)
        expected = talk(twins[action.name], 4)
        assert [one.text for one in found] == [one.text for one in expected], action.name
        assert [one.usage for one in found] == [one.usage for one in expected], action.name
        assert all(one.control and one.control.action == action.name and not one.control.switched for one in found)
    assert len(found[0].usage.kept_per_layer) == LAYERS


def test_a_controller_follows_the_state_and_the_price_of_a_switch_is_counted(opened: OpenedModel, folder: Path) -> None:
    stated = {name: actions(folder)[name] for name in ("dense", "thin")}
    machine = Busy()
    asked = ControlledSessions(opened, OWN, Chooser(trained(opened, folder, stated), None, 100.0), monitor=machine)
    found = talk(asked, 5, before=lambda number: setattr(machine, "others", float(number in (2, 3))))
    assert [one.control.action for one in found if one.control] == ["dense", "dense", "thin", "thin", "dense"]
    assert [one.control.switched for one in found if one.control] == [False, False, True, False, True]
    layers = [len(one.usage.kept_per_layer) for one in found]
    assert layers == [LAYERS, LAYERS, LAYERS - 2, LAYERS - 2, LAYERS]
    for one, before in zip(found[1:], found, strict=False):
        assert one.control is not None
        read = before.usage.prompt_tokens + before.usage.completion_tokens
        if one.control.switched:
            # All of the conversation, the last answer included, is read again, and counts as new.
            assert one.control.reread_tokens >= read - 2 and one.usage.new_tokens > one.control.reread_tokens
            assert one.timing.total_ms > one.control.switch_ms > 0
            assert one.usage.new_tokens + one.usage.reused_tokens == one.usage.prompt_tokens
        else:
            assert one.control.reread_tokens == 0 and one.usage.new_tokens < read
    asked.reset()
    machine.others = 50.0  # no state of training was like that
    outside = asked.generate(start(), max_new_tokens=4).control
    assert outside is not None and outside.action == "dense"
    assert outside.reason == "cpu_others is outside of what was trained, so dense is taken, the best fixed action"
    assert "other programs take 100% of the processor" in found[2].control.reason  # type: ignore[union-attr]
    # What the switched session answers is the thin model's answer to the whole chat.
    thin = opened.with_layers(str(folder / "thin"))
    messages = start()
    for number in range(2):
        messages += turn(found[number].text, number)
    alone = ReplanSession(thin.model, thin.tokenizer, **OWN).generate(messages, max_new_tokens=6)
    assert alone.text == found[2].text


def test_a_smaller_budget_evicts_at_once_and_a_larger_one_reads_again(opened: OpenedModel, folder: Path) -> None:
    lever = LeverSession(opened, OWN)
    messages = [*start(), *turn("go to shelf 1", 1), *turn("go to shelf 2", 2)]
    assert not lever.apply({}, messages).anew
    assert lever.session is not None
    first, tokens = lever.session, lever.session.engine.tokens
    assert tokens > 110
    assert not lever.apply({"kv_tokens": 100}, messages).anew
    assert lever.session is first and first.engine.stored().most == 100 and lever.evicted
    assert lever.apply({"kv_tokens": 110}, messages).anew
    assert lever.session is not first and lever.session.engine.stored().most == 110
    assert lever.apply({}, messages).reread_tokens == tokens and not lever.evicted
    # Nothing was evicted, so nothing has to be read again.
    assert not lever.apply({"kv_tokens": 1000}, messages).anew and not lever.apply({"draft": False}, messages).anew
    assert lever.session.draft is False and lever.session.budget == Budget.auto()
    with pytest.raises(BudgetError, match="system, goal and format take"):
        lever.apply({"kv_tokens": 16}, messages)
    assert lever.session.budget == Budget.auto() and lever.levers == {"draft": False} and not lever.evicted


def test_levers_change_together_or_not_at_all(opened: OpenedModel) -> None:
    lever = LeverSession(opened, OWN)
    lever.apply({"kv_tokens": 200}, start())
    with pytest.raises(BudgetError):
        lever.apply({"draft": False, "kv_tokens": 16}, start())
    assert lever.session is not None
    assert lever.session.draft is True and lever.session.budget == Budget(200) and lever.levers == {"kv_tokens": 200}


def test_a_switch_past_the_window_leaves_old_messages_out(folder: Path) -> None:
    small = OpenedModel(model("llama", 256), byte_level(), {})
    machine, own = Busy(), {**OWN, "budget": None}
    stated = {"dense": {}, "keep": {"prefill_keep": 0.5}}
    made = replace(trained(OpenedModel(small.model, small.tokenizer, {"hash": "x", "adapter": None}), folder, stated))
    asked = ControlledSessions(small, own, Chooser(made, None, 100.0), monitor=machine)
    found = talk(asked, 9, before=lambda number: setattr(machine, "others", float(number > 6)))
    assert [one.control.switched for one in found if one.control] == [number == 7 for number in range(9)]
    assert found[7].usage.overflow_messages and found[7].control.reread_tokens == 0  # type: ignore[union-attr]
    plain = talk(ReplanSession(small.model, small.tokenizer, **own), 7)
    assert [one.text for one in found[:7]] == [one.text for one in plain]


def test_a_fork_of_levers_is_independent(opened: OpenedModel) -> None:
    lever = LeverSession(opened, OWN)
    messages = [*start(), *turn("go to shelf 1", 1), *turn("go to shelf 2", 2)]
    lever.apply({}, messages)
    twin = lever.fork()
    twin.apply({"kv_tokens": 90}, messages)
    assert twin.evicted and not lever.evicted and lever.session is not None
    assert lever.session.budget == Budget.auto() and lever.levers == {}


def test_the_read_ahead_of_an_episode_keeps_the_session(opened: OpenedModel, folder: Path) -> None:
    action = make_actions(actions(folder), "here")[1]
    asked = ControlledSessions(opened, OWN, Chooser(None, action, None))
    assert asked.stored_tokens == 0
    read = asked.read(start())
    assert asked.stored_tokens == read > 0
    answer = asked.generate(start(), max_new_tokens=6)
    assert answer.usage.reused_tokens >= read - 1 and answer.control is not None and not answer.control.reread_tokens
    asked.reset()
    assert asked.stored_tokens == 0


def settings(**changes: Any) -> CallSettings:
    values = {"budget": BudgetSettings(kv_tokens=150), "prune": PruneSettings(stages=[2, 4], keep=0.5)}
    return CallSettings(**values | changes)  # type: ignore[arg-type]


def fixed(folder: Path, name: str, **levers: Any) -> ControllerSettings:
    import yaml

    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({name: levers}))
    return ControllerSettings(fixed=name, actions=str(path))


def test_a_mode_is_built_with_its_controller(opened: OpenedModel, folder: Path) -> None:
    controller = fixed(folder, "tight", kv_tokens=100)
    built = build_language_model(opened, parse_mode("erecap"), settings(controller=controller))
    assert isinstance(built, ControlledSessions) and isinstance(built, LanguageModel)
    assert max(talk(built, 4)[-1].usage.kept_per_layer) <= 150  # between calls it is 100; a call needs room
    own = replace(parse_mode("erecap"), controller=fixed(folder, "loose", kv_tokens=140))
    first = talk(build_language_model(opened, own, settings(controller=controller)), 1)[0]
    assert first.control is not None and first.control.action == "loose"  # the mode's own comes before the run's


@pytest.mark.parametrize(
    ("mode", "levers", "said"),
    [
        ("reuse", {"kv_tokens": 100}, "mode reuse cannot have kv_tokens of action bad: the mode evicts nothing"),
        (
            "erecap",
            {"layers": "THIN"},
            "mode erecap cannot have layers of action bad: the mode has a layer plan itself",
        ),
        ("erecap", {"prefill_keep": 0.5}, "prefill_keep of action bad: the mode prunes by recency itself"),
    ],
)
def test_what_a_mode_cannot_have_is_refused_when_it_is_built(
    mode: str, levers: dict[str, Any], said: str, opened: OpenedModel, folder: Path
) -> None:
    levers = {name: str(folder / "thin") if value == "THIN" else value for name, value in levers.items()}
    of = parse_mode(mode)
    if "layers" in levers:
        of = replace(of, layers=str(folder / "thin"))
    if "prefill_keep" in levers:
        of = replace(of, prune="recency")
    with pytest.raises(ConfigError, match=said) as refused:
        build_language_model(opened, of, settings(controller=fixed(folder, "bad", **levers)))
    assert "\n" not in str(refused.value)


def test_a_controller_of_another_model_or_plan_is_refused(opened: OpenedModel, folder: Path, tmp_path: Path) -> None:
    stated = {name: actions(folder)[name] for name in ("dense", "thin")}
    made = trained(opened, folder, stated)
    save_controller(tmp_path, made)
    chooser = open_chooser(ControllerSettings(checkpoint=str(tmp_path)))
    mode = parse_mode("reuse")
    refuse_unservable(chooser, mode, opened)
    assert chooser.slo_ms == 100.0
    forced = open_chooser(ControllerSettings(checkpoint=str(tmp_path), fixed="thin", slo_ms=7.0))
    assert [action.name for action in forced.actions] == ["thin"]
    with pytest.raises(ConfigError, match=r"controller.fixed: no action 'fast'; allowed: dense, thin"):
        open_chooser(ControllerSettings(checkpoint=str(tmp_path), fixed="fast"))
    with pytest.raises(ConfigError, match="controller nowhere: no such folder"):
        open_chooser(ControllerSettings(checkpoint="nowhere"))
    with pytest.raises(ModelError, match="trained on the whole model, mode reuse has a layer plan; force an action"):
        refuse_unservable(chooser, mode, opened.with_layers(str(folder / "thin")))
    other = replace(chooser, trained=replace(made, base={**made.base, "adapter": "sha256:12"}))
    with pytest.raises(ModelError, match="trained on tiny with adapter sha256:12, this model has None"):
        refuse_unservable(other, mode, opened)
    moved = replace(chooser, trained=replace(made, folders={"thin/layers": "sha256:34"}))
    with pytest.raises(ModelError, match="the folder of thin/layers holds another plan than in training"):
        refuse_unservable(moved, mode, opened)


def test_a_forced_action_is_described_by_its_levers(folder: Path) -> None:
    first, second = (describe_controller(fixed(folder, "one", kv_tokens=tokens)) for tokens in (100, 101))
    assert first["name"] == second["name"] == "action one" and first["hash"] != second["hash"]
    assert describe_controller(fixed(folder, "one", kv_tokens=100)) == first
    assert describe_controller(ControllerSettings(fixed="dense"))["name"] == "action dense"


def test_the_loss_of_a_plan_is_that_of_teacher_forcing(opened: OpenedModel) -> None:
    plan = "go to shelf 1"
    session = ReplanSession(opened.model, opened.tokenizer)
    session.generate(start(), max_new_tokens=40, force=plan)
    assert session.plan_loss is None  # not asked for
    session.measures_loss = True
    session.generate(start(), max_new_tokens=40, force=plan)
    found = plan_loss(ReplanSession(opened.model, opened.tokenizer), start(), plan)
    assert found is not None and found > 0 and session.plan_loss == pytest.approx(found, rel=1e-4)
    text = session.generate(start(), max_new_tokens=6).text
    likely = session.plan_loss  # greedy choices are likelier than the text of somebody else
    assert text != plan and likely is not None and 0 < likely < found
    ids = opened.tokenizer(plan, add_special_tokens=False)["input_ids"]
    only = session.generate(start(), max_new_tokens=3, allowed_tokens=lambda out: [ids[len(out)]])
    assert only.usage.completion_tokens == 3 and session.plan_loss is None  # nothing was chosen among several


def test_tokens_of_a_call_are_known_before_it(opened: OpenedModel) -> None:
    session = ReplanSession(opened.model, opened.tokenizer)
    messages = start()
    for number in range(3):
        total, new = tokens_of_call(session, messages)
        answer = session.generate(messages, max_new_tokens=6)
        assert (total, new) == (answer.usage.prompt_tokens, answer.usage.new_tokens)
        messages += turn(answer.text, number)


def test_early_exit_is_a_lever_that_costs_nothing_and_changes_no_answer(opened: OpenedModel, tmp_path: Path) -> None:
    stated = {"dense": {}, "early": {"exit": {"layer": 3, "threshold": 0.0}, "draft": False}, "off": {"exit": False}}
    made = {action.name: action for action in make_actions(stated, "here")}
    assert made["early"].levers["exit"] == {"layer": 3, "threshold": 0.0}
    controlled = LeverSession(opened, OWN)
    plain = ReplanSession(opened.model, opened.tokenizer, **OWN)
    messages, tried = start(), []
    for number, name in enumerate(("dense", "early", "off", "early")):
        switch = controlled.apply(made[name].levers, messages[:-1])
        assert not switch.anew and controlled.session is not None
        answer = controlled.session.generate(messages, max_new_tokens=8)
        assert answer.text == plain.generate(messages, max_new_tokens=8).text
        tried.append(answer.usage.exit_bytes > 0)
        messages += turn(answer.text, number)
    assert tried == [False, True, False, True]
    with pytest.raises(ValueError, match="layer is 99"):
        controlled.apply({"exit": {"layer": 99}}, messages)
    assert controlled.levers == made["early"].levers
    path = exits_folder(tmp_path / "mine", opened.model, "never")
    by_predictor = make_actions({"trained": {"exit": str(path)}}, "here")
    assert list(folder_digests(by_predictor)) == ["trained/exit"] and not folder_digests(tuple(made.values()))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (True, "got True"),
        (None, "allowed: false, a predictor's name or folder, or settings"),
        ({"layer": 0}, "layer is 0; allowed: 1 or more"),
        ({"layer": 3, "lossless": False}, "lossless: false; allowed: early exit that is verified"),
        ({"depth": 3}, "unknown setting 'depth'"),
    ],
)
def test_what_is_no_early_exit_is_refused_in_an_action(value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_actions({"early": {"exit": value}}, "here")
