"""Generated houses: they reproduce, differ, keep to their split, and everything in them can be reached."""

from __future__ import annotations

import itertools

import pytest

from erecap.envs.floor_plans import Layout
from erecap.envs.habitat.houses.furnish import BACK, LIFT
from erecap.envs.habitat.houses.furniture import FURNITURE
from erecap.envs.habitat.houses.generate import RECEPTACLES, generate_house
from erecap.envs.habitat.houses.house import House
from erecap.envs.habitat.houses.objects import OBJECTS
from erecap.envs.habitat.houses.rooms import FLOORS, ROOMS
from erecap.errors import GameError
from tests.envs.habitat.houses.houses import AGENT, CELL, COUNT, footprint, furniture, houses, walkable


def layout(house: House) -> Layout:
    """The floor plan of a house, read off its rooms and doors."""
    columns = sorted({room.box[0] for room in house.rooms})
    rows = sorted({room.box[1] for room in house.rooms})
    cells = {room.name: (columns.index(room.box[0]), rows.index(room.box[1])) for room in house.rooms}
    placed = sorted(cells.values())
    pairs = [sorted(placed.index(cells[name]) for name in door.rooms) for door in house.doors]
    return Layout(tuple(placed), tuple(sorted((a, b) for a, b in pairs)))


def test_houses_reproduce_and_differ() -> None:
    made = houses()
    again = [generate_house(house.seed, split=house.split) for house in made]
    assert list(made) == again
    assert len({(house.rooms, house.doors) for house in made}) == COUNT


def test_a_house_depends_on_every_argument() -> None:
    first = generate_house("1", split="train", rooms=(4, 4))
    others = [
        generate_house("2", split="train", rooms=(4, 4)),
        generate_house("1", split="unseen", rooms=(4, 4)),
        generate_house("1", split="train", rooms=(4, 5)),
        generate_house("1", split="train", rooms=(4, 4), objects=11),
    ]
    assert all(other.things != first.things for other in others)


def test_floor_plans_belong_to_one_split() -> None:
    plans = {split: {layout(house) for house in houses() if house.split == split} for split in ("train", "unseen")}
    assert not plans["train"] & plans["unseen"]
    assert all(plan.split == split for split, found in plans.items() for plan in found)
    assert min(map(len, plans.values())) > 10


@pytest.mark.parametrize("rooms", [3, 6, 9])
def test_numbers_of_rooms_and_objects_are_those_wanted(rooms: int) -> None:
    house = generate_house("a", split="unseen", rooms=(rooms, rooms), objects=7)
    assert len(house.rooms) == rooms and len({room.name for room in house.rooms}) == rooms
    assert sum(thing.movable for thing in house.things) == 7
    assert {room.kind for room in house.rooms} <= set(ROOMS) == set(FLOORS)


def test_what_cannot_be_drawn_is_refused_in_one_line() -> None:
    message = r"no house with 3 to 3 rooms, 6 places and 90 objects .*set more rooms"
    with pytest.raises(GameError, match=message) as caught:
        generate_house("a", split="train", rooms=(3, 3), objects=90)
    assert "\n" not in str(caught.value)


def test_doorways_are_wide_and_between_their_rooms() -> None:
    for house in houses():
        boxes = {room.name: room.box for room in house.rooms}
        for door in house.doors:
            assert door.width >= 1.0
            x, y, z = door.centre
            assert y == 0.0
            for name in door.rooms:
                x0, z0, x1, z1 = boxes[name]
                beside = (x0 + 0.4 < x < x1 - 0.4 and not z0 < z < z1) or (z0 + 0.4 < z < z1 - 0.4 and not x0 < x < x1)
                assert beside and max(x0 - x, x - x1, z0 - z, z - z1) == pytest.approx(0.06)


def test_names_are_words_and_unique() -> None:
    for house in houses():
        assert len({thing.name for thing in house.things}) == len(house.things)
        assert len({thing.id for thing in house.things}) == len(house.things)
        assert [thing.semantic_id for thing in house.things] == list(range(1, len(house.things) + 1))
        assert all(thing.name == f"{thing.colour} {thing.category}" for thing in house.things)
        assert all(thing.id.replace("_", "").isalpha() and thing.id.isascii() for thing in house.things)


