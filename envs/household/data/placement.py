"""Draw one game: a room, a goal that the room allows, and the start of every object."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from erecap.envs.household.data import alfworld_data
from erecap.envs.household.data.rooms import LAMP_KIND, LAMP_SURFACES, Receptacle, Room, Spot, load_room, room_numbers

# Which action a task type asks for before the object is put away: (property of the object, receptacle to use).
TREATMENTS = {
    "pick_clean_then_place_in_recep": ("Cleanable", "SinkBasin"),
    "pick_heat_then_place_in_recep": ("Heatable", "Microwave"),
    "pick_cool_then_place_in_recep": ("Coolable", "Fridge"),
}
LOOK = "look_at_obj_in_light"
PICK_TWO = "pick_two_obj_and_place"

# The engine knows no fullness. Rooms look lived in, and observations stay readable, with these limits at the start.
_SMALL = {"Drawer", "Shelf", "Cabinet", "Microwave", "SinkBasin", "GarbageCan", "Safe", "ToiletPaperHanger", "Toilet"}
_SMALL_HOLDS, _LARGE_HOLDS = 4, 9


@dataclass(frozen=True)
class Item:
    """One movable object, or a desk lamp."""

    id: str  # such as "Apple|+00.20|+00.98|-02.30"
    kind: str
    receptacle: str  # id of the receptacle that it starts in or on


@dataclass(frozen=True)
class Placement:
    """A drawn game, before it is written out."""

    room: Room
    task_type: str
    target: str  # kind of object to handle
    parent: str  # kind of receptacle to put it into; "" for look_at_obj_in_light
    toggle: str  # kind of lamp; "" otherwise
    sentence: str  # the goal in words
    items: tuple[Item, ...]  # sorted by id
    start: Spot


def draw(split: str, task_type: str, max_objects: int, rng: random.Random) -> Placement | None:
    """Draw a game of `task_type` in a room of `split`. All randomness comes from `rng`.

    Returns None where the drawn objects do not fit into the drawn room: draw again.
    """
    room = load_room(rng.choice(fitting_rooms(split, task_type)))
    # First the object, then the receptacle: objects that fit everywhere shall not crowd out the others.
    choices = goals_of(room, task_type)
    target = rng.choice(sorted(choices))
    place = rng.choice(choices[target])
    parent, toggle = ("", place) if task_type == LOOK else (place, "")
    items = _place(room, task_type, target, parent, max_objects, rng)
    if items is None:
        return None
    template = rng.choice(alfworld_data.goals()[task_type]["templates"])
    sentence = template.format(obj=target.lower(), recep=parent.lower(), toggle=toggle.lower())
    return Placement(room, task_type, target, parent, toggle, sentence, items, pick_start(room, rng))


def pick_start(room: Room, rng: random.Random) -> Spot:
    """Draw the agent's starting point: any reachable point, before no receptacle."""
    x, z = rng.choice(room.points)
    # Horizon 0 sets the start apart from the receptacles' spots if they share a grid point.
    taken = {receptacle.spot for receptacle in room.receptacles}
    turns = [turn for turn in range(4) if Spot(x, z, turn, 0) not in taken]
    return Spot(x, z, rng.choice(turns), 0)


@cache
def fitting_rooms(split: str, task_type: str) -> tuple[int, ...]:
    """Rooms of a split in which a game of `task_type` is possible and, by ALFRED's rules, makes sense."""
    kinds = alfworld_data.constants().GOALS_VALID[task_type]
    return tuple(n for n in room_numbers(split) if load_room(n).kind in kinds and goals_of(load_room(n), task_type))


