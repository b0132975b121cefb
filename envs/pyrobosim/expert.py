"""The expert: splits the work among the robots, searches where nobody has looked, and brings what is wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from erecap.envs.pyrobosim.crew import Crew
from erecap.envs.pyrobosim.goals import Goal
from erecap.envs.pyrobosim.knowledge import Knowledge
from erecap.envs.pyrobosim.simulation import Hallway, ObjectSpawn, Robot, Room, Target
from erecap.envs.pyrobosim.ways import Ways, middle

RESERVE = 1.15  # times the way to the next target and on to a charger that a battery must last
RESERVE_METRES = 2.0  # on top


@dataclass(frozen=True)
class Turn:
    """Commands that one robot should carry out next."""

    robot: int
    commands: tuple[str, ...]


def next_turn(crew: Crew, goal: Goal, *, oracle: bool, only: int | None = None) -> Turn | None:
    """The next commands of the robot that is free first and has something to do.

    Args:
        crew: is not changed.
        oracle: act on the true state; else on what the robots have seen together.
        only: plan for this robot; it waits if it has nothing to do.

    Returns:
        None: no robot can do anything.
    """
    expert = _Expert(crew, goal, oracle)
    work = expert.work()
    if only is not None:
        idle = ("wait",) if len(crew.knowledge) > 1 else ("look",)
        return Turn(only, work.get(only) or idle)
    clocks = crew.simulation.clocks
    ready = sorted((clocks[number], number) for number, commands in work.items() if commands)
    return Turn(ready[0][1], work[ready[0][1]]) if ready else None


class _Expert:
    """One decision of the expert."""

    def __init__(self, crew: Crew, goal: Goal, oracle: bool) -> None:
        self.crew, self.goal, self.simulation = crew, goal, crew.simulation
        self.known = Knowledge.of_everything(self.simulation) if oracle else _joined(crew.knowledge)
        self.goal_place: ObjectSpawn = self.simulation.names[goal.place]
        self.goal_room = self.simulation.room_of(self.goal_place)
        self.ways = Ways(self.simulation)

    def work(self) -> dict[int, tuple[str, ...]]:
        """Robot -> its next commands; without those that have nothing to do."""
        work: dict[int, tuple[str, ...]] = {}
        free = []
        for number, robot in enumerate(self.simulation.robots):
            if robot.battery_level <= 0:
                continue
            if robot.manipulated_object is not None:
                work[number] = self._deliver(number, robot)
            else:
                free.append(number)
        for assign in (self._fetching, self._searching, self._checking):
            left = [number for number in free if number not in work]
            work |= assign(left, busy=bool(work))
        tired = {number: ("charge",) for number, commands in work.items() if self._must_charge(number, commands)}
        return work | tired

    # ---- what there is to do

    def _fetching(self, free: list[int], busy: bool) -> dict[int, tuple[str, ...]]:
        """The nearest robots fetch objects that were seen, no more of them than are missing."""
        names = self.simulation.names
        missing = Counter(self.goal.missing(self.simulation))
        missing -= self._held()
        allowed = self.goal.allowed(self.simulation, len(self.simulation.robots))
        wanted = {
            item: where
            for item, where in sorted(self.known.items.items())
            if where != self.goal.place and not self._carried(item)
        }
        pairs = sorted(
            (self._distance(number, names[where]), number, item)
            for item, where in wanted.items()
            if names[item].category in missing and names[item].category in allowed
            for number in free
        )
        work: dict[int, tuple[str, ...]] = {}
        taken: set[str] = set()
        for _, number, item in pairs:
            category = names[item].category
            if number not in work and item not in taken and missing[category] > 0:
                missing[category] -= 1
                taken.add(item)
                work[number] = self._fetch(number, item, names[wanted[item]])
        return work

    def _searching(self, free: list[int], busy: bool) -> dict[int, tuple[str, ...]]:
        """The nearest robots look where nobody has looked, as long as something that is missing was not seen."""
        if not free or not self._lacking():
            return {}
        names, known = self.simulation.names, self.known
        targets: list[ObjectSpawn | Room] = [
            names[name] for name in self._lookable() if known.places[name].looked is None
        ]
        targets += [room for room in self.simulation.world.rooms if self.simulation.name(room) not in known.rooms]
        pairs = sorted(
            (self._distance(number, target), number, index)
            for index, target in enumerate(targets)
            for number in free
            if self._doors(self.simulation.robots[number], target) is not None
        )
        work: dict[int, tuple[str, ...]] = {}
        taken: set[int] = set()
        for _, number, index in pairs:
            if number not in work and index not in taken:
                taken.add(index)
                work[number] = self._visit(number, targets[index])
        return work

    def _checking(self, free: list[int], busy: bool) -> dict[int, tuple[str, ...]]:
        """Everything was looked at and something is missing: one robot looks again where that is longest ago."""
        if busy or not free or not self._lacking():
            return {}
        names = self.simulation.names
        places = sorted((self.known.places[name].looked or 0, name) for name in self._lookable())
        number = free[0]
        robot = self.simulation.robots[number]
        for _, name in places:
            if self._doors(robot, names[name]) is not None:
                return {number: self._visit(number, names[name])}
        return {}

    def _lacking(self) -> bool:
        """True if fewer wanted objects were seen than are missing."""
        names = self.simulation.names
        missing = Counter(self.goal.missing(self.simulation))
        seen = Counter(names[item].category for item, where in self.known.items.items() if where != self.goal.place)
        return bool(missing - seen - self._held())

    def _held(self) -> Counter[str]:
        """How many objects of each category are in grippers."""
        held = [robot.manipulated_object for robot in self.simulation.robots]
        return Counter(item.category for item in held if item is not None)

    def _lookable(self) -> list[str]:
        """Places that were seen and can be looked into, sorted."""
        places = {name: self.simulation.names[name].parent for name in self.known.places}
        opens = {name for name, location in places.items() if self.known.places[name].open or not location.is_locked}
        return sorted(name for name in opens if not places[name].is_charger)

    # ---- how it is done

    def _visit(self, number: int, target: ObjectSpawn | Room) -> tuple[str, ...]:
        robot = self.simulation.robots[number]
        name = self.simulation.name(target)
        way = self._go(number, target)
        if way and way[-1].startswith("open"):
            return way
        if isinstance(target, Room):
            return way
        if not way:
            return (f"open {name}",) if not self.known.places[name].open else ("look",)
        if self.known.places[name].open or robot.manipulated_object is not None:
            return way
        return (*way, f"open {name}") if way[-1] == f"go to {name}" else way

    def _fetch(self, number: int, item: str, place: ObjectSpawn) -> tuple[str, ...]:
        """Open what is shut between object and goal, while the gripper is free; then pick it up and bring it."""
        shut = self._shut_on_the_way(number, place)
        if shut:
            return shut
        way = self._visit(number, place)
        name = self.simulation.name(place)
        if way and way[-1] not in (f"go to {name}", f"open {name}", "look"):
            return way
        if way == ("look",):
            # It stands there: either it has seen the object here, or it looks first.
            way = () if self.crew.knowledge[number].items.get(item) == name else way
        if way == ("look",):
            return way
        return (*way, f"pick up {item}", *self._bring(number, item, place))

    def _shut_on_the_way(self, number: int, place: ObjectSpawn) -> tuple[str, ...]:
        doors = self.ways.doors(self.simulation.room_of(place), self.goal_room)
        if doors:
            return self._open_door(number, doors[0])
        sight = self.known.places.get(self.goal.place)
        if sight is not None and not sight.open:
            return self._visit(number, self.goal_place)
        return ()

    def _bring(self, number: int, item: str, place: ObjectSpawn) -> tuple[str, ...]:
        """The commands after the object is in the gripper, as far as they can be told now."""
        sight = self.crew.knowledge[number].places.get(self.goal.place)
        if sight is None:
            room = self.simulation.name(self.goal_room)
            return (f"go to {room}",) if self.simulation.room_of(place) is not self.goal_room else ()
        return (f"go to {self.goal.place}", f"put {item} on {self.goal.place}")

    def _deliver(self, number: int, robot: Robot) -> tuple[str, ...]:
        item = self.simulation.name(robot.manipulated_object)
        category = robot.manipulated_object.category
        held = [other.manipulated_object for other in self.simulation.robots[:number]]
        earlier = sum(thing is not None and thing.category == category for thing in held)  # these are enough
        allowed = self.goal.allowed(self.simulation, len(self.simulation.robots))
        wanted = self.goal.missing(self.simulation).get(category, 0) > earlier and category in allowed
        sight = self.known.places.get(self.goal.place)
        blocked = self._doors(robot, self.goal_place) != [] or (sight is not None and not sight.open)
        if not wanted or blocked:
            return self._lay_down(number, robot, item)
        way = self._go(number, self.goal_place)
        if way and way[-1] != f"go to {self.goal.place}":
            return way
        if self.goal.out_of_order(self.simulation, robot.manipulated_object, self.goal_place):
            return way or ("wait",)
        return (*way, f"put {item} on {self.goal.place}")

    def _lay_down(self, number: int, robot: Robot, item: str) -> tuple[str, ...]:
        """Free the gripper at the nearest open place that is not the goal."""
        names = self.simulation.names
        open_places = [
            names[name]
            for name, sight in sorted(self.known.places.items())
            if sight.open and name != self.goal.place and not names[name].parent.is_charger
        ]
        near = [place for place in open_places if self._doors(robot, place) == []]
        if not near:
            return ()
        place = min(near, key=lambda place: self._distance(number, place))
        way = self._go(number, place)
        name = self.simulation.name(place)
        return (*way, f"put {item} on {name}") if not way or way[-1] == f"go to {name}" else way

    def _go(self, number: int, target: ObjectSpawn | Room) -> tuple[str, ...]:
        """The way to a target, as far as it is admissible; () if the robot is there."""
        simulation, robot = self.simulation, self.simulation.robots[number]
        if robot.location is target:
            return ()
        doors = self._doors(robot, target) or []
        if doors:
            return self._open_door(number, doors[0])
        if isinstance(target, ObjectSpawn) and simulation.name(target) not in self.crew.knowledge[number].places:
            room = simulation.room_of(target)
            first = () if robot.location is room else (f"go to {simulation.name(room)}",)
            return first or ("look",)
        return (f"go to {simulation.name(target)}",)

    def _open_door(self, number: int, door: Hallway) -> tuple[str, ...]:
        """Go to the first closed door on the way to a door, and open it."""
        simulation, robot = self.simulation, self.simulation.robots[number]
        reach = simulation.reachable(simulation.room_of(robot))
        if not reach & {door.room_start.name, door.room_end.name}:
            door = (self._doors(robot, door.room_start) or [door])[0]
        name = simulation.name(door)
        return (f"open {name}",) if robot.location is door else (f"go to {name}", f"open {name}")

    def _doors(self, robot: Robot, target: Target) -> list[Hallway] | None:
        return self.ways.doors(self.simulation.room_of(robot), self.simulation.room_of(target))

    def _distance(self, number: int, target: Target) -> float:
        robot = self.simulation.robots[number]
        return self.ways.metres(self.simulation.room_of(robot), (robot.get_pose().x, robot.get_pose().y), target)

    def _must_charge(self, number: int, commands: tuple[str, ...]) -> bool:
        """True if the battery would not last to the next target and from there to a charger."""
        simulation, robot = self.simulation, self.simulation.robots[number]
        usage = robot.action_execution_options["navigate"].battery_usage
        chargers = self.crew.chargers(number, simulation.reachable(simulation.room_of(robot)))
        moves = bool(commands) and commands[0].startswith("go to ")
        if usage <= 0 or robot.battery_level >= 95 or not chargers or not moves:
            return False
        target = simulation.names[commands[0].removeprefix("go to ")]
        back = min(self.ways.metres(simulation.room_of(target), middle(target), charger) for charger in chargers)
        metres = RESERVE * (self._distance(number, target) + back) + RESERVE_METRES
        return bool(robot.battery_level < usage * metres)

    def _carried(self, item: str) -> bool:
        return isinstance(self.simulation.names[item].parent, Robot)


def _joined(several: Iterable[Knowledge]) -> Knowledge:
    joined = Knowledge()
    for known in several:
        joined.join(known)
    return joined
