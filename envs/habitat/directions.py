"""Distances and directions in words, from where the robot stands."""

from __future__ import annotations

import math
from dataclasses import dataclass

Point = tuple[float, float, float]
_SECTORS = ("ahead", "ahead left", "left", "behind left", "behind", "behind right", "right", "ahead right")


@dataclass(frozen=True)
class Pose:
    """Where the robot stands, and where it looks: degrees counter-clockwise from -z, y is up."""

    position: Point
    yaw: float

    def bearing(self, point: Point) -> float:
        """Degrees from -180 to 180 to a point; positive is to the left."""
        x, z = point[0] - self.position[0], point[2] - self.position[2]
        return (math.degrees(math.atan2(-x, -z)) - self.yaw + 180.0) % 360.0 - 180.0

    def metres(self, point: Point) -> float:
        """Metres to a point along the floor plan."""
        return math.hypot(point[0] - self.position[0], point[2] - self.position[2])

    def words(self, point: Point) -> str:
        """A point in words.

        >>> Pose((0, 0, 0), 0.0).words((-1.0, 0.5, 0.0)), Pose((0, 0, 0), 90.0).words((-2, 0, 0))
        ('1.0 m left', '2.0 m ahead')
        """
        sector = round(self.bearing(point) / 45.0) % 8
        return f"{self.metres(point):.1f} m {_SECTORS[sector]}"

    def offset_words(self, point: Point) -> str:
        """A point in metres ahead and aside.

        >>> Pose((0, 0, 0), 0.0).offset_words((3.0, 0.0, -4.0))
        '4.0 m ahead and 3.0 m to the right'
        """
        angle, far = math.radians(self.bearing(point)), self.metres(point)
        ahead, left = far * math.cos(angle), far * math.sin(angle)
        return (
            f"{abs(ahead):.1f} m {'ahead' if ahead >= 0 else 'behind'} and "
            f"{abs(left):.1f} m to the {'left' if left >= 0 else 'right'}"
        )
