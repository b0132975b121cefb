"""The agent's view in words: egocentric, deterministic, nothing beyond what it sees at this moment."""

from __future__ import annotations

from collections.abc import Mapping

from minigrid.core.world_object import Door, WorldObj
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel

from erecap.envs.babyai.memory import visible_cells
from erecap.envs.words import with_article


def describe(level: RoomGridLevel, names: Mapping[WorldObj, str]) -> str:
    """Objects and doors in view, nearest first, with steps from the agent; then what it carries.

    Args:
        level: the level in its present state.
        names: a name for every object in view and for the carried one, as `Memory.update` gives them.

    Example: "You see a red ball, 3 steps ahead and 1 to the left; a closed green door, 2 steps to the right.
    You carry nothing."
    """
    seen = [
        (ahead + abs(right), ahead, right, content)
        for _, ahead, right, content in visible_cells(level)
        if content is not None and content.type != "wall"
    ]
    seen.sort(key=lambda item: item[:3])  # no two share a cell, so the order is total
    things = [f"{noun_phrase(thing, names[thing])}, {bearing(ahead, side)}" for _, ahead, side, thing in seen]
    sentences = [f"You see {'; '.join(things)}." if things else "You see only floor and walls."]
    under = level.grid.get(*level.agent_pos)
    if under is not None and under.type == "door":
        sentences.append(f"You stand in the {names[under]}.")
    carried = f"the {names[level.carrying]}" if level.carrying is not None else "nothing"
    return " ".join([*sentences, f"You carry {carried}."])


def noun_phrase(thing: WorldObj, name: str) -> str:
    """ "a red ball", "an open red door", "a locked blue door 2"."""
    words = f"{door_state(thing)} {name}" if isinstance(thing, Door) else name
    return with_article(words)


def door_state(door: Door) -> str:
    """ "open", "locked" or "closed"."""
    if door.is_open:
        return "open"
    return "locked" if door.is_locked else "closed"


def bearing(ahead: int, right: int) -> str:
    """Bearing of a cell in words: `ahead` >= 0 steps in front, `right` steps to the right, negative for left.

    >>> bearing(3, -1), bearing(1, 0), bearing(0, 2)
    ('3 steps ahead and 1 to the left', '1 step ahead', '2 steps to the right')
    """
    side = "right" if right > 0 else "left"
    if right == 0:
        return f"{ahead} {_steps(ahead)} ahead"
    if ahead == 0:
        return f"{abs(right)} {_steps(abs(right))} to the {side}"
    return f"{ahead} {_steps(ahead)} ahead and {abs(right)} to the {side}"


def _steps(count: int) -> str:
    return "step" if count == 1 else "steps"
