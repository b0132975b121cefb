"""Records, the graph over them, and how they are laid out as a chat."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erecap.context import KINDS, Context, Situation
from erecap.context.graph import OPEN_FAILURES, ContextGraph
from erecap.context.protection import protected_spans
from erecap.context.render import render, token_spans
from erecap.errors import ConfigError
from tests.context.small_tokenizers import WRITERS
from tests.counting import lines_run

TEMPLATES = ("go to {receptacle}", "take {object} from {receptacle}")

records = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.one_of(st.text(max_size=12), st.sampled_from(["go to fridge 1", "cabinet 1 and cabinet 12", "Failed"])),
        st.sampled_from(["", "cabinet 1", "cabinet 12", "fridge 1"]),
    ).filter(lambda row: row[0] != "goal" or row[1].strip()),
    max_size=25,
)


def filled(rows: list[tuple[str, str, str]]) -> Context:
    context = Context("cool an apple", TEMPLATES)
    for kind, text, subject in rows:
        context.add(kind, text, subject)  # type: ignore[arg-type]
    return context


def test_context_refuses_what_it_cannot_hold() -> None:
    for empty in ("", "  \n"):
        with pytest.raises(ConfigError, match="goal is empty"):
            Context(empty)
    context = Context("look around")
    with pytest.raises(ConfigError, match="kind 'thought' is unknown; allowed: goal, observation"):
        context.add("thought", "hm")  # type: ignore[arg-type]
    context.add("action", "look", step=3)
    assert context.add("observation", "a\ud800b ").text == "a?b"
    assert context.records[-1].step == 3
    with pytest.raises(ConfigError, match="step 2 cannot follow one of step 3"):
        context.add("action", "look", step=2)


def test_situation_from_info() -> None:
    situation = Situation.from_info({"skills": ["look"], "entities": {"object": ["mug 1"]}, "progress": 0.0})
    assert situation == Situation(skills=("look",), entities={"object": ("mug 1",)})


def test_layout_of_the_chat() -> None:
    context = filled(
        [
            ("constraint", "keep the fridge closed", ""),
            ("observation", "You see a fridge 1.", ""),
            ("plan", "go to fridge 1\ntake apple 1 from fridge 1", ""),
            ("action", "go to fridge 1", ""),
            ("observation", "The fridge 1 is closed.", "fridge 1"),
            ("action", "take apple 1 from fridge 1", ""),
            ("failure", "Nothing happens.", ""),
            ("plan", "open fridge 1", ""),
        ]
    )
    system, *rest = render(context, max_steps=4).messages
    assert system["content"].splitlines()[-2:] == list(TEMPLATES) and "1 to 4 commands" in system["content"]
    assert [(message["role"], message["content"]) for message in rest] == [
        ("user", "Goal: cool an apple\nRule: keep the fridge closed\nYou see a fridge 1."),
        ("assistant", "go to fridge 1\ntake apple 1 from fridge 1"),
        (
            "user",
            "> go to fridge 1\nThe fridge 1 is closed.\n> take apple 1 from fridge 1\nFailed: Nothing happens.",
        ),
        ("assistant", "open fridge 1"),
    ]
    kept = [system, *rest]
    texts = [kept[index]["content"][start:end] for index, start, end in protected_spans(kept)]
    assert texts[1:] == [
        "Goal: cool an apple",
        "Rule: keep the fridge closed",
        "> go to fridge 1",
        "The fridge 1 is closed.",
        "> take apple 1 from fridge 1",
        "Failed: Nothing happens.",
        "open fridge 1",
    ]


@settings(max_examples=60, deadline=None)
@given(records, records)
def test_appending_never_changes_earlier_messages(
    rows: list[tuple[str, str, str]], more: list[tuple[str, str, str]]
) -> None:
    context = filled(rows)
    before = render(context)
    for kind, text, subject in more:
        context.add(kind, text, subject)  # type: ignore[arg-type]
    after = render(context)
    roles = [message["role"] for message in after.messages]
    assert all(first != second for first, second in pairwise(roles))
    for old, new in zip(before.messages[:-1], after.messages, strict=False):
        assert (old["role"], old["content"]) == (new["role"], new["content"])
    last = after.messages[len(before.messages) - 1]
    assert last["content"].startswith(before.messages[-1]["content"])
    assert after.spans[: len(before.spans)] == before.spans
    for record, span in zip(context.records, after.spans, strict=True):
        assert after.messages[span.message]["content"][span.start : span.end].endswith(record.text)
    protected_spans(after.messages)


@pytest.mark.parametrize("make", WRITERS.values(), ids=WRITERS)
def test_token_spans_of_records(make) -> None:  # type: ignore[no-untyped-def]
    tokenizer = make()
    context = filled([("observation", "fridge 1 is open", ""), ("plan", "look", ""), ("action", "look", "")])
    rendered = render(context)
    ids = tokenizer(tokenizer.apply_chat_template(
        [{"role": m["role"], "content": m["content"]} for m in rendered.messages],
        tokenize=False, add_generation_prompt=True), add_special_tokens=False)["input_ids"]  # fmt: skip
    for record, (start, end) in zip(context.records, token_spans(rendered, tokenizer), strict=True):
        assert record.text in tokenizer.decode(ids[start:end])


def test_graph_rules() -> None:
    context = Context("cool an apple")
    add = context.add
    first = add("observation", "The cabinet 1 is closed.", "Cabinet 1").index
    plan = add("plan", "open cabinet 1").index
    tried = add("action", "open cabinet 1").index
    failed = add("failure", "It is stuck.").index
    graph = context.graph
    assert graph.superseded() == set()
    assert graph.protected() == {0, first, plan, tried, failed}

    second_plan = add("plan", "open cabinet 1").index
    assert graph.superseded() == {plan}
    assert graph.digraph[failed][plan]["supersedes"]
    again = add("action", "open  cabinet 1").index
    opened = add("observation", "In the cabinet 1 you see an apple 1.", "cabinet 1").index
    assert graph.superseded() == {first, plan, failed}
    assert graph.protected() == {0, second_plan, again, opened}
    assert graph.mentions(opened) == {first}
    assert graph.digraph[opened][first] == {"mentions": True, "supersedes": True}

    other = add("observation", "The cabinet 12 is closed.", "cabinet 12").index
    assert graph.mentions(other) == set() and opened not in graph.superseded()
    with pytest.raises(IndexError, match="no record 99"):
        graph.mentions(99)


def test_plan_failures_and_plans_without_outcome() -> None:
    context = Context("cool an apple")
    bad = context.add("plan", "fly").index
    failure = context.add("failure", "the plan could not be used").index
    assert failure in context.graph.protected()
    good = context.add("plan", "look").index
    assert context.graph.superseded() == {bad}
    action = context.add("action", "look").index
    assert context.graph.digraph[action][failure]["supersedes"]
    context.add("observation", "nothing")
    context.add("plan", "look")
    assert good in context.graph.superseded()
    newest = context.add("plan", "wait").index
    assert context.graph.protected() >= {newest} and context.graph.digraph[newest][newest - 1]["supersedes"]


def test_failed_command_with_an_observation_is_no_success() -> None:
    context = Context("cool an apple")
    context.add("action", "open fridge 1")
    failure = context.add("failure", "slipped").index
    context.add("observation", "Nothing happens.")
    assert failure in context.graph.protected()


def test_protected_part_is_bounded() -> None:
    context = Context("cool an apple")
    for number in range(100):
        context.add("action", f"take mug {number}")
        context.add("failure", "Nothing happens.")
    assert len(context.graph.protected()) == 1 + 2 * OPEN_FAILURES
    assert 200 in context.graph.protected()


@settings(max_examples=60, deadline=None)
@given(records)
def test_graph_read_piecemeal_equals_graph_read_at_once(rows: list[tuple[str, str, str]]) -> None:
    context = Context("cool an apple", TEMPLATES)
    for kind, text, subject in rows:
        context.add(kind, text, subject)  # type: ignore[arg-type]
        context.graph.protected()
    fresh = ContextGraph(context)
    assert fresh.superseded() == context.graph.superseded()
    assert fresh.protected() == context.graph.protected()
    assert nx.utils.graphs_equal(fresh.digraph, context.graph.digraph)
    assert all(newer > older for newer, older in fresh.digraph.edges)


def test_thousands_of_records_are_cheap() -> None:
    context = Context("cool an apple")

    def record(numbers: range) -> None:
        for number in numbers:
            subject = f"cabinet {number % 60}"
            context.add("action", f"go to {subject}")
            context.add("observation", f"You arrive at {subject}. It is closed, as {subject} was.", subject)
            context.graph.protected()

    record(range(120))
    early = lines_run(lambda: record(range(120, 240)))
    record(range(240, 4880))
    late = lines_run(lambda: record(range(4880, 5000)))
    assert len(context.graph.superseded()) == 5000 - 60
    assert late == early  # a record costs the same, however many there are
