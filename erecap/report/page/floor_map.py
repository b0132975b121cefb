"""The map of a recorded episode as SVG: the scene from above, and the way of everyone who moved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from erecap.report.rows import MapOutline, Point, SampleMap, SampleStep

SCALE = 40  # units of the drawing for one metre
MARGIN = 0.35  # metres around the scene
MOST_POINTS = 400  # of one way on the page; longer ones are thinned
COLOURS = 6  # of the page's --c1 .. --c6, in turn for those who move

Trails = Mapping[str, Sequence[Point]]


@dataclass(frozen=True)
class Frame:
    """The part of the scene that a drawing shows, in metres."""

    left: float
    top: float
    wide: float
    high: float

    @property
    def view_box(self) -> str:
        return f"0 0 {_number(self.wide * SCALE)} {_number(self.high * SCALE)}"

    def at(self, point: Point) -> str:
        """A point of the scene as `x,y` in the drawing."""
        return f"{_number((point[0] - self.left) * SCALE)},{_number((point[1] - self.top) * SCALE)}"


def frame_of(scene: SampleMap, steps: Sequence[SampleStep]) -> Frame | None:
    """The frame around a scene and all ways in it; None: there is nothing to draw."""
    points = [point for part in (*scene.rooms, *scene.furniture) for point in part.outline]
    points += [thing.at for thing in scene.things]
    points += [(x, y) for x0, y0, x1, y1 in scene.floor for x, y in ((x0, y0), (x1, y1))]
    points += [point for step in steps for passed in step.trail.values() for point in passed]
    if not points:
        return None
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, top = min(xs) - MARGIN, min(ys) - MARGIN
    return Frame(left, top, max(xs) + MARGIN - left, max(ys) + MARGIN - top)


def draw_scene(scene: SampleMap, frame: Frame, name: str) -> Markup:
    """The scene as a `<symbol>` that drawings of the same page refer to by `name`."""
    parts = [_rect(frame, rect) for rect in scene.floor]
    parts += [_outline(room, frame, "room") for room in scene.rooms]
    for door in scene.doors:
        (x0, y0), (x1, y1) = (frame.at(end).split(",") for end in door.ends)
        kind = "door" if door.open else "door shut"
        parts.append(Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, x0, y0, x1, y1))
    parts += [_outline(piece, frame, "piece") for piece in scene.furniture]
    for thing in scene.things:
        x, y = frame.at(thing.at).split(",")
        fill = _fill(thing.colour)
        mark = Markup('<circle class="thing" cx="{}" cy="{}" r="4"{}><title>{}</title></circle>')
        parts.append(mark.format(x, y, fill, thing.name))
    for room in scene.rooms:
        # Above the middle, where the least furniture stands.
        x, y = frame.at(_middle(room.outline)).split(",")
        parts.append(Markup('<text class="place" x="{}" y="{}">{}</text>').format(x, y, room.name))
    return Markup('<symbol id="{}" viewBox="{}">{}</symbol>').format(name, frame.view_box, Markup("").join(parts))


def draw_ways(frame: Frame, scene: str, before: Trails, now: Trails, label: str) -> Markup:
    """A drawing of the scene `scene` with the ways so far, faint, and those of the latest steps; and whose is which.

    Args:
        before: who -> points passed earlier, the first where they began.
        now: who -> points passed since.
    """
    parts = [Markup('<use href="#{}"/>').format(scene)]
    for number, who in enumerate(dict.fromkeys([*before, *now])):
        colour = f"--way:var(--c{1 + number % COLOURS})"
        old, new = list(before.get(who, ())), list(now.get(who, ()))
        marks = []
        if len(old) > 1:
            marks.append(_way(frame, old, "way old"))
        if new:
            marks.append(_way(frame, old[-1:] + new, "way"))
        everything = old + new
        x, y = frame.at(everything[0]).split(",")
        marks.append(Markup('<circle class="start" cx="{}" cy="{}" r="5"/>').format(x, y))
        marks.append(_arrow(frame, everything))
        group = Markup('<g style="{}"><title>{}</title>{}</g>')
        parts.append(group.format(colour, who, Markup("").join(marks)))
    drawn = Markup('<svg class="map" viewBox="{}" role="img" aria-label="{}">{}</svg>')
    return drawn.format(frame.view_box, label, Markup("").join(parts)) + _legend(list(dict.fromkeys([*before, *now])))


def trails_of(steps: Sequence[SampleStep]) -> dict[str, list[Point]]:
    """The points that each passed in some steps, one after the other."""
    found: dict[str, list[Point]] = {}
    for step in steps:
        for who, passed in step.trail.items():
            found.setdefault(who, []).extend(passed)
    return found


def _legend(movers: Sequence[str]) -> Markup:
    """Who has which colour, where there are several."""
    if len(movers) < 2:
        return Markup("")
    entry = Markup('<li><span class="swatch" style="background:var(--c{})"></span> {}</li>')
    entries = [entry.format(1 + number % COLOURS, who) for number, who in enumerate(movers)]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(entries))


def _way(frame: Frame, points: list[Point], kind: str) -> Markup:
    every = math.ceil(len(points) / MOST_POINTS)
    kept = [*points[:-1:every], points[-1]]
    return Markup('<polyline class="{}" points="{}"/>').format(kind, " ".join(map(frame.at, kept)))


def _arrow(frame: Frame, points: list[Point]) -> Markup:
    """A mark where the way ends, pointing where it went."""
    x, y = points[-1]
    came = next((point for point in reversed(points) if math.dist(point, (x, y)) > 0.05), None)
    place = frame.at((x, y)).replace(",", " ")
    if came is None:
        return Markup('<circle class="end" cx="{}" cy="{}" r="6"/>').format(*place.split())
    angle = _number(math.degrees(math.atan2(y - came[1], x - came[0])))
    return Markup('<path class="end" d="M-7 -6L9 0L-7 6z" transform="translate({}) rotate({})"/>').format(place, angle)


def _outline(part: MapOutline, frame: Frame, kind: str) -> Markup:
    points = " ".join(map(frame.at, part.outline))
    shape = Markup('<polygon class="{}" points="{}"{}><title>{}</title></polygon>')
    return shape.format(kind, points, _fill(part.colour), part.name)


def _rect(frame: Frame, rect: tuple[float, float, float, float]) -> Markup:
    x, y = frame.at((rect[0], rect[1])).split(",")
    wide, high = _number((rect[2] - rect[0]) * SCALE), _number((rect[3] - rect[1]) * SCALE)
    return Markup('<rect class="floor" x="{}" y="{}" width="{}" height="{}"/>').format(x, y, wide, high)


def _fill(colour: str) -> Markup:
    return Markup(' style="fill:{}"').format(escape(colour)) if colour else Markup("")


def _middle(outline: Sequence[Point]) -> Point:
    xs, ys = [x for x, _ in outline], [y for _, y in outline]
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
