"""Text chart of an episode's course for the terminal: one line a way, one height a stretch of calls.

The figures behind each line are those of the sentences below the chart: its medians early and late.
"""

from __future__ import annotations

from erecap.report.formats import count, seconds
from erecap.report.page.course import Course, Way
from erecap.report.stats import median

HEIGHTS = "▁▂▃▄▅▆▇█"
COLUMNS = 12  # stretches of calls, at most
WIDTH = 3  # characters of one stretch


def course_chart(course: Course) -> list[str]:
    """Lines of the chart; all ways have one scale, from 0 to the slowest stretch."""
    columns = min(COLUMNS, len(course.ways[0].points))
    heights = {way.name: _stretches(way, course.calls, columns) for way in course.ways}
    highest = max(value for values in heights.values() for value in values if value is not None)
    room = max(len(name) for name in heights)
    lines = [f"Seconds a replan, {course.suite}: call 1 to {course.calls}, up to {count(course.longest)} tokens"]
    for way in course.ways:
        bars = "".join(_bar(value, highest) * WIDTH for value in heights[way.name])
        early, late = way.early(course.longest), way.late(course.longest)
        lines.append(f"{way.name:<{room}}  {bars}  early {seconds(early)}, late {seconds(late)}")
    return lines


def _stretches(way: Way, calls: int, columns: int) -> list[float | None]:
    """Median seconds of each of `columns` equal stretches of the calls; None where the way has no call."""
    found: list[list[float]] = [[] for _ in range(columns)]
    for point in way.points:
        found[(point.call - 1) * columns // calls].append(point.seconds)
    return [median(values) for values in found]


def _bar(value: float | None, highest: float) -> str:
    if value is None:
        return " "
    return HEIGHTS[min(len(HEIGHTS) - 1, int(len(HEIGHTS) * value / highest))] if highest else HEIGHTS[0]
