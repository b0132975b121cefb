"""The searching expert: it acts on the observations of this episode, and on nothing else.

It goes straight to where it last saw a thing. Otherwise it searches in the order of `search_order.search_kinds`, lower
numbers first, and never looks into a receptacle twice. Its next command depends on the task and on the memory alone. So
it goes on from any state, and an agent that reads the same text can learn to do the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from erecap.envs.household.data.gamefile import Task
from erecap.envs.household.data.placement import LOOK, PICK_TWO
from erecap.envs.household.data.search_order import can_hold, openable_kinds, search_kinds
from erecap.envs.household.experts.memory import Memory, kind_of, number_of

LONGEST = 5
"""Commands of a plan at most."""

# Task type -> (receptacle that treats the object, the engine's action, the trait that it gives).
_TREATMENTS = {
    "pick_clean_then_place_in_recep": ("sinkbasin", "cleanobject", "clean"),
    "pick_heat_then_place_in_recep": ("microwave", "heatobject", "hot"),
    "pick_cool_then_place_in_recep": ("fridge", "coolobject", "cool"),
}


@dataclass(frozen=True)
class Move:
    """One command: the engine's action and its names."""

    action: str
    receptacle: str = ""
    thing: str = ""
    reveals: bool = False  # what to do next depends on what will be seen

    def text(self, verbs: Mapping[str, str]) -> str:
        """The command in the engine's words; `verbs` as in `Engine.verbs`."""
        return verbs[self.action].format(r=self.receptacle, o=self.thing)


def search_plan(memory: Memory, task: Task, verbs: Mapping[str, str], *, longest: int = LONGEST) -> tuple[str, ...]:
    """The next commands, up to and including the first whose outcome decides how to go on.

    Args:
        memory: what was seen. It is not changed.
        task: what to achieve; it is not achieved yet.
        verbs: the engine's command templates by action.
        longest: commands at most.

    Returns:
        At least one command, unless the room lacks a receptacle that the task needs.
    """
    memory = memory.copy()
    commands: list[str] = []
    while len(commands) < longest and (move := next_move(memory, task)) is not None:
        commands.append(move.text(verbs))
        if move.reveals:
            break
        imagine(memory, move)
    return tuple(commands)


def imagine(memory: Memory, move: Move) -> None:
    """Change `memory` as the move will, so far as that is certain."""
    match move.action:
        case "gotolocation":
            memory.place = move.receptacle
        case "openobject":
            memory.opened.add(move.receptacle)
        case "pickupobject":
            memory.take(move.thing)
        case "putobject":
            memory.put(move.thing, move.receptacle)
        case "toggleobject":
            memory.lit.add(move.thing)
        case "cleanobject" | "heatobject" | "coolobject":
            memory.treat(move.thing, move.action.removesuffix("object"))


def next_move(memory: Memory, task: Task) -> Move | None:
    """The next command; None where the task is done as far as is known, or the room cannot serve it."""
    if task.type == LOOK:
        return _look(memory, task)
    if task.type == PICK_TWO:
        return _bring_two(memory, task)
    return _bring_one(memory, task)


def _bring_one(memory: Memory, task: Task) -> Move | None:
    tool, action, trait = _TREATMENTS.get(task.type, ("", "", ""))
    known = memory.things_of(task.target)
    # One that is treated already saves the way to the tool.
    ready = [thing for thing in known if not tool or trait in memory.traits.get(thing, ())]
    if any(kind_of(memory.where[thing]) == task.parent for thing in ready):
        return None
    if kind_of(memory.held) != task.target:
        return _fetch(memory, ready or known, task.target)
    thing = memory.held
    if tool and trait not in memory.traits.get(thing, ()):
        tools = memory.receptacles_of(tool)
        return None if not tools else _at(memory, tools[0]) or Move(action, tools[0], thing)
    homes = memory.receptacles_of(task.parent)
    if not homes:
        return None
    goal = _destination(memory, homes)
    return _inside(memory, goal) or Move("putobject", goal, thing)


