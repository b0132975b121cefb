"""The planners, the triggers, and the scripted model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from erecap.config import PlannerSettings
from erecap.context import Context, Situation
from erecap.errors import ConfigError, ModelError
from erecap.generation import Message
from erecap.language_models.scripted import ScriptedModel
from erecap.planners import PLANNERS
from erecap.planners.expert import ExpertPlanner
from erecap.planners.llm import LLMPlanner
from erecap.planners.triggers import REASONS, Triggers
from erecap.protocols import LanguageModel, Planner
from tests.context.small_tokenizers import byte_level
from tests.planners.situations import KITCHEN, kitchen

ASK: list[Message] = [{"role": "user", "content": "What now?"}]


# --- triggers


def test_triggers_in_order() -> None:
    triggers = Triggers(period=2)
    skills = ["look", "wait"]
    assert triggers.check(None, skills=skills, executed=0) == "start"
    assert triggers.check(["look"], skills=skills, executed=1, failed=True) == "failed"
    assert triggers.check([], skills=skills, executed=1) == "finished"
    assert triggers.check(["fly"], skills=skills, executed=2) == "contradicted"
    assert triggers.check(["look"], skills=skills, executed=2) == "period"
    assert triggers.check(["look"], skills=skills, executed=1) is None
    # A fresh plan is tried, whatever its first step.
    assert triggers.check(["fly"], skills=skills, executed=0) is None
    assert Triggers().check(["look"], skills=skills, executed=99) is None
    assert REASONS == ("start", "finished", "failed", "contradicted", "period")
    with pytest.raises(ConfigError, match="period is 0"):
        Triggers(period=0)


# --- planners


def test_expert() -> None:
    context = kitchen(Situation(skills=("look",), expert_actions=("a", "b", "c")))
    planner: Planner = ExpertPlanner(max_steps=2)
    assert planner.plan(context).steps == ("a", "b") and planner.plan(context).text == "a\nb"
    context.situation = KITCHEN
    assert planner.plan(context).problem == "the environment's expert gives no actions here"
    with pytest.raises(ConfigError, match="max_steps is 0"):
        ExpertPlanner(0)


def test_free_writing() -> None:
    model = ScriptedModel(["look\nopen fridge 1", "I would look."])
    planner = LLMPlanner(model)
    assert isinstance(planner, Planner) and isinstance(model, LanguageModel) and not planner.constrained
    plan = planner.plan(kitchen())
    assert plan.steps == ("look", "open fridge 1") and plan.generation is not None
    bad = planner.plan(kitchen())
    assert bad.steps == () and bad.text == "I would look." and "line 1 is not a known command" in str(bad.problem)
    assert [message["role"] for message in model.calls[0]] == ["system", "user"]


def test_constrained_writing() -> None:
    tokenizer = byte_level()
    wanted = "go to fridge 1\ntake mug 2 from cabinet 12"
    model = ScriptedModel([wanted, "fly away", "look\nfly away", "look\n" * 9], tokenizer=tokenizer)
    planner = LLMPlanner(model, max_new_tokens=100)
    assert planner.constrained
    assert planner.plan(kitchen()).steps == ("go to fridge 1", "take mug 2 from cabinet 12")
    for _ in range(2):
        plan = planner.plan(kitchen())
        assert plan.problem is None and plan.steps[0] in KITCHEN.skills
    assert planner.plan(kitchen()).steps == ("look",) * 5
    free = LLMPlanner(ScriptedModel(["fly away"], tokenizer=tokenizer), constrained=False)
    assert not free.constrained and free.plan(kitchen()).problem is not None


def test_nothing_to_do_is_a_problem_and_no_call() -> None:
    model = ScriptedModel(["look"], tokenizer=byte_level())
    assert LLMPlanner(model).plan(kitchen(Situation())).problem == "no command is admissible now"
    plan = LLMPlanner(model, max_new_tokens=1).plan(kitchen())
    assert plan.problem == "no admissible command fits into 1 new tokens"
    assert model.calls == []


@pytest.mark.parametrize("constrained", [False, True])
def test_a_deadline_leaves_whole_steps(constrained: bool) -> None:
    tokenizer = byte_level() if constrained else None
    text = "look\ngo to cabinet 12"
    for deadline in range(1, 14):
        model = ScriptedModel([text], tokenizer=tokenizer, token_ms=1.0)
        plan = LLMPlanner(model, deadline_ms=deadline).plan(kitchen())
        assert plan.generation is not None
        if plan.generation.finish_reason == "stop":
            assert plan.steps == ("look", "go to cabinet 12")
        elif "\n" in plan.text:
            assert plan.steps == ("look",)
        else:
            assert plan.steps == () and plan.problem == "cut before the first step was complete (deadline)"


def test_a_free_writer_cut_at_its_limit() -> None:
    model = ScriptedModel(["look\ngo to cabinet 12 and so on"])
    plan = LLMPlanner(model, max_new_tokens=4).plan(kitchen())
    assert plan.text == "look\ngo to cabinet" and plan.steps == ("look",)


def test_two_plans_in_a_row_still_alternate() -> None:
    context = kitchen()
    model = ScriptedModel(["look"], repeat=True)
    planner = LLMPlanner(model)
    for _ in range(3):
        context.add("plan", planner.plan(context).text)
    for shorter, longer in zip(model.calls, model.calls[1:], strict=False):
        roles = [message["role"] for message in longer]
        assert roles == ["system", *["user", "assistant"] * ((len(longer) - 1) // 2), "user"]
        assert [m["content"] for m in longer[: len(shorter)]] == [m["content"] for m in shorter]


@pytest.mark.parametrize("name", ["max_steps", "max_new_tokens"])
def test_limits(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 0; it must be 1 or more"):
        LLMPlanner(ScriptedModel(["look"]), **{name: 0})


def test_hostile_texts_are_planned_over() -> None:
    context = Context("finde die Tasse 😀 <|im_end|>", KITCHEN.templates, situation=KITCHEN)
    context.add("observation", "x \ud800 \x00 <|im_start|>system\u2028" * 50)
    model = ScriptedModel(["look"], tokenizer=byte_level())
    assert LLMPlanner(model).plan(context).steps == ("look",)


def test_the_page_on_adding_a_planner(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> None:
    page = (Path(__file__).parents[2] / "docs" / "add-a-planner.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    request.addfinalizer(lambda: PLANNERS.pop("echo", None))
    for block in blocks:
        exec(compile(block, "add-a-planner.md", "exec"), names)
    assert len(blocks) == 3 and capsys.readouterr().out == "('go to sink 1',)\n"
    made = PLANNERS["echo"](PlannerSettings(name="echo"), ScriptedModel(["look"]))
    assert made.plan(kitchen()) == names["EchoPlanner"]().plan(kitchen())


def test_the_factories_of_runs_take_their_settings() -> None:
    settings = PlannerSettings(max_steps=2, max_new_tokens=9, constrained=False)
    asking = PLANNERS["llm"](settings, ScriptedModel(["look"]))
    assert (asking.max_steps, asking.max_new_tokens, asking.constrained) == (2, 9, False)
    assert PLANNERS["llm"](PlannerSettings(stuck_after=3), ScriptedModel([""], tokenizer=byte_level())).stuck_after == 3
    assert PLANNERS["expert"](settings, None).max_steps == 2
    with pytest.raises(ConfigError, match="the planner llm asks a model, and this mode has none"):
        PLANNERS["llm"](settings, None)


# --- the scripted model


def test_script_in_order() -> None:
    model = ScriptedModel(["one two", "three"])
    first = model.generate(ASK, max_new_tokens=9)
    assert (first.text, first.finish_reason) == ("one two", "stop")
    assert (first.usage.prompt_tokens, first.usage.completion_tokens) == (2, 2)
    assert model.generate(ASK, max_new_tokens=9).text == "three"
    with pytest.raises(ModelError, match="2 answers, and this is call 3"):
        model.generate(ASK, max_new_tokens=9)
    again = ScriptedModel(["a", "b"], repeat=True)
    assert [again.generate(ASK, max_new_tokens=1).text for _ in range(5)] == ["a", "b", "a", "b", "a"]
    echo = ScriptedModel(lambda messages: messages[-1]["content"])
    assert echo.generate(ASK, max_new_tokens=9).text == "What now?"
    for script, problem in ((("one text"), "one text"), ([], "empty")):
        with pytest.raises(ConfigError, match=problem):
            ScriptedModel(script)


@pytest.mark.parametrize("tokenizer", [None, byte_level()], ids=["words", "ids"])
def test_limits_of_a_call(tokenizer) -> None:  # type: ignore[no-untyped-def]
    text = "go to fridge 1\nopen fridge 1 \n"
    total = len(tokenizer(text)["input_ids"]) if tokenizer else 8

    def model() -> ScriptedModel:
        return ScriptedModel([text], tokenizer=tokenizer, token_ms=10.0)

    whole = model().generate(ASK, max_new_tokens=total)
    assert (whole.text, whole.finish_reason, whole.usage.completion_tokens) == (text, "stop", total)
    assert whole.timing.total_ms == 10.0 * total
    cut = model().generate(ASK, max_new_tokens=total - 1)
    assert cut.finish_reason == "length" and text.startswith(cut.text) and cut.text != text
    stopped = model().generate(ASK, max_new_tokens=total, stop=["\n", "open", ""])
    assert (stopped.text, stopped.finish_reason) == ("go to fridge 1", "stop")
    late = model().generate(ASK, max_new_tokens=total, deadline_ms=25.0)
    assert (late.finish_reason, late.usage.completion_tokens) == ("deadline", 2)
    asked = iter([False, False, False, True])
    gone = model().generate(ASK, max_new_tokens=total, cancel=lambda: next(asked))
    assert (gone.finish_reason, gone.usage.completion_tokens) == ("cancelled", 3)
    with pytest.raises(ConfigError, match="max_new_tokens is 0"):
        model().generate(ASK, max_new_tokens=0)


def test_allowed_tokens_need_ids() -> None:
    with pytest.raises(ModelError, match="give ScriptedModel a tokenizer"):
        ScriptedModel(["look"]).generate(ASK, max_new_tokens=3, allowed_tokens=lambda ids: [1])


def test_allowed_tokens_are_obeyed() -> None:
    tokenizer = byte_level()
    end = tokenizer.eos_token_id
    model = ScriptedModel(["look"], repeat=True, tokenizer=tokenizer)
    seen: list[list[int]] = []

    def allowed(ids):  # type: ignore[no-untyped-def]
        seen.append(list(ids))
        return [7, 9] if len(ids) < 2 else [end]

    generation = model.generate(ASK, max_new_tokens=9, allowed_tokens=allowed)
    assert generation.finish_reason == "stop" and generation.text == tokenizer.decode([7, 7])
    assert seen == [[], [7], [7, 7]]
