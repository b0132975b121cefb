"""The embedded model plans under the grammar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from erecap.context import Context, Situation
from erecap.context.fit import fit_messages
from erecap.context.tokenize import render_prompt
from erecap.generation import Message
from erecap.language_models.scripted import ScriptedModel
from erecap.planners.grammar.command_tokens import CommandTokens
from erecap.planners.grammar.grammar import PlanGrammar
from erecap.planners.llm import LLMPlanner
from erecap.planners.parser import parse_plan
from erecap.planners.templates import fill_templates
from tests.planners.situations import KITCHEN, TEMPLATES, kitchen

pytestmark = pytest.mark.integration

FOLDER = Path(__file__).parents[2] / "checkpoints" / "smollm2-135m-instruct"
NAMES = {
    "receptacle": tuple(f"{kind} {n}" for kind in ("cabinet", "countertop", "fridge") for n in range(1, 17)),
    "object": tuple(f"{kind} {n}" for kind in ("butterknife", "soapbottle", "apple") for n in range(1, 11)),
}


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    transformers = pytest.importorskip("transformers")
    if not (FOLDER / "tokenizer.json").exists():
        pytest.skip("the embedded model is not there; `erecap models pull smollm2-135m-instruct`")
    return transformers.AutoTokenizer.from_pretrained(FOLDER)


def test_every_command_of_a_home(tokenizer) -> None:  # type: ignore[no-untyped-def]
    commands = fill_templates(TEMPLATES, NAMES)
    assert len(commands) > 1500
    tokens = CommandTokens(tokenizer)
    later = tokens.later(commands)
    assert list(later) == commands
    for command, ids in later.items():
        assert tokenizer.decode([*tokens.first(["look"])["look"], tokens.newline, *ids]) == f"look\n{command}"


def test_longest_plans_are_closed_in_time(tokenizer) -> None:  # type: ignore[no-untyped-def]
    situation = Situation(KITCHEN.skills, NAMES, TEMPLATES)
    for limit in range(4, 70, 13):
        allowed = PlanGrammar(tokenizer).allowed(situation, limit)
        assert allowed is not None
        ids: list[int] = []
        while not ids or ids[-1] != tokenizer.eos_token_id:
            # The model that never wants to stop.
            wishes = [token for token in allowed(ids) if token != tokenizer.eos_token_id]
            ids.append(max(wishes, default=tokenizer.eos_token_id))
        assert len(ids) <= limit
        assert parse_plan(tokenizer.decode(ids, skip_special_tokens=True), situation).problem is None


def test_an_observation_of_20_000_tokens_is_made_to_fit(tokenizer) -> None:  # type: ignore[no-untyped-def]
    def count(messages: Sequence[Message]) -> int:
        return len(render_prompt(messages, tokenizer).input_ids)

    context = Context("find the mug", TEMPLATES, situation=KITCHEN)
    context.add("observation", "You see a wall. " * 5000)
    for text in ("look", "open fridge 1"):
        messages = LLMPlanner(ScriptedModel(["look"])).messages(context)
        fitted = fit_messages(messages, count, 8192 - 64)
        assert 7900 < count(fitted.messages) <= 8192 - 64 and fitted.truncated_tokens > 10_000
        assert fitted.messages[1]["content"].startswith("Goal: find the mug\nYou see a wall.")
        context.add("plan", text)
        context.add("action", text)
        context.add("failure", "Nothing happens.")


def test_the_model_plans(tokenizer) -> None:  # type: ignore[no-untyped-def]
    import torch
    from transformers import AutoModelForCausalLM

    from erecap.language_models.transformers import TransformersLanguageModel

    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    planner = LLMPlanner(TransformersLanguageModel(model, tokenizer), max_steps=3, max_new_tokens=40)
    context = kitchen()
    for _ in range(2):
        plan = planner.plan(context)
        assert plan.problem is None and 1 <= len(plan.steps) <= 3 and plan.steps[0] in KITCHEN.skills
        assert plan.generation is not None and plan.generation.finish_reason == "stop"
        context.add("plan", plan.text)
        context.add("action", plan.steps[0], step=1)
        context.add("failure", "Nothing happens.", step=1)
