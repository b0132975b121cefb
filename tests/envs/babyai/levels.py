"""Levels for the tests: drawn ones, and bare rooms furnished by hand."""

from __future__ import annotations

import gymnasium as gym
import minigrid  # noqa: F401  # registers the levels
from minigrid.core.world_object import Door, WorldObj
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel

import erecap.envs.babyai.env  # noqa: F401  # keeps the level generator quiet
from erecap.envs.babyai.skills import Body

RIGHT, DOWN, LEFT, UP = range(4)


def drawn(name: str, seed: int) -> RoomGridLevel:
    """A level as its generator makes it; "GoTo" is short for "BabyAI-GoTo-v0"."""
    full = name if name.startswith("BabyAI-") else f"BabyAI-{name}-v0"
    level = gym.make(full, disable_env_checker=True).unwrapped
    level.reset(seed=seed)
    return level


def room(things: dict[tuple[int, int], WorldObj], at: tuple[int, int] = (1, 6), facing: int = UP) -> RoomGridLevel:
    """One bare room, cells 1..6 both ways, with these things in it. Its mission cannot be accomplished."""
    level = drawn("GoToLocal", 0)
    for i in range(1, 7):
        for j in range(1, 7):
            level.grid.set(i, j, None)
    for cell, thing in things.items():
        level.grid.set(*cell, thing)
        thing.cur_pos = cell
    level.agent_pos, level.agent_dir, level.carrying = at, facing, None
    level.instrs.desc.obj_set, level.instrs.desc.obj_poss = [], []
    return level


def two_rooms(door: Door, things: dict[tuple[int, int], WorldObj]) -> RoomGridLevel:
    """`room`, cut in two by a wall at column 4 with a door in it at row 3; the agent is on the left."""
    level = room(things, at=(2, 3), facing=RIGHT)
    level.grid.vert_wall(4, 1, 6)
    level.grid.set(4, 3, door)
    door.cur_pos = (4, 3)
    return level


def body(level: RoomGridLevel, skill_steps: int = 100) -> Body:
    """The agent at the start of a level."""
    return Body(level, skill_steps)
