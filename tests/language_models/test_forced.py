"""Answers that are forced on a model, and chats that it reads ahead of them."""

from __future__ import annotations

from typing import Any

import pytest

from erecap.budget import Budget
from erecap.config.run import PlannerSettings
from erecap.context import Context, Situation
from erecap.context.render import render
from erecap.language_models.per_episode import EpisodeSessions
from erecap.language_models.transformers import TransformersLanguageModel
from erecap.planners.expert_plans import ExpertPlansPlanner
from erecap.planners.llm import LLMPlanner
from erecap.planners.make_llm import make_llm_planner
from erecap.protocols import LanguageModel, ReadAhead, ReadingModel
from tests.context.small_tokenizers import byte_level
from tests.planners.situations import KITCHEN, kitchen
from tests.session.chats import model, start

EXPERT = Situation(
    skills=KITCHEN.skills,
    entities=KITCHEN.entities,
    templates=KITCHEN.templates,
    expert_actions=("go to cabinet 1", "open cabinet 12", "take apple 1 from cabinet 12", "fly"),
)


def every_model() -> dict[str, LanguageModel]:
    tokenizer = byte_level()
    return {
        "full": TransformersLanguageModel(model(), tokenizer),
        "reuse": EpisodeSessions(model(), tokenizer),
        "erecap": EpisodeSessions(model(), tokenizer, budget=Budget(200)),
    }


@pytest.mark.parametrize("name", every_model())
def test_a_forced_answer_is_what_comes_out(name: str) -> None:
    asked: Any = every_model()[name]
    found = asked.generate(start(), max_new_tokens=40, force="open fridge 1\nlook")
    assert (found.text, found.finish_reason) == ("open fridge 1\nlook", "stop")
    count = len(byte_level()("open fridge 1\nlook")["input_ids"]) + 1
    assert found.usage.completion_tokens == count and 0 < found.usage.decode_passes < count
    with pytest.raises(ValueError, match=f"force: got {count} tokens with the end; allowed: {count - 1}, max_new"):
        asked.generate(start(), max_new_tokens=count - 1, force="open fridge 1\nlook")


@pytest.mark.parametrize("name", every_model())
def test_the_experts_plan_is_decoded_by_the_model(name: str) -> None:
    planner = ExpertPlansPlanner(every_model()[name], max_steps=5, max_new_tokens=80)
    plan = planner.plan(kitchen(EXPERT))
    # The last command is none that the grammar knows, so the plan ends before it.
    assert plan.steps == EXPERT.expert_actions[:3] and plan.problem is None
    assert plan.generation is not None and plan.generation.usage.prompt_tokens > 0
    assert plan.generation.usage.completion_tokens == len(byte_level()("\n".join(plan.steps))["input_ids"]) + 1
    room = plan.generation.usage.completion_tokens - 1
    short = ExpertPlansPlanner(every_model()[name], max_steps=5, max_new_tokens=room)
    assert short.plan(kitchen(EXPERT)).steps == EXPERT.expert_actions[:2]
    assert ExpertPlansPlanner(every_model()[name], max_steps=1).plan(kitchen(EXPERT)).steps == ("go to cabinet 1",)
    assert planner.plan(kitchen()).problem == "the environment's expert gives no actions here"
    strange = Situation(skills=KITCHEN.skills, expert_actions=("fly",), templates=KITCHEN.templates)
    assert planner.plan(kitchen(strange)).problem == "the expert's first command cannot be written in a plan: 'fly'"


def test_settings_say_whose_plans_are_played() -> None:
    lm = every_model()["reuse"]
    assert type(make_llm_planner(PlannerSettings(), lm)) is LLMPlanner
    assert type(make_llm_planner(PlannerSettings(plans="expert"), lm)) is ExpertPlansPlanner


def grown(context: Context, number: int) -> Context:
    context.add("action", f"go to cabinet {number}", step=number)
    context.add("observation", f"In the cabinet {number} you see a mug {number}.", step=number)
    return context


def test_what_was_read_ahead_is_not_read_again() -> None:
    ahead, plain = (EpisodeSessions(model(), byte_level()) for _ in range(2))
    assert isinstance(ahead, ReadingModel) and not isinstance(every_model()["full"], ReadingModel)
    planner, other = LLMPlanner(ahead, max_new_tokens=30), LLMPlanner(plain, max_new_tokens=30)
    context = kitchen()
    first = planner.plan(context)
    assert other.plan(context).text == first.text
    context.add("plan", first.text)
    stored, read = ahead.stored_tokens, 0
    for number in (1, 2, 3):
        found = planner.read_ahead(grown(context, number))
        assert isinstance(found, ReadAhead) and found.tokens > 0
        assert found.stored == (stored if number == 1 else found.stored) and found.stored >= stored
        read += found.tokens
    second, whole = planner.plan(grown(context, 4)), other.plan(context)
    assert second.text == whole.text and second.generation and whole.generation
    usage, alone = second.generation.usage, whole.generation.usage
    assert usage.prompt_tokens == alone.prompt_tokens and usage.rewritten_tokens == 0
    assert usage.new_tokens + read == alone.new_tokens  # each token once
    assert LLMPlanner(every_model()["full"]).read_ahead(context) is None
    assert render(context).messages[-1]["role"] == "user"


@pytest.mark.parametrize("budget", [None, Budget(240)], ids=["reuse", "erecap"])
def test_the_weights_do_not_change_what_a_forced_plan_counts(budget: Budget | None) -> None:
    """So the prices that a cost model gives are those of any model over the same tokenizer."""
    found = []
    for name in ("llama", "qwen2"):
        sessions = EpisodeSessions(model(name), byte_level(), budget=budget)
        planner, context, counts = ExpertPlansPlanner(sessions, max_new_tokens=80), kitchen(EXPERT), []
        for number in range(1, 5):
            plan = planner.plan(context)
            assert plan.generation is not None
            usage = plan.generation.usage
            counts.append(
                (usage.new_tokens, usage.reused_tokens, usage.decode_passes, usage.drafted_tokens,
                 usage.accepted_tokens, usage.evicted_tokens, usage.kept_tokens)
            )  # fmt: skip
            context.add("plan", plan.text)
            planner.read_ahead(grown(context, 2 * number))
            grown(context, 2 * number + 1)
        found.append(counts)
    assert found[0] == found[1] and (budget is None) == (not any(count[5] for count in found[0]))
