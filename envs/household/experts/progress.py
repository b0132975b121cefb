"""Progress of a task: ALFRED's goal conditions, read from the true state."""

from __future__ import annotations

from erecap.envs.household.data.gamefile import Task
from erecap.envs.household.data.placement import LOOK, PICK_TWO
from erecap.envs.household.engine.world import World

# The trait that an object must have before it is put away.
TREATED = {
    "pick_clean_then_place_in_recep": "isclean",
    "pick_heat_then_place_in_recep": "ishot",
    "pick_cool_then_place_in_recep": "iscool",
}


def conditions(world: World, task: Task) -> tuple[int, int]:
    """Goal conditions that hold, and how many there are (`goal_conditions_met` in alfworld's `env/tasks.py`).

    - pick_and_place_simple: 1, an object of the kind is in a receptacle of the kind;
    - pick_two_obj_and_place: 2, one for each of two objects in the same receptacle;
    - look_at_obj_in_light: 2, an object of the kind is in the hand; a lamp within reach has been switched on;
    - clean, heat, cool: 3, an object is in place; an object is clean (hot, cool); one is both.
    """
    things = world.things_of(task.target)
    if task.type == LOOK:
        held = any(thing.id == world.held for thing in things)
        here = {holder.id for holder in world.holders_here()}
        lit = any(lamp.inside in here and "istoggled" in lamp.traits for lamp in world.things_of(task.toggle))
        return held + lit, 2
    placed = {holder.id: [t for t in things if t.inside == holder.id] for holder in world.holders_of(task.parent)}
    if task.type == PICK_TWO:
        return min(2, max((len(inside) for inside in placed.values()), default=0)), 2
    in_place = [thing for inside in placed.values() for thing in inside]
    if task.type not in TREATED:
        return int(bool(in_place)), 1
    trait = TREATED[task.type]
    treated = any(trait in thing.traits for thing in things)
    both = any(trait in thing.traits for thing in in_place)
    return bool(in_place) + treated + both, 3


def progress(world: World, task: Task) -> float:
    """Share of the goal conditions that hold, 0..1."""
    met, total = conditions(world, task)
    return met / total
