"""Draws chains: several goals one after the other in one home, so that what was seen for one serves the next.

The goals are drawn along an episode that the searching expert plays: a later one mostly asks for something that it has
seen by then, and not lately. So an agent that remembers goes straight there, and one that does not must search again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erecap.envs.household import wheel
from erecap.envs.household.conditions import progress
from erecap.envs.household.expert import best_way
from erecap.envs.household.furnish import furnish
from erecap.envs.household.gamefile import GameData, Goal, Task, game_json
from erecap.envs.household.goals import holds
from erecap.envs.household.memory import Memory, kind_of
from erecap.envs.household.placement import LOOK, PICK_TWO, Placement, fitting_rooms, goals_of
from erecap.envs.household.plausible import openable_kinds
from erecap.envs.household.rooms import load_room
from erecap.envs.household.search import next_search, search_plan
from erecap.envs.household.travel import floor_plan
from erecap.envs.household.world import World

if TYPE_CHECKING:
    from erecap.envs.household.engine import Engine, Turn

MIN_RECEPTACLES = 12
MAX_SEARCH_STEPS = 115
"""Commands of the searching expert for all goals of a chain: well within the 150 steps of the suites."""
# Which kind of object a later goal asks for, and how often: seen, but not lately; the one of an earlier goal; any.
_ABOUT = (("seen", 0.6), ("again", 0.2), ("any", 0.2))
_LATELY = 6  # objects
_DRAWN_FROM = 4  # candidates, of which the one that takes the longest search is asked for


def least_steps(receptacles: int) -> int:
    """Commands of the searching expert that a chain must take, so that there is something to remember."""
    return min(50, 2 * receptacles)


@dataclass(frozen=True)
class Chain:
    """A drawn chain that both experts have played to its end."""

    placement: Placement  # its own goal is the first of the chain
    goals: tuple[Goal, ...]
    walkthrough: list[str]  # of the expert that knows everything
    search_steps: int  # commands that the searching expert needed

    def notes(self) -> dict[str, Any]:
        """What `traj_data.json` says of the chain under `erecap`."""
        return {"search_steps": self.search_steps, "goals": [asdict(goal) for goal in self.goals]}


@dataclass(frozen=True)
class _Wish:
    """A task as the generator writes it: kinds with capitals."""

    type: str
    target: str
    place: str  # receptacle, or lamp to look under
    task: Task


def draw_chain(
    split: str,
    task_types: Sequence[str],
    first: str,
    goals: tuple[int, int],
    max_objects: int,
    rng: random.Random,
    engine: Engine,
) -> Chain | None:
    """Draw a chain, its first goal of type `first`; None where the draw leads to none: draw again.

    As many goals as were drawn from `goals`, and more, up to the most, while the episode is too short.

    Args:
        split: which rooms.
        task_types: types of the later goals.
        first: type of the first goal.
        goals: fewest and most goals.
        max_objects: most movable objects in the room.
        rng: all randomness comes from here.
        engine: plays the chain.
    """
    rooms = [n for n in fitting_rooms(split, first) if len(load_room(n).receptacles) >= MIN_RECEPTACLES]
    if not rooms:
        return None
    # Large rooms more often: there is more in them to search, and to remember.
    weights = [len(load_room(number).receptacles) for number in rooms]
    placement = furnish(load_room(rng.choices(rooms, weights)[0]), max_objects, rng)
    if placement is None:
        return None
    drawn = _along_the_search(placement, task_types, first, goals, rng, engine)
    if drawn is None:
        return None
    wishes, sentences, steps = drawn
    if not least_steps(len(placement.room.receptacles)) <= steps <= MAX_SEARCH_STEPS:
        return None
    walked = _walked(placement, wishes, sentences, engine)
    if walked is None:
        return None
    goals, walkthrough = walked
    return Chain(_for_first(placement, wishes[0], sentences[0]), goals, walkthrough, steps)


def _along_the_search(
    placement: Placement,
    task_types: Sequence[str],
    first: str,
    goals: tuple[int, int],
    rng: random.Random,
    engine: Engine,
) -> tuple[list[_Wish], list[str], int] | None:
    """Goals and their sentences, each drawn where the searching expert has fulfilled the one before; its steps."""
    turn = _load(placement, engine)
    memory = Memory.of([turn.feedback])
    wishes: list[_Wish] = []
    sentences: list[str] = []
    steps = 0
    count, least = rng.randint(*goals), least_steps(len(placement.room.receptacles))
    while len(wishes) < count or (steps < least and len(wishes) < goals[1]):
        wish = _draw_wish(placement, task_types if wishes else [first], wishes, turn.world, memory, rng)
        if wish is None:
            return None
        wishes.append(wish)
        names = {"obj": wish.target.lower(), "recep": wish.place.lower(), "toggle": wish.place.lower()}
        sentences.append(rng.choice(wheel.goals()[wish.type]["templates"]).format(**names))
        while not holds(turn.world, wish.task):
            plan = search_plan(memory, wish.task, engine.verbs)
            if not plan or steps > MAX_SEARCH_STEPS:
                return None
            turn = engine.step(plan[0])
            memory.read(turn.feedback)
            steps += 1
    return wishes, sentences, steps


def _draw_wish(
    placement: Placement,
    task_types: Sequence[str],
    earlier: Sequence[_Wish],
    world: World,
    memory: Memory,
    rng: random.Random,
) -> _Wish | None:
    """A goal that is open in `world`, none of the `earlier`, about what `_ABOUT` draws if that is to be had."""
    wishes = [wish for wish in _open_wishes(placement, task_types, world) if wish not in earlier]
    lately = {kind_of(thing) for thing in list(memory.where)[-_LATELY:]} | {kind_of(memory.held)}
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


def _open_wishes(placement: Placement, task_types: Sequence[str], world: World) -> list[_Wish]:
    present = [thing.kind for thing in world.things.values()]
    wishes = []
    for task_type in task_types:
        if placement.room.kind not in wheel.constants().GOALS_VALID[task_type]:
            continue
        for target, places in sorted(goals_of(placement.room, task_type).items()):
            if present.count(target.lower()) < (2 if task_type == PICK_TWO else 1):
                continue
            for place in places:
                parent, toggle = ("", place) if task_type == LOOK else (place, "")
                task = Task(task_type, target.lower(), parent.lower(), toggle.lower(), placement.room.number)
                if progress(world, task) < 1:
                    wishes.append(_Wish(task_type, target, place, task))
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


def _walked(
    placement: Placement, wishes: list[_Wish], sentences: list[str], engine: Engine
) -> tuple[tuple[Goal, ...], list[str]] | None:
    """Goals with what the expert that knows everything needs, and its commands; None if it fails, or need do nothing.

    The placement is loaded with its stand-in goal again: the engine has it translated already, which takes long.
    """
    plan = floor_plan(placement.room.number)
    turn = _load(placement, engine)
    walkthrough: list[str] = []
    goals: list[Goal] = []
    for wish, sentence in zip(wishes, sentences, strict=True):
        way = best_way(turn.world, wish.task, plan, engine.verbs)
        if way is None or not way.commands:
            return None
        for command in way.commands:
            if command not in turn.commands:
                return None
            turn = engine.step(command)
        if not holds(turn.world, wish.task):
            return None
        walkthrough += way.commands
        goals.append(Goal(wish.task, sentence, len(way.commands), way.metres))
    return tuple(goals), walkthrough


def _for_first(placement: Placement, wish: _Wish, sentence: str) -> Placement:
    task_type, look = wish.type, wish.type == LOOK
    parent, toggle = ("", wish.place) if look else (wish.place, "")
    return replace(placement, task_type=task_type, target=wish.target, parent=parent, toggle=toggle, sentence=sentence)


def _load(placement: Placement, engine: Engine) -> Turn:
    task = Task(placement.task_type, placement.target.lower(), placement.parent.lower(), "", placement.room.number)
    engine.load(GameData(Path("(generated)"), json.loads(game_json(placement, [])), task))
    return engine.reset()
