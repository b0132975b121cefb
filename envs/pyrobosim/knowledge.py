"""Knowledge of a robot: the rooms, places and objects that it has seen, as it saw them last."""

from __future__ import annotations

from dataclasses import dataclass, field

from erecap.envs.pyrobosim.simulation import ObjectSpawn, Room, Simulation


@dataclass
class Sight:
    """A place as it was seen last."""

    open: bool
    looked: int | None = None  # step at which its content was seen; None: never


@dataclass
class Knowledge:
    """Names of what was seen; several robots may share one."""

    rooms: set[str] = field(default_factory=set)
    places: dict[str, Sight] = field(default_factory=dict)
    items: dict[str, str] = field(default_factory=dict)  # object -> the place where it was seen last
    named: set[str] = field(default_factory=set)  # objects ever seen

    def see_room(self, simulation: Simulation, room: Room) -> None:
        """Note the furniture of a room, and what of it is open."""
        self.rooms.add(simulation.name(room))
        for place in simulation.places:
            if simulation.room_of(place) is room:
                self.places.setdefault(simulation.name(place), Sight(place.is_open)).open = place.is_open

    def see_place(self, simulation: Simulation, place: ObjectSpawn, step: int) -> None:
        """Note what lies at a place; nothing of what is closed."""
        name = simulation.name(place)
        sight = self.places.setdefault(name, Sight(place.is_open))
        sight.open = place.is_open
        if not place.is_open:
            return
        sight.looked = step
        there = [simulation.name(item) for item in simulation.items_at(place)]
        self.items = {item: where for item, where in self.items.items() if where != name}
        self.items |= dict.fromkeys(there, name)
        self.named |= set(there)

    def join(self, other: Knowledge) -> None:
        """Add what another robot has seen; of a place, the newer sight counts."""
        self.rooms |= other.rooms
        self.named |= other.named
        for name, sight in other.places.items():
            own = self.places.get(name)
            if own is None or (sight.looked or 0) > (own.looked or 0):
                self.places[name] = Sight(sight.open, sight.looked)
                self.items = {item: where for item, where in self.items.items() if where != name}
                self.items |= {item: where for item, where in other.items.items() if where == name}

    @classmethod
    def of_everything(cls, simulation: Simulation) -> Knowledge:
        """The true state, what is closed included."""
        known = cls()
        for room in simulation.world.rooms:
            known.see_room(simulation, room)
        for place in simulation.places:
            name = simulation.name(place)
            known.places[name].looked = 0
            known.items |= {simulation.name(item): name for item in simulation.items_at(place)}
        known.named = set(known.items)
        return known