def _bring_two(memory: Memory, task: Task) -> Move | None:
    known = memory.things_of(task.target)
    homes = memory.receptacles_of(task.parent)
    brought = {home: [thing for thing in known if memory.where[thing] == home] for home in homes}
    fullest = max((len(things) for things in brought.values()), default=0)
    if not homes or fullest >= 2:
        return None
    # Both must lie in one receptacle: the first where most are known to be. That choice must not change on the way.
    goal = next((home for home in homes if brought[home] and len(brought[home]) == fullest), None)
    goal = goal or _destination(memory, homes)
    if kind_of(memory.held) == task.target:
        return _inside(memory, goal) or Move("putobject", goal, memory.held)
    return _fetch(memory, [thing for thing in known if memory.where[thing] != goal], task.target)


def _look(memory: Memory, task: Task) -> Move | None:
    if kind_of(memory.held) != task.target:
        return _fetch(memory, memory.things_of(task.target), task.target)
    lamps = memory.things_of(task.toggle)
    if not lamps:
        return _search(memory, task.toggle)
    lamp = next((lamp for lamp in lamps if memory.where[lamp] == memory.place), lamps[0])
    going = _at(memory, memory.where[lamp])
    return going or (None if lamp in memory.lit else Move("toggleobject", thing=lamp))


def _fetch(memory: Memory, known: list[str], kind: str) -> Move | None:
    """Towards having one of the `known` things in the hand; the first, unless one lies right here."""
    if not known:
        return _search(memory, kind)
    thing = next((thing for thing in known if memory.where[thing] == memory.place), known[0])
    home = memory.where[thing]
    if memory.held and not can_hold(kind_of(home), kind_of(memory.held)):
        return _put_down(memory)  # for there it could not be put down
    reaching = _inside(memory, home)
    if reaching is not None:
        return reaching
    if memory.held:
        return _put_down(memory)
    return Move("pickupobject", home, thing)


def _put_down(memory: Memory) -> Move | None:
    """Rid the hand of what is in it: here if that goes, else in the first place that can hold it."""
    kind = kind_of(memory.held)
    shut = openable_kinds()
    fitting = [name for name in memory.receptacles if can_hold(kind_of(name), kind)]
    fitting.sort(key=lambda name: (name != memory.place, kind_of(name) in shut, kind_of(name), number_of(name)))
    if not fitting:
        return None
    return _inside(memory, fitting[0]) or Move("putobject", fitting[0], memory.held)


def _search(memory: Memory, kind: str) -> Move | None:
    """Towards the next look into a receptacle that may hold a thing of `kind`."""
    target = next_search(memory, kind)
    if target is None:
        return None
    if kind_of(target) in openable_kinds():
        return _at(memory, target) or Move("openobject", target, reveals=True)
    return Move("gotolocation", target, reveals=True)


def next_search(memory: Memory, kind: str) -> str | None:
    """The receptacle to look into next; None where every one was looked into.

    Kinds that should not hold such a thing come last: a game from elsewhere may have been furnished otherwise.
    """
    kinds = list(search_kinds(kind))
    others = sorted({kind_of(name) for name in memory.receptacles} - set(kinds))
    for home in kinds + others:
        for name in memory.receptacles_of(home):
            if name not in memory.looked_into:
                return name
    return None


def _at(memory: Memory, receptacle: str) -> Move | None:
    return None if memory.place == receptacle else Move("gotolocation", receptacle)


def _inside(memory: Memory, receptacle: str) -> Move | None:
    """Towards having `receptacle` within reach and open; None if it is."""
    if going := _at(memory, receptacle):
        return going
    shut = kind_of(receptacle) in openable_kinds() and receptacle not in memory.opened
    return Move("openobject", receptacle) if shut else None


def _destination(memory: Memory, homes: list[str]) -> str:
    """Of receptacles that serve equally: the one right here, else one that stands open, else the lowest number."""
    return min(homes, key=lambda name: (name != memory.place, name not in memory.opened, number_of(name)))
