"""Furnishing of a room for a chain of goals: few objects of each kind, most of them behind doors."""

from __future__ import annotations

import random

from erecap.envs.household.data import alfworld_data
from erecap.envs.household.data.placement import (
    Item,
    Placement,
    add_item,
    can_hold,
    goals_of,
    lamp_surfaces,
    movable_kinds,
    pick_start,
    space,
)
from erecap.envs.household.data.rooms import LAMP_KIND, Room

_BEHIND_DOORS = 3.0
"""How much likelier an object lies in furniture with doors than on an open surface."""
SIMPLE = "pick_and_place_simple"
_SINGLE = 0.5
"""Share of the kinds of which there is one object; of the others there are two or three."""


def furnish(room: Room, max_objects: int, rng: random.Random) -> Placement | None:
    """A room with objects and a starting point; its goal is a stand-in. All randomness comes from `rng`.

    None where the objects leave nothing to do.
    """
    doors = alfworld_data.constants().OPENABLE_CLASS_SET
    most = alfworld_data.constants().MAX_NUM_OF_OBJ_INSTANCES
    free = space(room)
    items: dict[str, Item] = {}
    surfaces = lamp_surfaces(room)
    if surfaces:
        add_item(items, LAMP_KIND, rng.choice(surfaces), free, rng)
    once = list(movable_kinds(room))
    rng.shuffle(once)
    more = [kind for kind in once if rng.random() >= _SINGLE for _ in range(rng.randint(1, most - 1))]
    rng.shuffle(more)
    # Every kind once before any kind twice: goals can be about many things.
    for kind in (once + more)[:max_objects]:
        homes = [
            receptacle for receptacle in room.receptacles if free[receptacle.id] and can_hold(receptacle.kind, kind)
        ]
        if homes:
            weights = [_BEHIND_DOORS if home.kind in doors else 1.0 for home in homes]
            add_item(items, kind, rng.choices(homes, weights)[0], free, rng)
    ordered = tuple(items[name] for name in sorted(items))
    # The engine wants a goal that can be reached and is not reached yet; the first of the chain takes its place.
    stand_in = _any_goal(room, ordered)
    if stand_in is None:
        return None
    target, parent = stand_in
    return Placement(room, SIMPLE, target, parent, "", "tidy up", ordered, pick_start(room, rng))


def _any_goal(room: Room, items: tuple[Item, ...]) -> tuple[str, str] | None:
    home_of = {receptacle.id: receptacle.kind for receptacle in room.receptacles}
    used = {(item.kind, home_of[item.receptacle]) for item in items}
    choices = goals_of(room, SIMPLE)
    kinds = sorted({item.kind for item in items} & set(choices))
    pairs = ((kind, home) for kind in kinds for home in choices[kind])
    return next((pair for pair in pairs if pair not in used), None)
