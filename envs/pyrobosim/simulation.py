"""A pyrobosim world with robots that act in simulated time, deterministic for one seed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyrobosim.core.robot
import pyrobosim.core.world
from pyrobosim.core import Hallway, Location, Object, ObjectSpawn, Robot, Room, World
from pyrobosim.navigation.types import PathPlanner
from pyrobosim.planning.actions import ExecutionOptions, ExecutionResult
from pyrobosim.utils.graph_types import Node
from pyrobosim.utils.search_graph import SearchGraphPlanner

from erecap.envs.pyrobosim.executor import InstantExecutor
from erecap.envs.pyrobosim.loading import fitting, load_world, make_path_planner, playable
from erecap.envs.words import MOST_CHARACTERS, plain
from erecap.errors import GameError

Target = Room | Hallway | ObjectSpawn

ACTIONS = ("navigate", "pick", "place", "detect", "open", "close")
# Simulated seconds of what is no way; a world file's delay comes on top.
SECONDS = {"pick": 4.0, "place": 4.0, "open": 3.0, "close": 3.0, "detect": 1.0, "wait": 5.0}
CHARGE_SECONDS = 0.5  # for one per cent of battery
_LOCK = threading.RLock()  # numpy's generator and pyrobosim's categories belong to the whole process


def _quiet_logger(name: str, level: int = logging.INFO) -> logging.Logger:
    return logging.getLogger(f"pyrobosim.{name}")


# pyrobosim writes every action of every robot to standard error. Its failures are told in observations.
pyrobosim.core.world.create_logger = _quiet_logger
pyrobosim.core.robot.create_logger = _quiet_logger
logging.getLogger("pyrobosim").setLevel(logging.ERROR)


def _sorted_neighbors(self: SearchGraphPlanner, node: Node) -> list[Node]:
    return sorted(node.neighbors, key=lambda other: (other.pose.x, other.pose.y, other.pose.get_yaw()))


# pyrobosim keeps neighbours in a set, in the order of their addresses: ways of one length would differ from run to run.
SearchGraphPlanner.neighbors = _sorted_neighbors


class Simulation:
    """A world, its robots, and what they do.

    Every action returns "" if it succeeded, else the reason in words. Which attempts fail by chance depends on the
    seed, the robot, the action and how often it was tried, and on nothing else.

    Args:
        world: in pyrobosim's YAML schema; it is not changed.
        folder: what `$PWD` stands for in it.
        seed: numbers that decide what the world leaves open.
        robots: how many of the world's robots take part; None: all.
        failures: probability that an action fails; None: as the world says.
        battery_per_metre: per cent of battery that a metre costs; None: as the world says.
        battery_per_waiting_second: per cent of battery that a second of `stand` costs.

    Raises:
        GameError: the world does not fit pyrobosim's schema, or something of it has no place.
    """

    def __init__(
        self,
        world: Mapping[str, Any],
        folder: Path | None,
        *,
        seed: Sequence[int],
        robots: int | None = None,
        failures: float | None = None,
        battery_per_metre: float | None = None,
        battery_per_waiting_second: float = 0.0,
    ) -> None:
        self._seed = tuple(seed)
        self._waiting_usage = battery_per_waiting_second
        self._draws = 0
        used, planners = playable(world, robots)
        with self._chance():
            self.world: World = load_world(used, folder)
        self.robots: list[Robot] = self.world.robots
        self.clocks = [0.0] * len(self.robots)  # simulated seconds, by robot
        self.waited = 0.0  # simulated seconds, all robots together
        self._ready: dict[str, float] = {}  # object -> when it was put where it lies
        self._delays: dict[str, dict[str, float]] = {}  # simulated seconds by robot and action, from the world file
        for number, robot in enumerate(self.robots):
            self._equip(number, robot, failures, battery_per_metre)
        self._planners = self._make_planners(planners)
        self.names = self._name_all()

    # ---- names

    def name(self, entity: Any) -> str:
        """The name of an entity in commands and observations."""
        if isinstance(entity, ObjectSpawn) and len(entity.parent.children) == 1:
            entity = entity.parent
        return entity.name.replace("_", " ").encode("ascii", "replace").decode()

    def _name_all(self) -> dict[str, Any]:
        world = self.world
        names: dict[str, Any] = {}
        for entity in (*world.rooms, *world.hallways, *self.places, *world.objects, *world.robots):
            name = self.name(entity)
            if name in names:
                raise GameError(f"the pyrobosim world has two entities that are called {name!r} in commands")
            if not name or plain(name) != name or (isinstance(entity, Robot) and ":" in name):
                colon = " and without a colon" if isinstance(entity, Robot) else ""
                raise GameError(
                    f"the pyrobosim world has an entity that is called {name!r:.60}, which no command can hold; "
                    f"allowed: at most {MOST_CHARACTERS} characters in one line, single spaces, no full stop at the "
                    f"end{colon}"
                )
            names[name] = entity
        return names

    # ---- what there is

    @property
    def places(self) -> list[ObjectSpawn]:
        """Where objects can lie, chargers included."""
        return [spawn for location in self.world.locations for spawn in location.children]

    def room_of(self, entity: Any) -> Room:
        """The room in which a place, an object or a robot is; of a hallway, the one it begins in."""
        if isinstance(entity, Robot):
            return self.robot_room(entity)
        if isinstance(entity, Hallway):
            return entity.room_start
        while not isinstance(entity, Room):
            entity = entity.parent
            if isinstance(entity, Robot):
                return self.robot_room(entity)
        return entity

    def robot_room(self, robot: Robot) -> Room:
        """The room in which a robot is; in a hallway, the nearer one."""
        pose = robot.get_pose()
        where = robot.location
        if isinstance(where, Hallway):
            ends = (where.room_start, where.room_end)
            return min(ends, key=lambda room: float(np.hypot(room.centroid[0] - pose.x, room.centroid[1] - pose.y)))
        if where is None:
            raise GameError(f"pyrobosim: {robot.name} is in no room")
        return self.room_of(where)

    def place_of(self, robot: Robot) -> ObjectSpawn | None:
        """The place before which a robot stands."""
        return robot.location if isinstance(robot.location, ObjectSpawn) else None

    def items_at(self, place: ObjectSpawn) -> list[Object]:
        """Objects that lie there, sorted by name."""
        return sorted(place.children, key=lambda item: item.name)

    def reachable(self, room: Room) -> set[str]:
        """Names of the rooms that can be reached through open doors."""
        found, border = {room.name}, [room]
        while border:
            for hallway in border.pop().hallways:
                for other in (hallway.room_start, hallway.room_end):
                    if hallway.is_open and other.name not in found:
                        found.add(other.name)
                        border.append(other)
        return found

    @property
    def metres(self) -> float:
        """Travelled so far, by all robots together."""
        return sum(robot.path_executor.metres for robot in self.robots)

    @property
    def seconds(self) -> float:
        """Simulated seconds until the last robot is done: the makespan so far."""
        return max(self.clocks)

    @property
    def has_battery(self) -> bool:
        """True if moving or standing costs battery."""
        usages = [list(robot.action_execution_options.values()) for robot in self.robots]
        return self._waiting_usage > 0 or any(options.battery_usage > 0 for robot in usages for options in robot)

    # ---- actions

    def navigate(self, robot: Robot, target: Target) -> str:
        """Go to a room, a door, or before a place."""
        if robot.location is target and not isinstance(target, Room):
            return ""
        if robot.battery_level <= 0:
            return "the battery is empty"
        executor = robot.path_executor
        before = executor.seconds
        with self._chance():
            path = self._path(robot, target)
            if path is None:
                return "there is no open way"
            result = robot.navigate(path=path)
        self._pass(robot, executor.seconds - before, "navigate")
        if not result.is_success():
            return "the battery is empty" if robot.battery_level <= 0 else "the motors failed"
        robot.location = target
        return ""

    def charge(self, robot: Robot, charger: ObjectSpawn) -> str:
        """Go to a charger and stay until the battery is full."""
        level = robot.battery_level
        metres = robot.path_executor.metres
        reason = self.navigate(robot, charger)
        if not reason:
            arrived = level - self._battery_per_metre(robot) * (robot.path_executor.metres - metres)
            robot.battery_level = 100.0
            self._pass(robot, CHARGE_SECONDS * max(0.0, 100.0 - arrived))
        return reason

    def pick(self, robot: Robot, item: Object) -> str:
        """Take an object from the place before which the robot stands."""
        number = self.robots.index(robot)
        # Commands come one after the other, clocks run side by side: nothing is taken before it was brought.
        until = max(self.clocks[number], self._ready.get(item.name, 0.0))
        self.waited += until - self.clocks[number]
        self.clocks[number] = until
        return self._done(robot, "pick", lambda: robot.pick_object(item))

    def place(self, robot: Robot) -> str:
        """Lay down what the robot carries, where it stands."""
        item = robot.manipulated_object
        reason = self._done(robot, "place", robot.place_object)
        if not reason and item is not None:
            self._ready[item.name] = self.clocks[self.robots.index(robot)]
        return reason

    def detect(self, robot: Robot) -> str:
        """Look at the place before which the robot stands."""
        return self._done(robot, "detect", robot.detect_objects)

    def open(self, robot: Robot) -> str:
        """Open what the robot stands before."""
        return self._set_open(robot, "open", robot.open_location)

    def close(self, robot: Robot) -> str:
        """Close what the robot stands before."""
        return self._set_open(robot, "close", robot.close_location)

    def look_around(self, robot: Robot) -> None:
        """Look where nothing lies before the robot: it takes as long as looking at a place."""
        self._pass(robot, SECONDS["detect"])

    def wait(self, robot: Robot) -> None:
        """Do nothing for a while."""
        self._pass(robot, SECONDS["wait"])
        self.waited += SECONDS["wait"]

    def stand(self, robot: Robot, until: float) -> None:
        """Let a robot stand idle until its clock shows the simulated second `until`."""
        number = self.robots.index(robot)
        seconds = max(0.0, until - self.clocks[number])
        self.clocks[number] += seconds
        robot.battery_level = max(0.0, robot.battery_level - self._waiting_usage * seconds)

    def shut(self, door: Hallway) -> bool:
        """Close a door by itself; False if that cannot be, since it is locked or a robot stands in it."""
        with self._chance():
            if not self.world.close_location(door).is_success():
                return False
            for planner in self._planners:
                planner.reset()
        return True

    def move(self, item: Object, place: ObjectSpawn, rng: np.random.Generator) -> bool:
        """Lay an object somewhere else by itself; False if there is no room for it."""
        with self._chance(int(rng.integers(2**31))):
            return bool(self.world.update_object(item, place))

    # ---- inside

    def _set_open(self, robot: Robot, action: str, act: Any) -> str:
        reason = self._done(robot, action, act)
        if not reason and isinstance(robot.location, Hallway):
            with self._chance():
                for planner in self._planners:
                    planner.reset()
        return reason

    def _done(self, robot: Robot, action: str, act: Any) -> str:
        if robot.battery_level <= 0:
            return "the battery is empty"
        with self._chance():
            result: ExecutionResult = act()
        self._pass(robot, SECONDS[action], action)
        if result.is_success():
            return ""
        if (result.message or "").startswith("Simulated"):
            return "the attempt failed"
        if (result.message or "").startswith("Could not sample"):
            return "there is no room for it"
        return (result.message or "it does not work").rstrip(".")

    def _path(self, robot: Robot, target: Target) -> Any | None:
        """The way to the nearest pose of the target that a way leads to."""
        start = robot.get_pose()
        poses = [node.pose for node in target.graph_nodes] if isinstance(target, Hallway) else list(target.nav_poses)
        for pose in sorted(poses, key=start.get_linear_distance):
            path = robot.path_planner.plan(start, pose)
            if path is not None and path.num_poses >= 2:
                return path
        return None

    def _pass(self, robot: Robot, seconds: float, action: str = "") -> None:
        delay = self._delays[robot.name].get(action, 0.0)
        self.clocks[self.robots.index(robot)] += seconds + delay

    def _battery_per_metre(self, robot: Robot) -> float:
        options = robot.action_execution_options.get("navigate")
        return 0.0 if options is None else float(options.battery_usage)

    def _equip(self, number: int, robot: Robot, failures: float | None, battery: float | None) -> None:
        given = robot.path_executor
        velocity = getattr(given, "linear_velocity", 1.0)
        robot.set_path_executor(InstantExecutor(velocity, getattr(given, "max_angular_velocity", None)))
        options = {**robot.action_execution_options}
        for action in ACTIONS:
            old = options.get(action, ExecutionOptions())
            self._delays.setdefault(robot.name, {})[action] = old.delay
            options[action] = ExecutionOptions(
                success_probability=old.success_probability if failures is None else 1.0 - failures,
                battery_usage=battery if action == "navigate" and battery is not None else old.battery_usage,
            )
            # A stream for each robot and action, so that one planner's commands do not shift the failures of others.
            options[action].rng = np.random.default_rng([*self._seed, number, ACTIONS.index(action)])
        robot.action_execution_options = options

    def _make_planners(self, settings: Sequence[Mapping[str, Any]]) -> list[PathPlanner]:
        """One planner for all robots that want the same: its map of the world takes a while."""
        made: list[tuple[Mapping[str, Any], PathPlanner]] = []
        for robot, wanted in zip(self.robots, settings, strict=True):
            planner = next((planner for known, planner in made if known == wanted), None)
            if planner is None:
                owner = f"path_planner of {robot.name}"
                planner = make_path_planner(wanted, owner)
                with fitting(owner), self._chance():
                    robot.set_path_planner(planner)
                made.append((wanted, planner))
            robot.path_planner = planner
        return [planner for _, planner in made]

    @contextmanager
    def _chance(self, number: int | None = None) -> Iterator[None]:
        """Draw from a stream of this simulation alone, where pyrobosim draws from numpy's global one."""
        with _LOCK:
            if number is None:
                self._draws += 1
            words = [*self._seed, 1, self._draws] if number is None else [*self._seed, 2, number]
            kept = np.random.get_state()
            np.random.seed(np.random.SeedSequence(words).generate_state(4))
            try:
                yield
            finally:
                np.random.set_state(kept)


__all__ = ["Hallway", "Location", "Object", "ObjectSpawn", "Robot", "Room", "Simulation", "Target"]
