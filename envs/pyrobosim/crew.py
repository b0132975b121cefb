"""The crew of an episode: what its robots know, which commands are admissible for each, and carrying them out."""

from __future__ import annotations

from erecap.envs.commands import Impossible, Outcome
from erecap.envs.pyrobosim.commands import TEMPLATES, parse
from erecap.envs.pyrobosim.goals import Goal
from erecap.envs.pyrobosim.knowledge import Knowledge
from erecap.envs.pyrobosim.simulation import Hallway, ObjectSpawn, Robot, Room, Simulation, Target
from erecap.envs.words import find_name, plain


class Crew:
    """Robots that act by commands in words and know only what they have seen.

    Args:
        simulation: the world, with its robots.
        shared: all robots know what one has seen.
        goal: of the episode; its order decides what may be put where.
    """

    def __init__(self, simulation: Simulation, goal: Goal, *, shared: bool) -> None:
        self.simulation, self._goal = simulation, goal
        count = len(simulation.robots)
        self.knowledge = [Knowledge()] * count if shared else [Knowledge() for _ in range(count)]
        self.touched: set[str] = set()  # objects ever picked up
        self.step = 0
        for robot, known in zip(simulation.robots, self.knowledge, strict=True):
            known.see_room(simulation, simulation.room_of(robot))
            place = simulation.place_of(robot)
            if place is not None:
                known.see_place(simulation, place, self.step)

    # ---- what is admissible

    def skills(self, number: int) -> list[str]:
        """Commands that are admissible now for a robot, by what it knows."""
        simulation, robot, known = self.simulation, self.simulation.robots[number], self.knowledge[number]
        if robot.battery_level <= 0:
            return ["wait"]
        place, held = simulation.place_of(robot), robot.manipulated_object
        rooms = simulation.reachable(simulation.room_of(robot))
        commands = ["look", "wait"] if len(simulation.robots) > 1 else ["look"]
        if self.chargers(number, rooms):
            commands.append("charge")
        commands += [f"go to {simulation.name(target)}" for target in self._targets(number, rooms)]
        opens = self._opens(robot)
        if held is None and opens is not None and not opens.is_locked:
            commands.append(f"{'close' if opens.is_open else 'open'} {simulation.name(robot.location)}")
        if place is not None and place.is_open:
            here = simulation.name(place)
            if held is None:
                commands += [f"pick up {item}" for item, where in sorted(known.items.items()) if where == here]
            elif not place.parent.is_charger and not self._goal.out_of_order(simulation, held, place):
                commands.append(f"put {simulation.name(held)} on {here}")
        return commands

    def entities(self) -> dict[str, list[str]]:
        """Slot of `TEMPLATES` -> names that any robot has seen so far, sorted. Rooms and doors are known at once."""
        simulation, world = self.simulation, self.simulation.world
        seen = set().union(*(known.places for known in self.knowledge))
        surfaces = {name for name in seen if not simulation.names[name].parent.is_charger}
        doors = {simulation.name(hallway) for hallway in world.hallways if not hallway.is_locked}
        closed = {simulation.name(hallway) for hallway in world.hallways if not hallway.is_open}
        return {
            "item": sorted(set().union(*(known.named for known in self.knowledge))),
            "openable": sorted(doors | {name for name in surfaces if not simulation.names[name].parent.is_locked}),
            "place": sorted(surfaces | closed | {simulation.name(room) for room in world.rooms}),
            "surface": sorted(surfaces),
        }

    def _targets(self, number: int, rooms: set[str]) -> list[Target]:
        simulation, robot, known = self.simulation, self.simulation.robots[number], self.knowledge[number]
        places = [simulation.names[name] for name in sorted(known.places)]
        targets: list[Target] = [room for room in simulation.world.rooms if room.name in rooms]
        for hallway in simulation.world.hallways:
            if not hallway.is_open and rooms & {hallway.room_start.name, hallway.room_end.name}:
                targets.append(hallway)
        near = [place for place in places if simulation.room_of(place).name in rooms]
        targets += [place for place in near if place.nav_poses and not place.parent.is_charger]
        return [target for target in targets if target is not robot.location]

    def chargers(self, number: int, rooms: set[str]) -> list[ObjectSpawn]:
        """Chargers that a robot has seen, in the rooms named."""
        simulation = self.simulation
        places = [simulation.names[name] for name in sorted(self.knowledge[number].places)]
        return [place for place in places if place.parent.is_charger and simulation.room_of(place).name in rooms]

    def _opens(self, robot: Robot) -> Hallway | None:
        """What opens and closes where the robot stands."""
        where = robot.location
        return where.parent if isinstance(where, ObjectSpawn) else where if isinstance(where, Hallway) else None

    # ---- carrying commands out

    def perform(self, number: int, text: str) -> Outcome:
        """Carry out a command of one robot. Never raises for what a planner may write: see `Outcome.failure`."""
        command = parse(text)
        if command is None:
            said = f"Nothing happens: {plain(text)!a} is no command; commands are: {', '.join(TEMPLATES)}."
            return Outcome(said, "no such command")
        self.step += 1
        try:
            names = [find_name(name, self.simulation.names) for name in command.names]
            return getattr(self, f"_{command.verb.replace(' ', '_')}")(self.simulation.robots[number], *names)
        except Impossible as reason:
            return Outcome(f"You cannot {plain(text)}: {reason}.", str(reason))

    def describe(self, number: int) -> Outcome:
        """The present view of a robot, with nothing done."""
        robot = self.simulation.robots[number]
        return self._view(robot, self.simulation.place_of(robot) is not None)

    def _look(self, robot: Robot) -> Outcome:
        simulation = self.simulation
        self.knowledge[simulation.robots.index(robot)].see_room(simulation, simulation.room_of(robot))
        place = simulation.place_of(robot)
        if place is None or not place.is_open:
            simulation.look_around(robot)  # so that a robot which only looks does not keep its turn for ever
            return self._view(robot, False)
        return self._view(robot, self._detect(robot))

    def _wait(self, robot: Robot) -> Outcome:
        self.simulation.wait(robot)
        return Outcome("You wait.")

    def _charge(self, robot: Robot) -> Outcome:
        simulation, number = self.simulation, self.simulation.robots.index(robot)
        chargers = self.chargers(number, simulation.reachable(simulation.room_of(robot)))
        if not chargers:
            raise Impossible("you have seen no charger that you can reach")
        pose = robot.get_pose()
        nearest = min(chargers, key=lambda charger: pose.get_linear_distance(charger.pose))
        before = simulation.clocks[number]
        self._need(simulation.charge(robot, nearest))
        spent = f"{simulation.clocks[number] - before:.0f} s"
        return Outcome(f"You have charged at {simulation.name(nearest)} after {spent}.{self._battery(robot)}")

    def _go_to(self, robot: Robot, name: str) -> Outcome:
        simulation, number = self.simulation, self.simulation.robots.index(robot)
        target = self._target(number, name)
        if target is robot.location:
            raise Impossible("you are there already")
        before = simulation.clocks[number]
        self._need(simulation.navigate(robot, target))
        spent = f" after {simulation.clocks[number] - before:.0f} s"
        self.knowledge[number].see_room(simulation, simulation.room_of(robot))
        looked = isinstance(target, ObjectSpawn) and target.is_open and self._detect(robot)
        return self._view(robot, looked, spent)

    def _open(self, robot: Robot, name: str) -> Outcome:
        simulation, number = self.simulation, self.simulation.robots.index(robot)
        self._need_openable(robot, name, is_open=False)
        self._need(simulation.open(robot))
        place = simulation.place_of(robot)
        if place is None:
            return Outcome(f"You open {name}.", subject=name)  # a door: all that is to be known of it
        self.knowledge[number].see_place(simulation, place, self.step)
        return Outcome(f"You open {name}. {self._content(place)}", subject=name)

    def _close(self, robot: Robot, name: str) -> Outcome:
        simulation, number = self.simulation, self.simulation.robots.index(robot)
        self._need_openable(robot, name, is_open=True)
        self._need(simulation.close(robot))
        place = simulation.place_of(robot)
        if place is not None:
            self.knowledge[number].see_place(simulation, place, self.step)
        return Outcome(f"You close {name}.")  # says nothing of what was seen in it

    def _pick_up(self, robot: Robot, name: str) -> Outcome:
        simulation, number = self.simulation, self.simulation.robots.index(robot)
        known, place = self.knowledge[number], simulation.place_of(robot)
        if name not in known.named:
            raise Impossible(f"you have seen no {name}")
        if robot.manipulated_object is not None:
            raise Impossible(f"you hold {simulation.name(robot.manipulated_object)}")
        if place is None or known.items.get(name) != simulation.name(place):
            raise Impossible("you are not where you saw it")
        if not place.is_open:
            raise Impossible(f"{simulation.name(place)} is closed")
        item = simulation.names[name]
        if item.parent is not place:
            known.see_place(simulation, place, self.step)
            raise Impossible("it is not there any more")
        self._need(simulation.pick(robot, item))
        self.touched.add(name)
        known.see_place(simulation, place, self.step)
        return Outcome(f"You pick up {name} from {simulation.name(place)}.", subject=name)

    def _put(self, robot: Robot, name: str, where: str) -> Outcome:
        simulation, number = self.simulation, self.simulation.robots.index(robot)
        held, place = robot.manipulated_object, simulation.place_of(robot)
        if held is None or simulation.name(held) != name:
            raise Impossible(f"you do not hold {name}")
        if place is None or simulation.name(place) != where:
            raise Impossible(f"you are not at {where}")
        if place.parent.is_charger:
            raise Impossible("a charger holds nothing")
        if not place.is_open:
            raise Impossible(f"{where} is closed")
        self._need(self._goal.out_of_order(simulation, held, place))
        self._need(simulation.place(robot))
        self.knowledge[number].see_place(simulation, place, self.step)
        return Outcome(f"You put {name} on {where}.", subject=name)

    # ---- what these are made of

    def _target(self, number: int, name: str) -> Target:
        simulation = self.simulation
        target = simulation.names.get(name)
        seen = name in self.knowledge[number].places
        if (isinstance(target, ObjectSpawn) and not seen) or not isinstance(target, (Room, Hallway, ObjectSpawn)):
            raise Impossible(f"you have seen no place {name}")
        return target

    def _need(self, reason: str) -> None:
        if reason:
            raise Impossible(reason)

    def _need_openable(self, robot: Robot, name: str, *, is_open: bool) -> None:
        simulation, opens = self.simulation, self._opens(robot)
        if opens is None or simulation.name(robot.location) != name:
            raise Impossible(f"you are not at {name}")
        if opens.is_locked:
            raise Impossible(f"{name} does not open and close")
        if opens.is_open != is_open:
            raise Impossible(f"{name} is {'open' if opens.is_open else 'closed'} already")
        if robot.manipulated_object is not None:
            raise Impossible(f"you hold {simulation.name(robot.manipulated_object)}")

    def _detect(self, robot: Robot) -> bool:
        """Look at the place before the robot; False if what is there was not made out."""
        simulation, number = self.simulation, self.simulation.robots.index(robot)
        if simulation.detect(robot):
            return False
        place = simulation.place_of(robot)
        assert place is not None
        self.knowledge[number].see_place(simulation, place, self.step)
        return True

    def _view(self, robot: Robot, looked: bool, spent: str = "") -> Outcome:
        simulation = self.simulation
        room, where = simulation.room_of(robot), robot.location
        if isinstance(where, ObjectSpawn):
            name = simulation.name(where)
            text = f"You are at {name} in the {simulation.name(room)}{spent}. "
            shown = looked or not where.is_open
            text += self._content(where) if shown else "You cannot make out what is there; look again."
            # Without a view of what is there, an older view of it stays the newest.
            known = self.knowledge[simulation.robots.index(robot)].places[name]
            name = name if looked or known.looked is None else ""
        elif isinstance(where, Hallway):
            name = simulation.name(where)
            text = f"You are at {name}{spent}. It is {'open' if where.is_open else 'closed'}."
        else:
            name = simulation.name(room)
            places = [place for place in simulation.places if simulation.room_of(place) is room]
            text = f"You are in the {name}{spent}. You see {self._listed(places)}."
        return Outcome(text + self._battery(robot), subject=name)

    def _content(self, place: ObjectSpawn) -> str:
        if not place.is_open:
            return "It is closed."
        items = [self.simulation.name(item) for item in self.simulation.items_at(place)]
        return f"There you see {', '.join(items)}." if items else "There is nothing."

    def _listed(self, places: list[ObjectSpawn]) -> str:
        names = [f"{self.simulation.name(place)}{'' if place.is_open else ' (closed)'}" for place in places]
        return ", ".join(names) or "nothing"

    def _battery(self, robot: Robot) -> str:
        return f" Battery {robot.battery_level:.0f} %." if self.simulation.has_battery else ""
