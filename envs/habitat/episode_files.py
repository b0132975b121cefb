"""Episode files of habitat-lab: PointNav and ObjectNav datasets as json or json.gz."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from erecap.envs.habitat.goals import Goal
from erecap.envs.habitat.houses.house import Point, Thing
from erecap.envs.habitat.options import HabitatOptions
from erecap.envs.habitat.scenes import Setting, find_dataset, opening_of
from erecap.envs.words import with_article
from erecap.errors import ConfigError, GameError
from erecap.files import cache_dir
from erecap.untrusted import MOST_BYTES, parse_json

SIZE = (0.8, 0.8, 0.8)  # metres of a goal object, where the file says no more than its position


class EpisodeFile:
    """The episodes of a file, in its order: episode i of the suite is the i-th of the file.

    Args:
        options: with `episodes_file`.
        episodes: how many the suite plays.

    Raises:
        ConfigError: the file is no such file, or has fewer episodes.
    """

    def __init__(self, options: HabitatOptions, episodes: int) -> None:
        assert options.episodes_file is not None, "chosen by the option episodes_file"
        self._path = options.episodes_file.expanduser()
        self._scenes = (options.scenes_dir or self._path.parent).expanduser()
        self._dataset = find_dataset(options.scene_dataset)
        houses = cache_dir() / "habitat" if options.houses_dir is None else options.houses_dir.expanduser()
        self._navmeshes = houses / "navmeshes"
        self._goals: dict[str, list[Any]] = {}
        self._episodes = self._read(self._path)
        if not self._episodes:
            for content in sorted((self._path.parent / "content").glob("*.json.gz")):
                self._episodes += self._read(content)
        if len(self._episodes) < episodes:
            raise ConfigError(f"episodes: got {episodes}; {self._path} has {len(self._episodes)}")

    def setting(self, seed: int, episode: int, draw: int) -> Setting:
        """See `Scenes`."""
        plain = self._episodes[episode]
        try:
            scene = str(plain["scene_id"])
            goals, things = self._goals_of(plain, scene)
            return Setting(
                opening=opening_of(self._scene_path(scene), self._dataset, self._navmeshes),
                house=None,
                start=_point(plain["start_position"]),
                rotation=_rotation(plain["start_rotation"]),
                goals=goals,
                extra=things,
            )
        except (LookupError, TypeError, ValueError) as error:
            raise GameError(f"{self._path}: episode {episode} is damaged: {type(error).__name__}: {error}") from error

    def _goals_of(self, plain: Mapping[str, Any], scene: str) -> tuple[tuple[Goal, ...], tuple[Thing, ...]]:
        category = plain.get("object_category")
        if category is None:
            point = _point(plain["goals"][0]["position"])
            return (Goal("the goal", "Go to the goal.", point=point),), ()
        prefix = f"{Path(scene).name}_"
        things: list[Thing] = []
        for key in sorted(key for key in self._goals if key.startswith(prefix)):
            things += [_thing(goal, key.removeprefix(prefix)) for goal in self._goals[key]]
        listed = self._goals.get(f"{prefix}{category}") or plain["goals"]
        word = str(category).replace("_", " ")
        if not any(thing.category == word for thing in things):
            things += [_thing(goal, str(category)) for goal in listed]
        views = tuple(
            _point(view["agent_state"]["position"]) for goal in listed for view in goal.get("view_points") or []
        )
        targets = tuple(thing.id for thing in things if thing.category == word)
        words = with_article(word)
        return (Goal(words, f"Find {words}.", targets, views=views),), tuple(_named(things))

    def _scene_path(self, scene: str) -> str:
        """The scene's file in the folder of scenes, with or without the folders that habitat-lab puts before it."""
        if self._dataset is not None:
            return scene
        parts = Path(scene).parts
        tries = [Path(*parts[index:]) for index in range(len(parts))]
        for path in (self._scenes / tail for tail in tries):
            if path.is_file():
                return str(path)
        raise GameError(f"there is no scene {scene} in {self._scenes}; set scenes_dir")

    def _read(self, path: Path) -> list[Any]:
        try:
            raw = path.read_bytes()
            if path.suffix == ".gz":
                with gzip.open(path) as file:
                    raw = file.read(MOST_BYTES + 1)
            if len(raw) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES} bytes")
            plain = parse_json(raw)
            episodes = plain["episodes"]
            self._goals.update(plain.get("goals_by_category") or {})
            if not isinstance(episodes, list):
                raise ValueError("episodes is no list")
            return episodes
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"options.episodes_file: {path} is no episode file of habitat-lab: {error}") from error


def _thing(goal: Mapping[str, Any], category: str) -> Thing:
    number = goal["object_id"]
    if not str(number).isdecimal():  # an id of the scene's annotation, by which a renderer tells objects apart
        raise ValueError(f"object_id: got {number!r:.60}; allowed: a whole number")
    word = category.replace("_", " ")
    return Thing(
        id=str(goal.get("object_name") or f"{category}_{number}"),
        name=word,
        category=word,
        colour="",
        centre=_point(goal["position"]),
        size=SIZE,
        room="",
        receptacle=False,
        movable=False,
        semantic_id=int(number),
    )


def _named(things: list[Thing]) -> list[Thing]:
    """The things with a number in their name where several share a category."""
    counts = {thing.category: sum(other.category == thing.category for other in things) for thing in things}
    seen: dict[str, int] = {}
    named = []
    for thing in things:
        seen[thing.category] = seen.get(thing.category, 0) + 1
        several = counts[thing.category] > 1
        named.append(replace(thing, name=f"{thing.category} {seen[thing.category]}") if several else thing)
    return named


def _point(values: Any) -> Point:
    x, y, z = (float(value) for value in values)
    return (x, y, z)


def _rotation(values: Any) -> tuple[float, float, float, float]:
    x, y, z, w = (float(value) for value in values)
    return (x, y, z, w)
