"""Scenes of the episodes: generated houses, a scene given by its path, or the episodes of a habitat-lab file."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from erecap.envs.habitat.goals import Goal
from erecap.envs.habitat.houses.generate import generate_house
from erecap.envs.habitat.houses.house import SIDECAR, House, Point, Room, Thing, house_text, read_house
from erecap.envs.habitat.houses.write import DATASET, WRITER, write_house
from erecap.envs.habitat.options import HabitatOptions
from erecap.errors import ConfigError
from erecap.files import cache_dir

NAVMESH = "house.navmesh"
DRAWS_PER_HOUSE = 5
# Annotations that name no thing that one could go to.
_NO_THINGS = {
    "",
    "wall",
    "floor",
    "ceiling",
    "void",
    "misc",
    "unknown",
    "unlabeled",
    "objects",
    "beam",
    "column",
    "board_panel",
}


@dataclass(frozen=True)
class Setting:
    """The scene of an episode, and what of the episode is given with it."""

    opening: Mapping[str, Any]  # arguments of the worker's `open`
    house: House | None  # None: what the scene's own annotation says
    start: Point | None = None  # None: drawn
    rotation: tuple[float, float, float, float] | None = None  # x, y, z, w
    goals: tuple[Goal, ...] = ()  # (): drawn
    extra: tuple[Thing, ...] = field(default=())  # things that the annotation may lack


class Scenes(Protocol):
    """Where scenes come from."""

    def setting(self, seed: int, episode: int, draw: int) -> Setting:
        """The setting of a draw of an episode. Raises GameError: there is none, or it is damaged."""


class GeneratedHouses:
    """Seeded houses, written once into a folder and loaded from there."""

    def __init__(self, options: HabitatOptions) -> None:
        self._options = options
        self._folder = _cache(options) / "houses"

    def setting(self, seed: int, episode: int, draw: int) -> Setting:
        """See `Scenes`."""
        options = self._options
        name = f"{seed}/{episode}/{draw // DRAWS_PER_HOUSE}"
        house = generate_house(name, split=options.split, rooms=options.rooms, objects=options.objects)
        key = hashlib.sha256(f"{WRITER} {house_text(house)}".encode()).hexdigest()[:20]
        folder = self._folder / key
        if not (folder / SIDECAR).is_file():
            write_house(house, folder)
        return of_folder(folder, house)


class GivenScene:
    """One scene for all episodes; with the sidecar of a generated house, if it lies beside the dataset."""

    def __init__(self, options: HabitatOptions) -> None:
        assert options.scene is not None, "chosen by the option scene"
        self._scene, self._dataset = options.scene, find_dataset(options.scene_dataset)
        if self._dataset is None and not Path(self._scene).expanduser().is_file():
            raise ConfigError(f"options.scene: there is no file {self._scene}; a scene by its name needs scene_dataset")
        self._furnished = self._dataset is not None and (self._dataset.parent / SIDECAR).is_file()
        if "fetch" in options.tasks and not self._furnished:
            raise ConfigError(f"options.tasks: nothing in {self._scene} can be picked up; leave out fetch")
        self._navmeshes = _cache(options) / "navmeshes"

    def setting(self, seed: int, episode: int, draw: int) -> Setting:
        """See `Scenes`."""
        if self._dataset is not None and self._furnished:
            return of_folder(self._dataset.parent, read_house(self._dataset.parent), self._scene)
        return Setting(opening_of(self._scene, self._dataset, self._navmeshes), None)


def of_folder(folder: Path, house: House, scene: str = "house") -> Setting:
    """The setting of a house that was written to a folder."""
    opening = {
        "scene": scene,
        "dataset": str(folder / DATASET),
        "navmesh": str(folder / NAVMESH),
    }
    return Setting(opening, house)


def opening_of(scene: str, dataset: Path | None, navmeshes: Path) -> dict[str, Any]:
    """The arguments of `open` for a scene of others; its navmesh is computed and kept, where it brings none.

    A scene's or dataset's file that has changed is another scene.
    """
    file = Path(scene).expanduser()
    read = [path for path in (file, dataset) if path is not None and path.is_file()]
    stamp = [scene, str(dataset), *(str(os.path.getmtime(path)) for path in read)]
    navmeshes.mkdir(parents=True, exist_ok=True)
    navmesh = navmeshes / f"{hashlib.sha256(repr(stamp).encode()).hexdigest()[:20]}.navmesh"
    return {
        "scene": str(file) if file.is_file() else scene,
        "dataset": None if dataset is None else str(dataset),
        "navmesh": str(navmesh),
    }


def find_dataset(path: Path | None) -> Path | None:
    """The dataset file that a path names: the file, or the only one in a folder.

    Raises:
        ConfigError: there is none.
    """
    if path is None:
        return None
    path = path.expanduser()
    found = sorted(path.glob("*.scene_dataset_config.json")) if path.is_dir() else [path] if path.is_file() else []
    if len(found) != 1:
        there = f"{len(found)} of them in {path}" if path.is_dir() else f"no file {path}"
        raise ConfigError(f"options.scene_dataset: got {there}; allowed: one *.scene_dataset_config.json")
    return found[0]


def annotated_house(answer: Mapping[str, Any], extra: Sequence[Thing] = ()) -> House:
    """The rooms and things of a scene's own annotation, in the form of a house.

    Args:
        answer: the worker's to `open`.
        extra: things that are added, unless one of their category is annotated.
    """
    total = Counter(_word(region["name"]) or "room" for region in answer["regions"])
    numbers: Counter[str] = Counter()
    rooms = []
    for region in answer["regions"]:
        kind = _word(region["name"]) or "room"
        (x0, _, z0), (x1, _, z1) = region["low"], region["high"]
        rooms.append(Room(_numbered(kind, numbers, total), kind, (x0, z0, x1, z1)))
    things = [item for item in answer["things"] if _word(item["category"]).replace(" ", "_") not in _NO_THINGS]
    total = Counter(_word(item["category"]) for item in things)
    numbers = Counter()
    made = []
    for item in things:
        category = _word(item["category"])
        x, _, z = item["centre"]
        made.append(
            Thing(
                id=str(item["id"]),
                name=_numbered(category, numbers, total),
                category=category,
                colour="",
                centre=tuple(item["centre"]),
                size=tuple(item["size"]),
                room=next((room.name for room in rooms if room.holds(x, z)), ""),
                receptacle=False,
                movable=False,
                semantic_id=int(item["semantic_id"]),
            )
        )
    known = {thing.category for thing in made}
    made += [thing for thing in extra if thing.category not in known]
    return House(seed="", split="", rooms=tuple(rooms), doors=(), things=tuple(made))


def _numbered(word: str, numbers: Counter[str], total: Counter[str]) -> str:
    numbers[word] += 1
    return f"{word} {numbers[word]}" if total[word] > 1 else word


def _word(text: str) -> str:
    return " ".join(str(text).replace("_", " ").replace("/", " ").lower().encode("ascii", "ignore").decode().split())


def _cache(options: HabitatOptions) -> Path:
    return cache_dir() / "habitat" if options.houses_dir is None else options.houses_dir.expanduser()
