"""The front of points that nothing beats, and its knee. No torch in here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Place(NamedTuple):
    """A point in the plane of the front."""

    name: str
    speed_up: float  # measured, of planning calls
    agreement: float  # 0 to 1


def pareto(places: Sequence[Place]) -> list[Place]:
    """Places that no other beats in speed and agreement, slowest first; of equal ones the first."""
    front: list[Place] = []
    for place in sorted(places, key=lambda one: (-one.speed_up, -one.agreement)):
        if not front or place.agreement > front[-1].agreement:
            front.append(place)
    return front[::-1]


def knee(front: Sequence[Place], least: float) -> Place | None:
    """The place of the front that lies farthest above the line between its ends; None where none agrees enough.

    Both axes count from end to end. Where no place lies above that line, speed costs more agreement from the
    start than it does later, and the slowest end is the knee.

    Args:
        front: slowest first.
        least: agreement below which a place is no choice.
    """
    places = [place for place in front if place.agreement >= least]
    if not places:
        return None
    first, last = places[0], places[-1]
    wide, high = last.speed_up - first.speed_up, first.agreement - last.agreement

    def above(place: Place) -> float:
        if not wide or not high:
            return 0.0
        return (place.speed_up - first.speed_up) / wide - (first.agreement - place.agreement) / high

    return max(places, key=lambda place: (round(above(place), 9), -place.speed_up))
