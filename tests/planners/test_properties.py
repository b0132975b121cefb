"""Parser and grammar in drawn homes: each reads what the other writes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.context import Situation
from erecap.planners.grammar.command_tokens import CommandTokens
from erecap.planners.grammar.grammar import PlanGrammar
from erecap.planners.parser import is_command, parse_plan
from erecap.planners.templates import fill_templates
from tests.context.small_tokenizers import CHATML, byte_level, llama_like

TOKENIZERS = {"bytes": byte_level, "llama": lambda: llama_like(CHATML)}
SHAPES = ["look", "go to {place}", "open {place}", "take {thing} from {place}", "put {thing}"]
PLACES, THINGS = [f"shelf {n}" for n in (1, 2, 11, 12)], ["mug 1", "mug 12", "alarm clock 1", "egg 1"]


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """Some shapes of commands, some names, and some of the commands that they make."""
    shapes = tuple(draw(st.lists(st.sampled_from(SHAPES), min_size=1, unique=True)))
    names = {
        "place": tuple(draw(st.lists(st.sampled_from(PLACES), min_size=1, unique=True))),
        "thing": tuple(draw(st.lists(st.sampled_from(THINGS), unique=True))),
    }
    # A world may admit commands that no shape makes.
    known = [*fill_templates(shapes, names), "wait", "look around"]
    skills = tuple(draw(st.lists(st.sampled_from(known), min_size=1, max_size=5, unique=True)))
    return Situation(skills, names, shapes)


def spelled(tokens: CommandTokens, steps: list[str]) -> list[int]:
    """The tokens of a plan."""
    ids = list(tokens.first(steps[:1])[steps[0]])
    for step in steps[1:]:
        ids += [tokens.newline, *tokens.later([step])[step]]
    return ids


@settings(max_examples=100, deadline=None)
@given(st.data(), situations(), st.sampled_from(sorted(TOKENIZERS)), st.integers(1, 5), st.integers(0, 3))
def test_a_plan_can_be_written_exactly_if_it_fits(
    data: st.DataObject, home: Situation, kind: str, max_steps: int, room: int
) -> None:
    tokenizer = TOKENIZERS[kind]()
    tokens = CommandTokens(tokenizer)
    later = fill_templates(home.templates, home.entities)
    steps = [data.draw(st.sampled_from(home.skills))]
    if later:
        steps += data.draw(st.lists(st.sampled_from(later), max_size=max_steps - 1))
    ids = spelled(tokens, steps)
    assert parse_plan("\n".join(steps), home, max_steps).steps == tuple(steps)
    grammar = PlanGrammar(tokenizer, max_steps)
    fits = grammar.allowed(home, len(ids) + 1 + room)  # one more for the end of the turn
    assert fits is not None
    for place, token in enumerate(ids):
        assert token in fits(ids[:place])
    assert tokens.ends <= set(fits(ids))
    # One token less: the end does not fit, so somewhere on the way another token must be taken.
    tight = grammar.allowed(home, len(ids))
    assert tight is None or not all(token in tight(ids[:place]) for place, token in enumerate(ids))


@settings(max_examples=100, deadline=None)
@given(st.data(), situations(), st.sampled_from(sorted(TOKENIZERS)), st.integers(1, 5), st.integers(4, 60))
def test_whatever_is_written_is_read(
    data: st.DataObject, home: Situation, kind: str, max_steps: int, limit: int
) -> None:
    tokenizer = TOKENIZERS[kind]()
    ends = CommandTokens(tokenizer).ends
    allowed = PlanGrammar(tokenizer, max_steps).allowed(home, limit)
    if allowed is None:
        assert all(len(ids) >= limit for ids in CommandTokens(tokenizer).first(home.skills).values())
        return
    ids: list[int] = []
    while not ids or ids[-1] not in ends:
        assert len(ids) < limit
        ids.append(data.draw(st.sampled_from(sorted(allowed(ids)))))
    plan = parse_plan(tokenizer.decode(ids, skip_special_tokens=True), home, max_steps)
    assert plan.problem is None and plan.steps[0] in home.skills
    assert all(step in fill_templates(home.templates, home.entities) for step in plan.steps[1:])


@settings(max_examples=200, deadline=None)
@given(situations(), st.text("lokshef 12", max_size=12) | st.sampled_from([*PLACES, *THINGS, "go to shelf 1"]))
def test_a_command_is_an_admissible_one_or_a_filled_shape(home: Situation, line: str) -> None:
    known = {*home.skills, *fill_templates(home.templates, home.entities)}
    assert is_command(line, home) == (line in known)
    plan = parse_plan(line, home)
    assert (plan.problem is None) == (line.strip() in known)
    # A plan is read line by line: one bad line spoils it wherever it stands.
    assert (parse_plan(f"{home.skills[0]}\n{line}\n{home.skills[0]}", home).problem is None) == (line.strip() in known)


@settings(max_examples=60, deadline=None)
@given(situations(), st.lists(st.sampled_from(PLACES), unique=True))
def test_more_names_take_nothing_away(home: Situation, more: list[str]) -> None:
    richer = Situation(
        home.skills,
        {**home.entities, "place": tuple(dict.fromkeys([*home.entities["place"], *more]))},
        home.templates,
    )
    for command in fill_templates(home.templates, home.entities):
        assert is_command(command, home) and is_command(command, richer)
