"""Description of a house: rooms, doors and things; the sidecar `house.json` of a generated one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from erecap.errors import GameError
from erecap.untrusted import parse_json

FORMAT = 1
SIDECAR = "house.json"
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Room:
    """A room; axis-aligned, in metres, y is up."""

    name: str  # unique words, as in "bedroom 1"
    kind: str
    box: tuple[float, float, float, float]  # x0, z0, x1, z1 of its interior

    @property
    def middle(self) -> Point:
        """The middle of its floor."""
        x0, z0, x1, z1 = self.box
        return ((x0 + x1) / 2, 0.0, (z0 + z1) / 2)

    def holds(self, x: float, z: float, margin: float = 0.0) -> bool:
        """True if a point of the floor plan lies in the room."""
        x0, z0, x1, z1 = self.box
        return x0 - margin <= x <= x1 + margin and z0 - margin <= z <= z1 + margin


@dataclass(frozen=True)
class Door:
    """A gap in a wall, always open."""

    rooms: tuple[str, str]
    centre: Point
    width: float


@dataclass(frozen=True)
class Thing:
    """A piece of furniture or an object: an axis-aligned box."""

    id: str  # stem of its files: "red_chair_1"
    name: str  # unique words for commands: "red chair 1"
    category: str
    colour: str  # a word; "" if none is known
    centre: Point
    size: Point  # full extents
    room: str  # name of its room; "" if unknown
    receptacle: bool  # objects can be laid on it
    movable: bool  # it can be picked up
    on: str = ""  # id of the receptacle that it lies on at the start; "": the floor
    semantic_id: int = 0


@dataclass(frozen=True)
class House:
    """Rooms, doors and things of a scene."""

    seed: str
    split: str
    rooms: tuple[Room, ...]
    doors: tuple[Door, ...]
    things: tuple[Thing, ...]
    format: int = FORMAT

    def plain(self) -> dict[str, Any]:
        """The house as JSON values."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Any) -> House:
        """The house of JSON values.

        Raises:
            GameError: it is none, or of another format.
        """
        if not isinstance(plain, Mapping) or plain.get("format") != FORMAT:
            raise GameError(f"no description of a house of format {FORMAT}")
        try:
            return cls(
                seed=str(plain["seed"]),
                split=str(plain["split"]),
                rooms=tuple(Room(**{**room, "box": _numbers(room["box"], 4)}) for room in plain["rooms"]),
                doors=tuple(_door(door) for door in plain["doors"]),
                things=tuple(_thing(thing) for thing in plain["things"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise GameError(f"the description of a house is damaged: {type(error).__name__}: {error}") from error


def read_house(folder: Path) -> House:
    """The house of a folder.

    Raises:
        GameError: the folder has no sidecar, or it is damaged.
    """
    path = folder / SIDECAR
    try:
        return House.from_plain(parse_json(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise GameError(f"{path}: {error}") from error
    except GameError as error:
        raise GameError(f"{path}: {error}") from error


def house_text(house: House) -> str:
    """The sidecar's text: the same for equal houses."""
    return json.dumps(house.plain(), sort_keys=True, indent=1) + "\n"


def _door(door: Any) -> Door:
    first, second = door["rooms"]
    return Door((str(first), str(second)), _numbers(door["centre"], 3), float(door["width"]))


def _thing(thing: Any) -> Thing:
    return Thing(**{**thing, "centre": _numbers(thing["centre"], 3), "size": _numbers(thing["size"], 3)})


def _numbers(values: Any, count: int) -> Any:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count:
        raise ValueError(f"{len(numbers)} numbers instead of {count}")
    return numbers
