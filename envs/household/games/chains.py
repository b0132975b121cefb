"""Draws chains: several goals one after the other in one home, so that what was seen for one serves the next.

The goals are drawn along an episode that the searching expert plays: a later one mostly asks for something that it has
seen by then, and not lately. So an agent that remembers goes straight there, and one that does not must search again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erecap.envs.household.data.gamefile import GameData, Goal, Task, game_json
from erecap.envs.household.data.placement import Placement, fitting_rooms
from erecap.envs.household.data.rooms import load_room
from erecap.envs.household.experts.goals import holds
from erecap.envs.household.experts.memory import Memory
from erecap.envs.household.experts.oracle import best_way
from erecap.envs.household.experts.search import search_plan
from erecap.envs.household.experts.travel import floor_plan
from erecap.envs.household.games.furnish import furnish
from erecap.envs.household.games.next_goal import Wish, draw_wish

if TYPE_CHECKING:
    from erecap.envs.household.engine.engine import Engine, Turn

MIN_RECEPTACLES = 12
MAX_SEARCH_STEPS = 120
"""Commands of the searching expert for all goals of a chain: well within the 150 steps of the suites."""


def least_steps(receptacles: int) -> int:
    """Commands of the searching expert that a chain must take, so that there is something to remember."""
    return min(64, 2 * receptacles)


@dataclass(frozen=True)
class Chain:
    """A drawn chain that both experts have played to its end."""

    placement: Placement  # its own goal is the first of the chain
    goals: tuple[Goal, ...]
    walkthrough: list[str]  # of the expert that knows everything
    search_steps: int  # commands that the searching expert needed

    def notes(self) -> dict[str, Any]:
        """The description of the chain in `traj_data.json`, under `erecap`."""
        return {"search_steps": self.search_steps, "goals": [asdict(goal) for goal in self.goals]}


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
    weights = [len(load_room(number).receptacles) ** 2 for number in rooms]
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
    return Chain(wishes[0].first_of(placement, sentences[0]), goals, walkthrough, steps)


def _along_the_search(
    placement: Placement,
    task_types: Sequence[str],
    first: str,
    goals: tuple[int, int],
    rng: random.Random,
    engine: Engine,
) -> tuple[list[Wish], list[str], int] | None:
    """Goals and their sentences, each drawn where the searching expert has fulfilled the one before; its steps."""
    turn = _load(placement, engine)
    memory = Memory.of([turn.feedback])
    wishes: list[Wish] = []
    sentences: list[str] = []
    steps = 0
    count, least = rng.randint(*goals), least_steps(len(placement.room.receptacles))
    while len(wishes) < count or (steps < least and len(wishes) < goals[1]):
        wish = draw_wish(placement, task_types if wishes else [first], wishes, turn.world, memory, rng)
        if wish is None:
            return None
        wishes.append(wish)
        sentences.append(wish.sentence(rng))
        while not holds(turn.world, wish.task):
            plan = search_plan(memory, wish.task, engine.verbs)
            if not plan or steps > MAX_SEARCH_STEPS:
                return None
            turn = engine.step(plan[0])
            memory.read(turn.feedback)
            steps += 1
    return wishes, sentences, steps


def _walked(
    placement: Placement, wishes: list[Wish], sentences: list[str], engine: Engine
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


def _load(placement: Placement, engine: Engine) -> Turn:
    task = Task(placement.task_type, placement.target.lower(), placement.parent.lower(), "", placement.room.number)
    engine.load(GameData(Path("(generated)"), json.loads(game_json(placement, [])), task))
    return engine.reset()
