"""The memory that the text of an episode leaves."""

from erecap.envs.household.experts.memory import Memory, kind_of, number_of

ROOM = "You are in the middle of a room. Looking quickly around you, you see a fridge 1, a cabinet 10, and a cabinet 2."


def after(*texts: str) -> Memory:
    return Memory.of([ROOM, *texts])


def test_the_first_observation_names_the_receptacles():
    memory = after()
    assert set(memory.receptacles) == {"fridge 1", "cabinet 10", "cabinet 2"}
    assert memory.receptacles_of("cabinet") == ["cabinet 2", "cabinet 10"]
    assert (memory.place, memory.held, memory.where, memory.looked_into) == ("", "", {}, set())


def test_a_shut_door_shows_nothing_and_an_open_one_all():
    memory = after("You arrive at fridge 1. The fridge 1 is closed.")
    assert memory.place == "fridge 1" and not memory.looked_into and not memory.opened
    memory.read("You open the fridge 1. The fridge 1 is open. In it, you see a egg 2, and a apple 1.")
    assert memory.looked_into == memory.opened == {"fridge 1"}
    assert memory.where == {"egg 2": "fridge 1", "apple 1": "fridge 1"}
    memory.read("You close the fridge 1.")
    assert not memory.opened and memory.where["apple 1"] == "fridge 1"  # known behind the door


def test_things_move_with_the_hand():
    memory = after("You arrive at shelf 1. On the shelf 1, you see a mug 1, and a mug 2.")
    memory.read("You pick up the mug 1 from the shelf 1.")
    assert memory.held == "mug 1" and memory.things_of("mug") == ["mug 2"]
    memory.read("You heat the mug 1 using the microwave 1.")
    memory.read("You cool the mug 1 using the fridge 1.")
    memory.read("You clean the mug 1 using the sinkbasin 1.")
    assert memory.traits["mug 1"] == {"cool", "clean"}
    memory.read("You move the mug 1 to the shelf 2.")
    assert memory.held == "" and memory.where["mug 1"] == "shelf 2"
    assert memory.things_of("mug") == ["mug 1", "mug 2"] and "shelf 2" not in memory.looked_into


def test_the_newest_look_replaces_the_older_one():
    memory = after("On the shelf 1, you see a mug 1, and a pen 1.", "On the shelf 1, you see a pen 1.")
    assert memory.where == {"pen 1": "shelf 1"}
    memory.read("On the shelf 1, you see nothing.")
    assert memory.where == {} and memory.looked_into == {"shelf 1"}


def test_lamps_inventory_and_facing():
    memory = after("You turn on the desklamp 1.", "You are carrying: a pen 3.", "You are facing the cabinet 2. Next")
    assert (memory.lit, memory.held, memory.place) == ({"desklamp 1"}, "pen 3", "cabinet 2")
    memory.read("You are not carrying anything.")
    assert memory.held == ""


def test_what_did_nothing_teaches_nothing():
    memory = after("On the shelf 1, you see a mug 1.")
    before = memory.copy()
    for text in (
        "Nothing happens.",
        "The action slipped, nothing happens.",
        "",
        "There's nothing special about mug 9.",
    ):
        memory.read(text)
    assert memory == before


def test_an_announcement_is_no_sight():
    memory = after("You move the mug 1 to the shelf 2. Done. Your next task is: put a hot egg in fridge.")
    assert memory.where == {"mug 1": "shelf 2"}


def test_names():
    assert (kind_of("cabinet 10"), number_of("cabinet 10"), kind_of("")) == ("cabinet", 10, "")