def goals_of(room: Room, task_type: str) -> dict[str, list[str]]:
    """Kind of object -> kinds of receptacle (or lamp) that make a goal of `task_type` in `room`, both sorted.

    A goal needs the object in the room, a receptacle kind that can hold it, another one where it can start, and,
    for clean, heat and cool, the receptacle that does it. That receptacle is never the destination as well.
    """
    constants = alfworld_data.constants()
    has_lamp = bool(lamp_surfaces(room))
    treatment, tool = TREATMENTS.get(task_type, ("", ""))
    if (tool and tool not in room.receptacle_kinds) or (task_type == LOOK and not has_lamp):
        return {}
    found: dict[str, list[str]] = {}
    for kind in movable_kinds(room):
        homes = [home for home in room.receptacle_kinds if can_hold(home, kind)]
        if treatment and kind not in constants.VAL_ACTION_OBJECTS[treatment]:
            continue
        if task_type == LOOK:
            found[kind] = [LAMP_KIND]
        elif len(homes) > 1 and (parents := [home for home in homes if home != tool]):
            found[kind] = parents
    return found


def movable_kinds(room: Room) -> list[str]:
    """Kinds of objects of the room that can be carried and that one of its receptacles can hold, sorted."""
    kinds = room.receptacle_kinds
    return [kind for kind in room.object_kinds if any(can_hold(home, kind) for home in kinds)]


def can_hold(receptacle_kind: str, object_kind: str) -> bool:
    """Return True if objects of the one kind may be put into receptacles of the other (`VAL_RECEPTACLE_OBJECTS`)."""
    return object_kind in alfworld_data.constants().VAL_RECEPTACLE_OBJECTS.get(receptacle_kind, ())


def lamp_surfaces(room: Room) -> list[Receptacle]:
    """Receptacles on which the room's desk lamp can stand; none in a room without one."""
    if LAMP_KIND not in room.object_kinds:
        return []
    return [receptacle for receptacle in room.receptacles if receptacle.kind in LAMP_SURFACES]


def _place(
    room: Room, task_type: str, target: str, parent: str, max_objects: int, rng: random.Random
) -> tuple[Item, ...] | None:
    # ALFRED starts a scene with up to three instances of a kind (constants.MAX_NUM_OF_OBJ_INSTANCES).
    most = alfworld_data.constants().MAX_NUM_OF_OBJ_INSTANCES
    targets = [target] * rng.randint(2 if task_type == PICK_TWO else 1, most)
    others = [kind for kind in movable_kinds(room) if kind != target for _ in range(rng.randint(1, most))]
    rng.shuffle(others)
    free = space(room)
    items: dict[str, Item] = {}
    surfaces = lamp_surfaces(room)
    if surfaces:
        add_item(items, LAMP_KIND, rng.choice(surfaces), free, rng)
    for kind in targets + others:
        if len(items) >= max_objects + bool(surfaces):
            break
        homes = [
            receptacle
            for receptacle in room.receptacles
            if free[receptacle.id] > 0
            and can_hold(receptacle.kind, kind)
            and not (kind == target and receptacle.kind == parent)  # nothing is done before it starts
        ]
        if homes:
            add_item(items, kind, rng.choice(homes), free, rng)
        elif kind == target:
            return None
    return tuple(items[name] for name in sorted(items))


def space(room: Room) -> dict[str, int]:
    """Id of receptacle -> how many objects it takes at the start."""
    return {r.id: _SMALL_HOLDS if r.kind in _SMALL else _LARGE_HOLDS for r in room.receptacles}


def add_item(items: dict[str, Item], kind: str, home: Receptacle, free: dict[str, int], rng: random.Random) -> None:
    """Put an object of a kind into `home`: adds it to `items` by its id, and counts down `free`."""
    x, y, z = home.position
    while True:
        spread = [round(value + rng.uniform(-0.3, 0.3), 2) for value in (x, z)]
        identifier = "|".join([kind, *(_coordinate(value) for value in (spread[0], y, spread[1]))])
        if identifier not in items:
            break
    items[identifier] = Item(identifier, kind, home.id)
    free[home.id] -= 1


def _coordinate(value: float) -> str:
    """A coordinate as AI2-THOR writes it into object names: `+00.68`."""
    return f"{value + 0.0:+06.2f}"


def kinds_of(items: Iterable[Item]) -> list[str]:
    """Kinds of the items, sorted, each once."""
    return sorted({item.kind for item in items})
