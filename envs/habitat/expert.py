"""The expert: goes to what was seen, explores what was not, and brings what is wanted."""

from __future__ import annotations

import math
from collections.abc import Iterable

from erecap.envs.habitat.exploration import Frontier
from erecap.envs.habitat.goals import Goal
from erecap.envs.habitat.houses.house import Point
from erecap.envs.habitat.robot import POINT, Robot


def next_commands(robot: Robot, goal: Goal, *, within: float, oracle: bool) -> tuple[str, ...]:
    """The next commands towards a goal, the first of them admissible now; () if there is nothing left to try.

    Args:
        robot: is not changed.
        goal: the one of now.
        within: success distance, metres.
        oracle: explore by the true place of what is wanted; else by what was seen.
    """
    if goal.surface:
        return _fetch(robot, goal, oracle)
    if goal.distance(robot) < within:
        return ("stop",)
    seen = [POINT] if goal.point is not None else [robot.ids[which].name for which in goal.targets]
    known = _gone_to(robot, [name for name in seen if name in robot.places()])
    if known:
        return (*known, "stop")
    return _search(robot, goal.regions(robot) if oracle else None, goal.point)


def _fetch(robot: Robot, goal: Goal, oracle: bool) -> tuple[str, ...]:
    surface = robot.ids[goal.surface]
    wanted = [robot.ids[which].name for which in goal.targets]
    seen = surface.name in robot.known.things
    put = (f"go to {surface.name}", f"put {robot.held or ''} on {surface.name}")
    if robot.held in wanted:
        if seen:
            return put[1:] if robot.in_reach(surface.name) else put
        return _search(robot, robot.approach(surface, robot.where[surface.id]) if oracle else None)
    if robot.held is not None:
        return _lay_down(robot)
    near = [name for name in wanted if name in robot.known.things and robot.in_reach(name)]
    bring = (f"go to {surface.name}",) if seen else ()
    if near:
        return (f"pick up {near[0]}", *bring, *((f"put {near[0]} on {surface.name}",) if seen else ()))
    known = _gone_to(robot, [name for name in wanted if name in robot.known.things])
    if known:
        name = known[0].removeprefix("go to ")
        return (*known, f"pick up {name}", *bring, *((f"put {name} on {surface.name}",) if seen else ()))
    return _search(robot, goal.regions(robot) if oracle else None)


def _gone_to(robot: Robot, names: Iterable[str]) -> tuple[str, ...]:
    """The command to go to the nearest of several places that were seen, other than where the robot is."""
    places = {name: robot.point if name == POINT else robot.known.things[name].centre for name in names}
    near = sorted((robot.pose.metres(point), name) for name, point in places.items() if point and name != robot.at)
    return (f"go to {near[0][1]}",) if near else ()


def _search(robot: Robot, targets: list[list[float]] | None, towards: Point | None = None) -> tuple[str, ...]:
    """Explore: the frontier on the shortest way to the targets, or to a point, or else the nearest one."""
    frontiers = robot.explored.frontiers
    if targets is None and towards is None and not robot.looked_in:
        return ("look around",)
    if frontiers:
        return (f"explore {_best(robot, frontiers, targets, towards).name}",)
    if not robot.looked_in:
        return ("look around",)
    # All floor was seen, and what is wanted was not, so something hides it: look around in each room, then from before
    # the furniture.
    rooms = [room for room in robot.house.rooms if room.name in robot.known.rooms - robot.looked_in]
    if rooms:
        room = min(rooms, key=lambda room: (robot.pose.metres(room.middle), room.name))
        return ("look around",) if robot.at == room.name else (f"go to {room.name}", "look around")
    names = [name for name in robot.known.things if not robot.things[name].movable and name not in robot.visited]
    return _gone_to(robot, names)


def _best(
    robot: Robot, frontiers: list[Frontier], targets: list[list[float]] | None, towards: Point | None
) -> Frontier:
    there = robot.ask("distances", groups=[[list(frontier.point)] for frontier in frontiers])["metres"]
    costs = []
    for frontier, metres in zip(frontiers, there, strict=True):
        cost = math.inf if metres is None else metres
        if targets is not None:
            cost += _away(robot, frontier.point, [targets])
        elif towards is not None:
            cost += math.hypot(frontier.point[0] - towards[0], frontier.point[2] - towards[2])
        costs.append((cost, frontier.name, frontier))
    return min(costs, key=lambda entry: entry[:2])[2]


def _away(robot: Robot, start: Point, groups: list[list[list[float]]]) -> float:
    metres = robot.ask("distances", groups=groups, start=list(start))["metres"][0]
    return math.inf if metres is None else float(metres)


def _lay_down(robot: Robot) -> tuple[str, ...]:
    """Free the hand at the nearest furniture."""
    surfaces = robot.surfaces()
    near = [name for name in surfaces if robot.in_reach(name)]
    if near:
        return (f"put {robot.held} on {near[0]}",)
    known = _gone_to(robot, surfaces)
    if not known:
        return _search(robot, None)
    return (*known, f"put {robot.held} on {known[0].removeprefix('go to ')}")
