"""Figures of an episode's course: seconds and tokens read against the number of the call, a line a way."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.ticker import MaxNLocator

from erecap.report.page.course import Course, Point
from erecap.report.svg import INK, STYLE, Series, inline, look_of, new_axes, spread

ROOM = 0.36  # share of the width, right of the last call, for the names of the lines
APART = 0.075  # least distance of two names, as a share of the height
THICK, THINNER = 4.4, 1.1  # lines that coincide all show, as each next one is thinner
DOTS = 12  # markers of a line, about


def course_looks(course: Course, looks: dict[str, Series]) -> dict[str, Series]:
    """Styles of the ways: modes as everywhere on the page, re-reading in a colour that no mode has."""
    return {way.name: look_of(way.name, looks) for way in course.ways}


def seconds_by_call(course: Course, looks: dict[str, Series], name: str) -> str:
    """Seconds of each call as an `<svg>`; `name` begins its ids."""
    return _by_call(course, looks, name, lambda point: point.seconds, "seconds a replan")


def tokens_by_call(course: Course, looks: dict[str, Series], name: str) -> str:
    """Tokens that each call read as an `<svg>`; `name` begins its ids."""
    return _by_call(course, looks, name, lambda point: point.read, "tokens read")


def _by_call(course: Course, looks: dict[str, Series], name: str, value: Callable[[Point], float], label: str) -> str:
    figure, axes = new_axes()
    styles = course_looks(course, looks)
    highest = max(value(point) for way in course.ways for point in way.points) or 1.0
    for place, way in enumerate(course.ways):
        look = styles[way.name]
        axes.plot(
            [point.call for point in way.points],
            [value(point) for point in way.points],
            look.marker + "-",
            color=look.colour,
            lw=max(1.2, THICK - THINNER * place) if place else 1.8,
            ms=4.5,
            markevery=max(1, len(way.points) // DOTS),
        )
    right = max(2, course.calls)
    heights = spread([value(way.points[-1]) for way in course.ways], APART * highest, highest * 1.04)
    for way, height in zip(course.ways, heights, strict=True):
        look, last = styles[way.name], way.points[-1]
        axes.annotate(
            f"{look.glyph} {way.name}",
            (last.call, value(last)),
            (right * 1.05, height),
            va="center",
            color=look.colour,
            fontsize=STYLE["font.size"],
            fontweight="bold",
            arrowprops={"arrowstyle": "-", "color": look.colour, "lw": 0.5, "alpha": 0.5},
        )
    axes.set(xlim=(0, right * (1 + ROOM)), ylim=(0, highest * 1.08), xlabel="number of the replan in the episode")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= right])
    axes.yaxis.set_major_formatter(lambda number, _: f"{number:,.0f}" if highest >= 8 else f"{number:g}")
    axes.tick_params(colors=INK)
    return inline(figure, name, f"{label} against the number of the replan in {course.suite}, a line a way")
