"""Choice of the next goal of a chain: mostly an object that was seen, but not lately, and is hard to find again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from erecap.envs.household.data import alfworld_data
from erecap.envs.household.data.gamefile import Task
from erecap.envs.household.data.placement import LOOK, PICK_TWO, Placement, goals_of
from erecap.envs.household.data.search_order import openable_kinds
from erecap.envs.household.engine.world import World
from erecap.envs.household.experts.memory import Memory, kind_of
from erecap.envs.household.experts.progress import progress
from erecap.envs.household.experts.search import next_search

# Which kind of object a later goal asks for, and how often: seen, but not lately; the one of an earlier goal; any.
_ABOUT = (("seen", 0.65), ("again", 0.1), ("any", 0.25))
_LATELY = 6  # objects at least, and half of those that are known
_DRAWN_FROM = 6  # candidates, of which the one that takes the longest search is asked for


@dataclass(frozen=True)
class Wish:
    """A task as the generator writes it: kinds with capitals."""

    type: str
    target: str
    place: str  # receptacle, or lamp to look under
    task: Task

    def sentence(self, rng: random.Random) -> str:
        """The task in words, in one of ALFRED's phrasings."""
        names = {"obj": self.target.lower(), "recep": self.place.lower(), "toggle": self.place.lower()}
        return rng.choice(alfworld_data.goals()[self.type]["templates"]).format(**names)

    def first_of(self, placement: Placement, sentence: str) -> Placement:
        """The placement with this task as its goal."""
        parent, toggle = ("", self.place) if self.type == LOOK else (self.place, "")
        return replace(
            placement, task_type=self.type, target=self.target, parent=parent, toggle=toggle, sentence=sentence
        )


def draw_wish(
    placement: Placement,
    task_types: Sequence[str],
    earlier: Sequence[Wish],
    world: World,
    memory: Memory,
    rng: random.Random,
) -> Wish | None:
    """A goal that is open in `world`, none of the `earlier`, about what `_ABOUT` draws if that is to be had."""
    wishes = [wish for wish in _open_wishes(placement, task_types, world) if wish not in earlier]
    known = list(memory.where)
    lately = {kind_of(thing) for thing in known[-max(_LATELY, len(known) // 2) :]} | {kind_of(memory.held)}
    seen = {kind_of(thing) for thing in memory.where} - lately
    about = {"seen": seen, "again": {wish.task.target for wish in earlier}, "any": {w.task.target for w in wishes}}
    wanted = about[rng.choices([name for name, _ in _ABOUT], [weight for _, weight in _ABOUT])[0]]
    fitting = [wish for wish in wishes if wish.task.target in wanted] or wishes
    if not fitting:
        return None
    # First the type, then the object: types with many objects shall not crowd out the others.
    chosen = rng.choice(sorted({wish.type for wish in fitting}))
    fitting = [wish for wish in fitting if wish.type == chosen]
    targets = sorted({wish.target for wish in fitting})
    drawn = rng.sample(targets, min(_DRAWN_FROM, len(targets)))
    afresh = Memory(receptacles=memory.receptacles)
    two = 2 if chosen == PICK_TWO else 1
    target = max(drawn, key=lambda kind: search_cost(afresh, world, kind.lower(), two))
    return rng.choice([wish for wish in fitting if wish.target == target])


def _open_wishes(placement: Placement, task_types: Sequence[str], world: World) -> list[Wish]:
    present = [thing.kind for thing in world.things.values()]
    wishes = []
    for task_type in task_types:
        if placement.room.kind not in alfworld_data.constants().GOALS_VALID[task_type]:
            continue
        for target, places in sorted(goals_of(placement.room, task_type).items()):
            if present.count(target.lower()) < (2 if task_type == PICK_TWO else 1):
                continue
            for place in places:
                parent, toggle = ("", place) if task_type == LOOK else (place, "")
                task = Task(task_type, target.lower(), parent.lower(), toggle.lower(), placement.room.number)
                if progress(world, task) < 1:
                    wishes.append(Wish(task_type, target, place, task))
    return wishes


def search_cost(memory: Memory, world: World, kind: str, count: int = 1) -> int:
    """Commands of looking, from `memory` on, until `count` objects of a kind are found that lie in a receptacle.

    A look costs one command, or two where a door is to be opened. All looks are counted if there are not as many.
    """
    names = {holder.id: holder.name for holder in world.holders.values()}
    inside = [names[thing.inside] for thing in world.things_of(kind) if thing.inside in names]
    memory = memory.copy()
    cost = 0
    while count > 0 and (name := next_search(memory, kind)) is not None:
        memory.looked_into.add(name)
        cost += 2 if kind_of(name) in openable_kinds() else 1
        count -= inside.count(name)
    return cost
