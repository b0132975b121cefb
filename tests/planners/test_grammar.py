"""Constrained decoding: every path reads as a plan, and every plan has a path."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.context import Situation
from erecap.errors import ModelError
from erecap.generation import AllowedTokens
from erecap.planners.grammar.command_tokens import CommandTokens
from erecap.planners.grammar.grammar import PlanGrammar
from erecap.planners.grammar.trie import Trie
from erecap.planners.parser import parse_plan
from erecap.planners.templates import fill_templates
from tests.context.small_tokenizers import CHATML, MOVING, WRITERS, byte_level, llama_like, word_piece
from tests.counting import CountedTokenizer
from tests.planners.situations import KITCHEN, TEMPLATES

COMMANDS = fill_templates(TEMPLATES, KITCHEN.entities)
TOKENIZERS = {
    **WRITERS,
    "llama_chatml": lambda: llama_like(CHATML),
    "llama_moving": lambda: llama_like(MOVING),
    # The prompt ends with a space, which a SentencePiece tokenizer merges into the first word.
    "llama_space": lambda: llama_like(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    ),
}
every_tokenizer = pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)


def write(allowed: AllowedTokens, choose, limit: int = 200) -> list[int]:  # type: ignore[no-untyped-def]
    ids: list[int] = []
    while len(ids) < limit:
        options = allowed(ids)
        assert options and len(set(options)) == len(options)
        ids.append(choose(options))
        if ids[-1] in allowed(ids) and allowed(ids) == allowed([*ids, ids[-1]]):
            break  # the turn has ended
    return ids


def read(tokenizer, ids: Sequence[int]) -> str:  # type: ignore[no-untyped-def]
    return tokenizer.decode(ids, skip_special_tokens=True)


def test_trie() -> None:
    trie = Trie([(1, 2, 3), (1, 2), (4,)])
    assert trie.sequences() == [(1, 2), (1, 2, 3), (4,)]
    assert trie.root.shortest == 1 and trie.root.children[1].shortest == 1
    assert trie.root.children[1].children[2].terminal
    trie.add((1,))
    assert trie.root.children[1].shortest == 0


@every_tokenizer
def test_every_path_of_the_trie_spells_its_command(make) -> None:  # type: ignore[no-untyped-def]
    tokenizer = make()
    tokens = CommandTokens(tokenizer)
    for spelled in (tokens.first(COMMANDS), tokens.later(COMMANDS)):
        assert list(spelled) == COMMANDS
        for command, ids in spelled.items():
            assert read(tokenizer, ids).strip() == command
    first, later = tokens.first(COMMANDS), tokens.later(COMMANDS)
    # Whole plans, as a wrapper decodes them: no space is lost or won at the line breaks.
    for command in COMMANDS:
        ids = [*first["look"], tokens.newline, *later[command], tokens.newline, *later["look"]]
        assert read(tokenizer, ids).strip() == f"look\n{command}\nlook"


@every_tokenizer
def test_paths_are_what_the_tokenizer_itself_writes(make) -> None:  # type: ignore[no-untyped-def]
    tokenizer = make()
    tokens = CommandTokens(tokenizer)
    plan = "look\ntake apple 1 from cabinet 12\nopen fridge 1"
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    whole = tokenizer(prompt + plan, add_special_tokens=False)["input_ids"]
    first, *rest = plan.split("\n")
    ours = list(tokens.first([first])[first])
    for command in rest:
        ours += [tokens.newline, *tokens.later([command])[command]]
    if not prompt.endswith(" "):
        assert whole[-len(ours) :] == ours


@every_tokenizer
def test_shape_of_plans(make) -> None:  # type: ignore[no-untyped-def]
    tokenizer = make()
    for greedy in (min, max):
        ids = write(PlanGrammar(tokenizer, max_steps=3).allowed(KITCHEN, 150), greedy)
        plan = parse_plan(read(tokenizer, ids), KITCHEN, max_steps=3)
        assert plan.problem is None and plan.steps[0] in KITCHEN.skills
    # All 4 x 13 plans of one or two steps can be written, and nothing else.
    allowed = PlanGrammar(tokenizer, max_steps=2).allowed(KITCHEN, 150)
    tokens = CommandTokens(tokenizer)
    end = min(tokens.ends)
    found = set()
    stack: list[tuple[int, ...]] = [()]
    while stack:
        ids = stack.pop()
        for token in allowed(ids):
            if token == end:
                found.add(read(tokenizer, ids).strip())
            elif token not in tokens.ends:
                stack.append((*ids, token))
    first = list(KITCHEN.skills)
    assert found == {*first, *(f"{one}\n{two}" for one in first for two in COMMANDS)}


@settings(max_examples=120, deadline=None)
@given(st.data(), st.sampled_from(sorted(TOKENIZERS)), st.integers(1, 6), st.integers(1, 60))
def test_no_plan_is_cut(data: st.DataObject, kind: str, max_steps: int, limit: int) -> None:
    tokenizer = TOKENIZERS[kind]()
    allowed = PlanGrammar(tokenizer, max_steps).allowed(KITCHEN, limit)
    shortest = min(len(ids) for ids in CommandTokens(tokenizer).first(KITCHEN.skills).values())
    if allowed is None:
        assert limit < shortest + 1
        return
    ends = CommandTokens(tokenizer).ends
    ids: list[int] = []
    while not ids or ids[-1] not in ends:
        assert len(ids) < limit
        ids.append(data.draw(st.sampled_from(sorted(allowed(ids)))))
    plan = parse_plan(read(tokenizer, ids), KITCHEN, max_steps)
    assert plan.problem is None
    assert set(allowed([*ids, 5])) == set(ends)


def test_ends_of_the_turn() -> None:
    metaspace = WRITERS["metaspace"]()
    ids = {metaspace.convert_tokens_to_ids(token) for token in ("<eos>", "<|im_end|>")}
    assert CommandTokens(metaspace).ends == ids
    assert CommandTokens(byte_level()).ends == {byte_level().eos_token_id}


def test_a_tokenizer_that_cannot_write_plans() -> None:
    with pytest.raises(ModelError, match="no token of its own for a line break"):
        PlanGrammar(word_piece())


def test_a_name_that_cannot_be_spelled_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    skills = ("go to <|im_end|>", "look\nlook", "look")
    with caplog.at_level(logging.WARNING):
        assert list(CommandTokens(byte_level()).first(skills)) == ["look"]
    assert "cannot write the command 'go to <|im_end|>'" in caplog.text
    odd = ("drück Knopf 😀", "go  to  two  spaces")
    assert list(CommandTokens(byte_level()).first(odd)) == list(odd)
    assert list(CommandTokens(llama_like()).later(odd)) == list(odd)


def test_tries_grow_and_shrink_with_what_is_known() -> None:
    tokenizer = byte_level()
    grammar = PlanGrammar(tokenizer, 2)

    def writable(situation: Situation, command: str) -> bool:
        allowed = grammar.allowed(situation, 100)
        ids = [*CommandTokens(tokenizer).first(["look"])["look"], CommandTokens(tokenizer).newline]
        for token in CommandTokens(tokenizer).later([command])[command]:
            if token not in allowed(ids):
                return False
            ids.append(token)
        return min(CommandTokens(tokenizer).ends) in allowed(ids)

    few = Situation(("look",), {"receptacle": ("cabinet 1",)}, TEMPLATES)
    assert writable(few, "open cabinet 1") and not writable(few, "open fridge 1")
    assert writable(KITCHEN, "open fridge 1") and writable(KITCHEN, "open cabinet 1")
    assert writable(few, "open cabinet 1") and not writable(few, "open fridge 1")
    # Nothing can follow where no template can be filled.
    assert grammar.allowed(Situation(("look",)), 100)(CommandTokens(tokenizer).first(["look"])["look"]) == [
        tokenizer.eos_token_id
    ]


def test_what_is_known_is_not_tokenised_again() -> None:
    names = {"receptacle": tuple(f"cabinet {n}" for n in range(35)), "object": tuple(f"mug {n}" for n in range(40))}
    tokenizer = CountedTokenizer(byte_level())
    grammar = PlanGrammar(tokenizer)

    def asked() -> int:
        before = tokenizer.texts
        grammar.allowed(Situation(("look",), names, TEMPLATES), 64)
        return tokenizer.texts - before

    whole = asked()
    commands = fill_templates(TEMPLATES, names)
    assert whole >= len(commands)
    names["object"] += ("apple 1",)
    added = len(set(fill_templates(TEMPLATES, names)) - set(commands))
    # A text or two a command: alone, and behind what stands before it.
    assert 0 < added <= asked() <= 3 * added + 3 and 3 * added + 3 < whole / 5
    assert asked() == 0
