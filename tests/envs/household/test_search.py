"""The searching expert's choices, in rooms given as text."""

import random

import pytest

from erecap.envs.household.data.gamefile import Task
from erecap.envs.household.data.search_order import can_hold, openable_kinds, search_kinds
from erecap.envs.household.experts.memory import Memory, kind_of
from erecap.envs.household.experts.search import next_search, search_plan

VERBS = {
    "gotolocation": "go to {r}",
    "openobject": "open {r}",
    "pickupobject": "take {o} from {r}",
    "putobject": "move {o} to {r}",
    "cleanobject": "clean {o} with {r}",
    "heatobject": "heat {o} with {r}",
    "coolobject": "cool {o} with {r}",
    "toggleobject": "use {o}",
}
NAMES = ["fridge 1", "cabinet 2", "cabinet 1", "countertop 1", "microwave 1", "sinkbasin 1", "shelf 1", "drawer 1"]
ROOM = f"You are in the middle of a room. Looking quickly around you, you see {', '.join('a ' + n for n in NAMES)}."
HEAT = Task("pick_heat_then_place_in_recep", "mug", "cabinet", "", 1)
PLACE = Task("pick_and_place_simple", "mug", "countertop", "", 1)
TWO = Task("pick_two_obj_and_place", "mug", "cabinet", "", 1)
LIGHT = Task("look_at_obj_in_light", "mug", "", "desklamp", 1)


def plan(task: Task, *texts: str) -> tuple[str, ...]:
    return search_plan(Memory.of([ROOM, *texts]), task, VERBS)


def test_open_surfaces_are_searched_before_doors():
    for thing in ("mug", "apple", "keychain", "towel", "desklamp"):
        kinds = search_kinds(thing)
        shut = [kind in openable_kinds() for kind in kinds]
        assert kinds and shut == sorted(shut), kinds
        assert thing == "desklamp" or all(can_hold(kind, thing) for kind in kinds)


def test_every_place_is_searched_once_and_plausible_ones_first():
    memory = Memory.of([ROOM])
    order = []
    while (name := next_search(memory, "mug")) is not None:
        order.append(name)
        memory.looked_into.add(name)
    assert sorted(order) == sorted(NAMES)
    assert [can_hold(kind_of(name), "mug") for name in order] == [True] * 7 + [False]  # a drawer holds no mugs
    assert order.index("cabinet 1") < order.index("cabinet 2")


def test_a_search_ends_where_something_will_be_seen():
    surface, *rest = plan(PLACE)
    assert surface.startswith("go to ") and not rest
    seen = [f"You arrive at {n}. On the {n}, you see nothing." for n in ("countertop 1", "sinkbasin 1", "shelf 1")]
    going, opening = plan(PLACE, *seen)
    assert going.removeprefix("go to ") == opening.removeprefix("open ")
    shut = going.removeprefix("go to ")
    assert plan(PLACE, *seen, f"You arrive at {shut}. The {shut} is closed.") == (f"open {shut}",)


def test_what_was_once_seen_is_fetched_without_a_search():
    seen = "You open the cabinet 2. The cabinet 2 is open. In it, you see a mug 3."
    later = "You arrive at countertop 1. On the countertop 1, you see a egg 1."
    assert plan(HEAT, seen, later) == (
        "go to cabinet 2",
        "take mug 3 from cabinet 2",
        "go to microwave 1",
        "heat mug 3 with microwave 1",
        "go to cabinet 2",  # it stands open
    )
    assert plan(HEAT, seen, "You close the cabinet 2.", later)[1] == "open cabinet 2"


def test_a_treated_object_needs_no_second_treatment():
    told = ["You pick up the mug 1 from the shelf 1.", "You heat the mug 1 using the microwave 1."]
    assert plan(HEAT, *told) == ("go to cabinet 1", "open cabinet 1", "move mug 1 to cabinet 1")
    told += ["You move the mug 1 to the shelf 1.", "On the countertop 1, you see a mug 2."]
    assert plan(HEAT, *told)[:2] == ("go to shelf 1", "take mug 1 from shelf 1")


def test_a_full_hand_is_emptied_first_and_here_if_that_goes():
    seen = "You arrive at shelf 1. On the shelf 1, you see a mug 1."
    assert plan(PLACE, "You are carrying: a book 1.", seen)[:2] == ("move book 1 to shelf 1", "take mug 1 from shelf 1")
    steps = plan(PLACE, "You are carrying: a apple 1.", seen)  # a shelf holds no apples
    assert steps[:3] == ("go to countertop 1", "move apple 1 to countertop 1", "go to shelf 1")


def test_two_go_into_one_place_and_the_choice_does_not_waver():
    where = {"mug 1": "cabinet 2", "mug 2": "cabinet 1"}
    texts = [f"The {place} is open. In it, you see a {thing}." for thing, place in where.items()]
    for start in ("cabinet 1", "cabinet 2", "shelf 1"):
        steps = plan(TWO, *texts, f"You are facing the {start}. Next to it, you see nothing.")
        assert steps[-3:] == ("take mug 1 from cabinet 2", "go to cabinet 1", "move mug 1 to cabinet 1")


def test_the_first_of_two_is_brought_before_the_second_is_searched():
    steps = plan(TWO, "You arrive at shelf 1. On the shelf 1, you see a mug 1.")
    assert steps[:4] == ("take mug 1 from shelf 1", "go to cabinet 1", "open cabinet 1", "move mug 1 to cabinet 1")
    assert steps[4].startswith("go to ")


def test_under_a_lamp():
    lamp = "On the countertop 1, you see a desklamp 1."
    mug = "On the shelf 1, you see a mug 1."
    assert plan(LIGHT, mug)[:2] == ("go to shelf 1", "take mug 1 from shelf 1") and len(plan(LIGHT, mug)) == 3
    assert plan(LIGHT, mug, lamp)[2:] == ("go to countertop 1", "use desklamp 1")
    held = [lamp, "You are carrying: a mug 1.", "You turn on the desklamp 1."]
    assert plan(LIGHT, *held) == ("go to countertop 1",)


@pytest.mark.parametrize("task", [HEAT, PLACE, TWO, LIGHT])
def test_the_plan_depends_on_the_memory_alone_and_leaves_it_as_it_is(task):
    texts = [f"On the {name}, you see a mug {i}." for i, name in enumerate(NAMES[:3], 1)]
    memory = Memory.of([ROOM, *texts])
    before = memory.copy()
    first = search_plan(memory, task, VERBS)
    assert memory == before and 1 <= len(first) <= 5
    shuffled = list(NAMES)
    random.Random(0).shuffle(shuffled)
    memory.receptacles = tuple(shuffled)
    assert search_plan(memory, task, VERBS) == first
