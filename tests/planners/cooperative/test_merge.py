"""Merging: contradictions between plans, and the rule that resolves them."""

from __future__ import annotations

from erecap.planners.cooperative.merge import Conflict, Merger

TEMPLATES = ("go to {place}", "pick up {item}", "put {item} on {surface}", "wait")
FETCH = ("go to table 1", "pick up cup 1", "go to shelf 1", "put cup 1 on shelf 1")


def merger(*rules: str, exclusive: tuple[str, ...] = ("item",), tell: bool = False) -> Merger:
    return Merger(TEMPLATES, exclusive, "Put a cup on shelf 1.", rules, tell=tell)


def test_things_of_a_plan() -> None:
    assert merger().claims(FETCH) == {"cup 1": 1}
    # The goal names shelf 1: it is nobody's own.
    assert merger(exclusive=("place", "surface")).claims(FETCH) == {"table 1": 0}


def test_plans_for_different_things_stand() -> None:
    merged = merger().merge("a", ("pick up cup 2",), {"b": FETCH, "a": ("pick up cup 1",)})
    assert merged.steps == ("pick up cup 2",) and not merged.others and not merged.conflicts


def test_the_older_plan_keeps_the_thing() -> None:
    merged = merger().merge("a", ("go to table 1", "pick up cup 1", "wait"), {"b": FETCH})
    assert merged.steps == ("go to table 1",) and not merged.others
    assert merged.conflicts == (Conflict("thing", "cup 1", "b", "a", "rule"),)
    assert str(merged.conflicts[0]) == "cup 1 stays with b, a gives way"
    assert merger().merge("a", ("pick up cup 1",), {"b": FETCH}).steps == ()


def test_a_place_can_be_exclusive() -> None:
    merged = merger(exclusive=("place",)).merge("a", ("go to table 1", "wait"), {"b": FETCH})
    assert merged.steps == () and merged.conflicts[0].thing == "table 1"


def test_a_planner_leaves_a_thing_to_another() -> None:
    merged = merger().merge("a", ("go to table 2",), {"b": FETCH}, left=("cup 1",))
    assert merged.steps == ("go to table 2",)
    assert merged.conflicts == (Conflict("thing", "cup 1", "b", "a", "planner"),)
    # What it leaves to another it does not do.
    assert merger().merge("a", ("wait", *FETCH), {"b": FETCH}, left=("cup 1",)).steps == ("wait", "go to table 1")


def test_told_first_the_planner_of_the_older_plan_gives_way() -> None:
    rules = merger(tell=True)
    asked = rules.merge("a", ("pick up cup 1",), {"b": FETCH})
    assert asked.steps == ("pick up cup 1",) and asked.others == {"b": ()}  # so b is asked at its next turn
    assert asked.conflicts == (Conflict("thing", "cup 1", "b", "a", "asked"),)
    after = rules.merge("b", ("go to table 2",), {"a": ("pick up cup 1",)})
    assert after.steps == ("go to table 2",) and not after.others
    assert after.conflicts == (Conflict("thing", "cup 1", "a", "b", "planner"),)


def test_told_first_the_planner_of_the_older_plan_insists() -> None:
    rules = merger(tell=True)
    rules.merge("a", ("wait", "pick up cup 1"), {"b": FETCH})
    again = rules.merge("b", FETCH, {"a": ("wait", "pick up cup 1")})
    assert again.steps == FETCH and again.others == {"a": ("wait",)}
    assert again.conflicts == (Conflict("thing", "cup 1", "b", "a", "rule"),)


def test_a_third_robot_that_wants_the_thing_meanwhile_does_not_answer_for_the_one_that_is_asked() -> None:
    rules, newer = merger(tell=True), ("wait", "pick up cup 1")
    rules.merge("a", newer, {"b": FETCH})
    third = rules.merge("c", ("wait", "pick up cup 1"), {"a": newer})
    assert third.steps == ("wait",) and third.conflicts == (Conflict("thing", "cup 1", "a", "c", "rule"),)
    again = rules.merge("b", FETCH, {"a": newer, "c": ("wait",)})
    assert again.steps == FETCH and again.others == {"a": ("wait",)}
    assert again.conflicts == (Conflict("thing", "cup 1", "b", "a", "rule"),)


def test_who_is_asked_and_leaves_the_thing_by_name_gives_way_once() -> None:
    rules = merger(tell=True)
    rules.merge("a", ("pick up cup 1",), {"b": FETCH})
    after = rules.merge("b", ("go to table 2",), {"a": ("pick up cup 1",)}, left=("cup 1",))
    assert after.conflicts == (Conflict("thing", "cup 1", "a", "b", "planner"),)
    assert rules.merge("c", ("wait", "pick up cup 1"), {"a": ("pick up cup 1",)}).others == {"a": ()}  # a new question


def test_who_has_begun_with_a_thing_keeps_it() -> None:
    rules = merger(tell=True)
    rules.merge("a", ("pick up cup 1", *FETCH[2:]), {"b": FETCH})
    again = rules.merge("b", FETCH, {"a": FETCH[2:]}, done={"a": ["pick up cup 1"]})
    assert again.steps == ("go to table 1",) and not again.others


def test_order_waits_for_a_planned_command_and_ends_a_plan_before_an_unplanned_one() -> None:
    rules = merger("put cup before put book")
    book = ("pick up book 1", "go to shelf 1", "put book 1 on shelf 1")
    held = rules.merge("a", book, {"b": FETCH})
    assert held.steps == book and held.conflicts == (Conflict("order", "put cup", "b", "a", "rule"),)
    alone = rules.merge("a", book, {"b": ("wait",)})
    assert alone.steps == book[:2] and alone.conflicts == (Conflict("order", "put cup", "", "a", "rule"),)
    assert not rules.merge("a", book, {}, done={"b": ["put cup 1 on shelf 1"]}).conflicts
    own = rules.merge("a", (*FETCH, *book), {})
    assert own.steps == (*FETCH, *book) and not own.conflicts
    assert rules.merge("a", (*book, *FETCH), {}).steps == book[:2]
    assert rules.awaited("put booklet 1 on shelf 1", []) == []


def test_an_order_may_name_a_place() -> None:
    rules = merger("put cup on shelf 1 before put book on shelf 1")
    assert rules.awaited("put book 1 on shelf 1", ["put cup 1 on table 1"]) == ["put cup on shelf 1"]
    assert rules.awaited("put book 1 on shelf 1", ["put cup 2 on shelf 1"]) == []
    assert rules.awaited("put book 1 on table 1", []) == []  # laid down elsewhere
    assert rules.awaited("put book 1 on shelf 12", []) == []
