"""Answers under the grammar: never malformed, never cut, and every answer can be written."""

from __future__ import annotations

import random

import pytest

from erecap.context import Situation
from erecap.planners.cooperative.answer import MOST_NAMES, Answer, parse_answer
from erecap.planners.cooperative.grammar import AnswerGrammar
from tests.context.small_tokenizers import WRITERS, byte_level
from tests.planners.situations import KITCHEN
from tests.planners.test_grammar import read, write

FACTS = ("cabinet 1", "cabinet 12", "fridge 1", 'shelf "A" 2', "küche 3")
CONTESTED = ("apple 1", "apple 12")


@pytest.mark.parametrize("make", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(("facts", "contested"), [(FACTS, CONTESTED), ((), CONTESTED), (FACTS[:1], ()), ((), ())])
def test_whatever_is_written_is_an_answer(make, facts, contested) -> None:  # type: ignore[no-untyped-def]
    grammar, tokenizer = AnswerGrammar(make(), 3), make()
    shortest = next(n for n in range(1, 400) if grammar.allowed(facts, contested, KITCHEN, n) is not None)
    assert grammar.allowed(facts, contested, KITCHEN, shortest - 1) is None
    for limit in (shortest, shortest + 3, 300):
        allowed = grammar.allowed(facts, contested, KITCHEN, limit)
        assert allowed is not None
        for seed in range(12):
            ids = write(allowed, random.Random(seed).choice, limit=limit)
            answer = parse_answer(read(tokenizer, ids), facts, contested, KITCHEN, 3)
            assert isinstance(answer, Answer) and len(ids) <= limit
            assert answer.patches[0] in KITCHEN.skills


@pytest.mark.parametrize("make", WRITERS.values(), ids=WRITERS)
def test_every_answer_has_a_path(make) -> None:  # type: ignore[no-untyped-def]
    tokenizer = make()
    grammar = AnswerGrammar(tokenizer, 3)
    allowed = grammar.allowed(FACTS[:3], CONTESTED, KITCHEN, 400)
    assert allowed is not None
    for answer in (
        Answer((), (), ("look",)),
        Answer(("cabinet 12",), (), ("open cabinet 12", "take apple 1 from cabinet 12")),
        Answer(FACTS[:3], CONTESTED, ("go to fridge 1", "open fridge 1", "look")),
        Answer((), CONTESTED[:1], ("go to cabinet 1",)),
    ):
        text = answer.text()
        ids: list[int] = []
        while read(tokenizer, ids) != text:
            steps = [token for token in allowed(ids) if text.startswith(read(tokenizer, [*ids, token]))]
            assert steps, read(tokenizer, ids)
            ids.append(max(steps, key=lambda token: len(read(tokenizer, [*ids, token]))))
        assert not set(allowed(ids)).isdisjoint(allowed([*ids, allowed(ids)[-1]]))  # the turn may end


def test_the_path_is_that_of_the_tokenizer() -> None:
    """A model that was trained on answers finds their own tokens allowed."""
    tokenizer = byte_level()
    grammar = AnswerGrammar(tokenizer, 3)
    allowed = grammar.allowed(FACTS[:3], CONTESTED, KITCHEN, 400)
    assert allowed is not None
    text = Answer(("cabinet 12", "fridge 1"), ("apple 1",), ("look", "open cabinet 12")).text()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert all(token in allowed(ids[:place]) for place, token in enumerate(ids))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no JSON"),
        ('{"observations":[],"conflicts":[],"plan_patches":["look"', "no JSON"),
        ("[]", "no object with the keys observations, conflicts, plan_patches"),
        ('{"observations":[],"plan_patches":["look"]}', "no object with the keys"),
        ('{"observations":"x","conflicts":[],"plan_patches":["look"]}', "observations is no list of texts"),
        ('{"observations":["moon"],"conflicts":[],"plan_patches":["look"]}', "observations: 'moon' is none of"),
        ('{"observations":[],"conflicts":["moon"],"plan_patches":["look"]}', "conflicts: 'moon' is none of"),
        ('{"observations":[],"conflicts":[],"plan_patches":[]}', "plan_patches has 0 commands; allowed: 1 to 3"),
        ('{"observations":[],"conflicts":[],"plan_patches":["fly"]}', "command 1 is not a known command: 'fly'"),
    ],
)
def test_what_is_no_answer_is_said(text: str, problem: str) -> None:
    found = parse_answer(text, FACTS, CONTESTED, KITCHEN, 3)
    assert isinstance(found, str) and problem in found


def test_lists_are_bounded_and_names_count_once() -> None:
    facts = tuple(f"cabinet {n}" for n in range(1, 10))
    many = Answer(facts[: MOST_NAMES + 1], (), ("look",)).text()
    assert "at most 4" in str(parse_answer(many, facts, (), KITCHEN, 3))
    twice = Answer(("cabinet 1", "cabinet 1"), (), ("look",)).text()
    assert parse_answer(twice, facts, (), KITCHEN, 3) == Answer(("cabinet 1",), (), ("look",))


def test_no_admissible_command_is_no_grammar() -> None:
    assert AnswerGrammar(byte_level(), 3).allowed((), (), Situation(), 400) is None
