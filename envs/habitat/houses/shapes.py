"""The parts that furniture and objects are made of: boxes and colours."""

from __future__ import annotations

from dataclasses import dataclass

Colour = tuple[int, int, int]  # red, green, blue, 0 to 255

COLOURS: dict[str, Colour] = {
    "black": (52, 52, 58),
    "blue": (62, 104, 184),
    "brown": (136, 94, 62),
    "green": (78, 150, 84),
    "grey": (146, 148, 152),
    "orange": (228, 138, 54),
    "pink": (228, 150, 178),
    "purple": (132, 84, 162),
    "red": (198, 58, 52),
    "white": (238, 238, 234),
    "yellow": (232, 200, 74),
}
WOOD: Colour = (152, 116, 84)
METAL: Colour = (120, 124, 130)
DARK: Colour = (60, 60, 66)
LIGHT: Colour = (244, 242, 236)
LEAF: Colour = (70, 130, 70)


@dataclass(frozen=True)
class Box:
    """One box of a shape, in metres from the shape's corner: x from its left, y from the floor, z from its back."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    colour: Colour | None = None  # None: the colour of the whole thing


@dataclass(frozen=True)
class Shape:
    """A category of furniture or object.

    Args:
        size: width, height and depth in metres; its back stands at a wall.
        boxes: together they fill the size from end to end.
        surface: height of what objects lie on; None: nothing lies on it.
        sides: metres at either end of the surface where nothing lies, such as the arms of a sofa.
    """

    size: tuple[float, float, float]
    boxes: tuple[Box, ...]
    surface: float | None = None
    sides: float = 0.03


def box(x0: float, x1: float, y0: float, y1: float, z0: float, z1: float, colour: Colour | None = None) -> Box:
    """A box by its ends along x, y and z, in metres."""
    return Box((x0, y0, z0), (x1, y1, z1), colour)
