"""Floor plans as data: reachable points, receptacles, and the kinds of objects that belong there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from erecap.envs.household.data import alfworld_data
from erecap.errors import GameError

STEP = 0.25
"""Metres between neighbouring points of the floor plans' grid."""

Point = tuple[int, int]
"""A reachable point (x, z) in grid steps."""

# Toggling a lamp is part of a goal only if the lamp stands on a receptacle (goal_library.py), so floor lamps,
# which stand on the floor, are left out. These are the surfaces that a desk lamp can stand on.
LAMP_KIND = "DeskLamp"
LAMP_SURFACES = ("Desk", "SideTable", "Dresser", "DiningTable", "CoffeeTable", "CounterTop", "Shelf")


@dataclass(frozen=True)
class Spot:
    """Pose of the agent: grid point, quarter turn (0-3) and camera horizon in degrees."""

    x: int
    z: int
    turn: int
    horizon: int

    def name(self) -> str:
        """The name that ALFRED gives to locations, such as `loc|-4|5|2|30`."""
        return f"loc|{self.x}|{self.z}|{self.turn}|{self.horizon}"


@dataclass(frozen=True)
class Receptacle:
    """A fixed piece of furniture that holds objects."""

    id: str  # as in the floor plan, such as "Cabinet|+00.68|+00.50|-02.20"
    kind: str  # such as "Cabinet" or "SinkBasin"
    spot: Spot  # from where it can be opened and reached into; different for each receptacle

    @property
    def position(self) -> tuple[float, float, float]:
        """Centre (x, y, z) in metres."""
        x, y, z = self.id.split("|")[1:4]
        return float(x), float(y), float(z)


@dataclass(frozen=True)
class Room:
    """One floor plan of AI2-THOR, as alfworld ships it."""

    number: int
    points: tuple[Point, ...]
    receptacles: tuple[Receptacle, ...]
    object_kinds: tuple[str, ...]  # kinds of objects in the original room, movable or not

    @property
    def name(self) -> str:
        """Name of the scene, such as `FloorPlan7`."""
        return f"FloorPlan{self.number}"

    @property
    def kind(self) -> str:
        """`Kitchen`, `LivingRoom`, `Bedroom` or `Bathroom`."""
        scene_types = alfworld_data.constants().SCENE_TYPE
        return next(kind for kind, numbers in scene_types.items() if self.number in numbers)

    @property
    def receptacle_kinds(self) -> tuple[str, ...]:
        """Kinds of receptacles in the room, sorted, each once."""
        return tuple(sorted({receptacle.kind for receptacle in self.receptacles}))


def room_numbers(split: str) -> tuple[int, ...]:
    """Rooms of a split: ALFRED's own division, 24 rooms of each kind to train on and 6 never trained on."""
    constants = alfworld_data.constants()
    numbers = constants.TEST_SCENE_NUMBERS if split == "unseen" else constants.TRAIN_SCENE_NUMBERS
    return tuple(sorted(numbers))


@cache
def load_points(number: int) -> tuple[Point, ...]:
    """Reachable grid points of a floor plan, sorted. Raises GameError if the plan is not in the package."""
    import numpy

    path = alfworld_data.layout_file(number, "layout.npy")
    if not path.is_file():
        raise GameError(f"there is no floor plan {number} in the alfworld package ({path.name})")
    metres = numpy.load(path, allow_pickle=False)
    return tuple(sorted({(round(x / STEP), round(z / STEP)) for x, z in metres.tolist()}))


@cache
def load_room(number: int) -> Room:
    """Read one floor plan."""
    poses = json.loads(alfworld_data.layout_file(number, "openable.json").read_text(encoding="utf-8"))
    kinds = json.loads(alfworld_data.layout_file(number, "objects.json").read_text(encoding="utf-8"))
    return Room(number, load_points(number), tuple(_receptacles(sorted(poses.items()))), tuple(sorted(set(kinds))))


def _receptacles(poses: Iterable[tuple[str, list[float]]]) -> Iterable[Receptacle]:
    taken: set[Spot] = set()
    for identifier, (x, z, degrees, horizon) in poses:
        parts = identifier.split("|")
        kind = parts[4] if len(parts) > 4 else parts[0]
        spot = Spot(round(x / STEP), round(z / STEP), round(degrees / 90) % 4, round(horizon))
        # Drawers above each other share one pose in the floor plan. The engine would then take them for one
        # place and refuse to go from one to the other; a degree of camera horizon tells them apart.
        while spot in taken:
            spot = Spot(spot.x, spot.z, spot.turn, spot.horizon + 1)
        taken.add(spot)
        yield Receptacle(identifier, kind, spot)