def test_a_colour_tells_things_of_one_category_apart() -> None:
    for house in houses():
        movable = [thing.category for thing in house.things if thing.movable]
        standing = [thing.category for thing in furniture(house)]
        assert len(set(movable)) < len(movable) and len(set(standing)) < len(standing)


def test_every_room_has_places_for_objects() -> None:
    for house in houses():
        places = [thing for thing in house.things if thing.receptacle]
        assert len(places) >= RECEPTACLES
        assert {thing.room for thing in places} == {room.name for room in house.rooms}
        used = {thing.on for thing in house.things if thing.movable}
        assert len(used) == min(len(places), sum(thing.movable for thing in house.things))


def test_things_stand_inside_their_room_and_do_not_overlap() -> None:
    for house in houses():
        boxes = {room.name: room.box for room in house.rooms}
        for thing in house.things:
            x0, z0, x1, z1 = footprint(thing)
            room = boxes[thing.room]
            assert room[0] <= x0 and room[1] <= z0 and x1 <= room[2] and z1 <= room[3]
        for a, b in itertools.combinations(house.things, 2):
            gaps = [abs(p - q) - (s + t) / 2 for p, q, s, t in zip(a.centre, b.centre, a.size, b.size, strict=True)]
            lies = a.on == b.id or b.on == a.id  # such as within the outline of a shelf
            assert lies or max(gaps) > 0, (a.name, b.name)


def test_furniture_stands_on_the_floor_with_its_back_to_a_wall() -> None:
    for house in houses():
        boxes = {room.name: room.box for room in house.rooms}
        for thing in furniture(house):
            assert thing.centre[1] == pytest.approx(thing.size[1] / 2, abs=1e-3)
            x0, z0, x1, z1 = footprint(thing)
            room = boxes[thing.room]
            gaps = sorted((x0 - room[0], z0 - room[1], room[2] - x1, room[3] - z1))
            assert gaps[0] == pytest.approx(BACK, abs=0.01) and gaps[1] > 2 * BACK


def test_objects_lie_on_their_furniture() -> None:
    for house in houses():
        by_id = {thing.id: thing for thing in house.things}
        for thing in house.things:
            if not thing.movable:
                assert thing.on == ""
                continue
            under = by_id[thing.on]
            x0, z0, x1, z1 = footprint(under)
            assert under.receptacle and under.room == thing.room
            assert x0 < thing.centre[0] < x1 and z0 < thing.centre[2] < z1
            surface = FURNITURE[under.category].surface
            assert surface is not None
            assert thing.centre[1] - thing.size[1] / 2 == pytest.approx(surface + LIFT, abs=1e-3)


def test_everything_can_be_reached() -> None:
    for house in houses()[:20]:
        cells = walkable(house)
        for room in house.rooms:
            x0, z0, x1, z1 = room.box
            inside = sum(x0 < i * CELL < x1 and z0 < j * CELL < z1 for i, j in cells)
            assert inside * CELL**2 > 0.3 * (x1 - x0) * (z1 - z0), room.name
            for thing in furniture(house):
                if thing.room != room.name:
                    continue
                a, b, c, d = footprint(thing)
                reach = AGENT + 0.1
                near = any(
                    (i, j) in cells
                    for i in range(int((a - reach) / CELL), int((c + reach) / CELL) + 1)
                    for j in range(int((b - reach) / CELL), int((d + reach) / CELL) + 1)
                    if x0 < i * CELL < x1 and z0 < j * CELL < z1
                )
                assert near, (house.seed, thing.name)


@pytest.mark.parametrize("category", [*FURNITURE, *OBJECTS])
def test_boxes_of_a_shape_fill_its_size(category: str) -> None:
    shape = FURNITURE.get(category) or OBJECTS[category]
    assert len(shape.boxes) > 1  # so that it is not like every other thing
    for axis in range(3):
        assert min(box.low[axis] for box in shape.boxes) == pytest.approx(0)
        assert max(box.high[axis] for box in shape.boxes) == pytest.approx(shape.size[axis])
        assert all(box.low[axis] < box.high[axis] for box in shape.boxes)
    assert shape.surface is None or shape.surface <= shape.size[1]


def test_categories_have_different_names() -> None:
    assert not set(FURNITURE) & set(OBJECTS)
    assert {category for wanted in ROOMS.values() for category in wanted} <= set(FURNITURE)
