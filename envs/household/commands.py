"""Shapes of commands with named slots, and the names seen so far that can fill them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from erecap.envs.household.engine.world import World, number_key

# The engine's actions in the order in which a reader would want them -> its placeholders -> our slots.
_SLOTS: dict[str, dict[str, str]] = {
    "gotolocation": {"r": "receptacle"},
    "openobject": {"r": "container"},
    "closeobject": {"r": "container"},
    "pickupobject": {"o": "object", "r": "receptacle"},
    "putobject": {"o": "object", "r": "receptacle"},
    "cleanobject": {"o": "object", "r": "sinkbasin"},
    "heatobject": {"o": "object", "r": "microwave"},
    "coolobject": {"o": "object", "r": "fridge"},
    "toggleobject": {"o": "lamp"},
    "sliceobject": {"co": "object", "ko": "object"},
    "examinereceptacle": {"r": "receptacle"},
    "examineobject": {"o": "object"},
    "inventory": {},
    "look": {},
}
_TOOLS = ("sinkbasin", "microwave", "fridge")
_NAME = re.compile(r"[a-z]+ \d+")


def command_templates(verbs: Mapping[str, str], world: World) -> list[str]:
    """Command shapes of a game, such as `take {object} from {receptacle}`.

    Left out are those that the room cannot need: heating without a microwave, slicing where nothing can be sliced.
    """
    kinds = {holder.kind for holder in world.holders.values()}
    sliceable = any("sliceable" in thing.traits for thing in world.things.values())
    shapes = []
    for action, slots in _SLOTS.items():
        tools = [slot for slot in slots.values() if slot in _TOOLS]
        if action not in verbs or any(tool not in kinds for tool in tools):
            continue
        if action == "sliceobject" and not sliceable:
            continue
        shapes.append(verbs[action].format(**{key: "{" + slot + "}" for key, slot in slots.items()}))
    return shapes


def names_in(text: str) -> set[str]:
    """All that looks like a name in an observation, such as `shelf 12`."""
    return set(_NAME.findall(text))


def fill_slots(seen: Iterable[str], world: World) -> dict[str, list[str]]:
    """Slot -> names that can fill it, of those in `seen`; each list in order of kind and number."""
    seen = set(seen)
    holders = [holder for holder in world.holders.values() if holder.name in seen]
    things = [thing for thing in world.things.values() if thing.name in seen]
    slots = {
        "receptacle": [holder.name for holder in holders],
        "container": [holder.name for holder in holders if holder.openable],
        "object": [thing.name for thing in things if "toggleable" not in thing.traits],
        "lamp": [thing.name for thing in things if "toggleable" in thing.traits],
    }
    for tool in _TOOLS:
        slots[tool] = [holder.name for holder in holders if holder.kind == tool]
    return {slot: sorted(names, key=number_key) for slot, names in slots.items()}
