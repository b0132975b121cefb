"""Makes household games, seeded and cached, and keeps only those that the expert has won on the engine.

Game `index` depends on the options, the seed and the index alone, so asking for more games never changes the first
ones. Task types take turns: game `index` is of type `task_types[index % len(task_types)]`. A candidate that the expert
does not win is dropped and drawn again; how many were is kept with the game and summed up in `manifest.json`.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erecap.envs.household.data.alfworld_data import need
from erecap.envs.household.data.gamefile import GAME_FILE, TASK_FILE, GameData, Task, game_json, task_json
from erecap.envs.household.data.placement import LOOK, Placement, draw
from erecap.envs.household.engine.opening import open_engine
from erecap.envs.household.options import SPLITS, TASK_TYPES
from erecap.errors import ConfigError, GameError
from erecap.files import cache_dir, write_json
from erecap.untrusted import read_json

if TYPE_CHECKING:
    from erecap.envs.household.engine.engine import Engine

GENERATOR = 1
"""Counts up when the same seed gives other games than before; part of the cache's key."""
CHAIN_GENERATOR = 2
"""The same for games with several goals."""
MAX_DRAWS = 60
MAX_EXPERT_STEPS = 60


@dataclass(frozen=True)
class Recipe:
    """Settings that all games of one folder have in common."""

    split: str
    seed: int
    task_types: tuple[str, ...] = TASK_TYPES
    max_objects: int = 30
    goals: tuple[int, int] = (1, 1)  # fewest and most goals of a game

    @property
    def chained(self) -> bool:
        """True if games have more than one goal."""
        return self.goals != (1, 1)

    def __post_init__(self) -> None:
        """Raises ConfigError for a split or a task type that does not exist."""
        if self.split not in SPLITS:
            raise ConfigError(f"split: got {self.split!r}, allowed are {', '.join(SPLITS)}")
        unknown = [name for name in self.task_types if name not in TASK_TYPES]
        if unknown or not self.task_types:
            raise ConfigError(f"task_types: got {unknown or 'none'}, allowed are {', '.join(TASK_TYPES)}")

    def folder(self) -> Path:
        """The folder of the games: `<cache>/household/<split>/<seed>/<task types key>`."""
        what = [self.task_types, self.max_objects, GENERATOR, _alfworld_version()]
        name = "all" if self.task_types == TASK_TYPES else f"{len(self.task_types)}-types"
        if self.chained:
            what += [self.goals, CHAIN_GENERATOR]
            name += f"-chains-{self.goals[0]}-{self.goals[1]}"
        key = f"{name}-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:10]}"
        return cache_dir() / "household" / self.split / str(self.seed) / key


@dataclass(frozen=True)
class GenerationReport:
    """The results of `generate`."""

    paths: tuple[Path, ...]  # game.tw-pddl of games 0..count-1
    made: int  # generated in this call; the others lay in the cache
    dropped: int  # candidates that the expert did not win, over all `count` games
    expert_steps: tuple[int, ...]  # commands that the expert needs, game by game
    seconds: float
    manifest: Path


def generate(
    split: str,
    seed: int,
    count: int,
    task_types: Sequence[str] = TASK_TYPES,
    *,
    max_objects: int = 30,
    goals: tuple[int, int] = (1, 1),
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> GenerationReport:
    """Make sure that games 0..count-1 exist.

    Args:
        split: `train`, `seen` or `unseen`.
        seed: any integer; other seeds give other games.
        count: how many games.
        task_types: task types that take turns.
        max_objects: most movable objects in a room.
        goals: fewest and most goals of a game; with more than one it is a chain.
        workers: processes that generate; 1 generates in this one.
        progress: called with (games ready, count) after each game.

    Raises:
        ConfigError: unknown split or task type, or a count or number of workers below 1.
        EnvironmentUnavailable: the simulator's packages are missing.
        GameError: no winnable game was found in MAX_DRAWS draws.
    """
    for name, value in (("count", count), ("workers", workers)):
        if value < 1:
            raise ConfigError(f"{name}: got {value}, allowed are whole numbers from 1 up")
    began = time.perf_counter()
    recipe = Recipe(split, seed, tuple(task_types), max_objects, goals)
    missing = [index for index in range(count) if not _game_file(recipe, index).is_file()]
    ready = count - len(missing)
    for _ in _make_all(recipe, missing, min(workers, len(missing))):
        ready += 1
        if progress is not None:
            progress(ready, count)
    paths = tuple(_game_file(recipe, index) for index in range(count))
    notes = [_notes(path) for path in paths]
    return GenerationReport(
        paths=paths,
        made=len(missing),
        dropped=sum(note["dropped"] for note in notes),
        expert_steps=tuple(note["expert_steps"] for note in notes),
        seconds=time.perf_counter() - began,
        manifest=_write_manifest(recipe),
    )


def ensure_game(recipe: Recipe, index: int, engine: Engine) -> Path:
    """Path of one game, which is made first if the cache does not have it. Raises as `generate` does."""
    final = _game_file(recipe, index)
    if final.is_file():
        return final
    task_type = recipe.task_types[index % len(recipe.task_types)]
    stream = f"household/{recipe.split}/{recipe.seed}/{index}/{task_type}/{recipe.max_objects}"
    if recipe.chained:
        return _ensure_chain(recipe, final, task_type, f"{stream}/{recipe.goals[0]}-{recipe.goals[1]}", engine)
    rng = random.Random(stream)
    for dropped in range(MAX_DRAWS):
        placement = draw(recipe.split, task_type, recipe.max_objects, rng)
        walkthrough = None if placement is None else play_expert(placement, engine)
        if placement is not None and walkthrough is not None:
            _write_game(final.parent, placement, walkthrough, task_id=stream, dropped=dropped)
            return final
    raise GameError(f"no winnable {task_type} game in {MAX_DRAWS} draws for split {recipe.split}, index {index}")


def _ensure_chain(recipe: Recipe, final: Path, first: str, stream: str, engine: Engine) -> Path:
    from erecap.envs.household.games.chains import draw_chain

    rng = random.Random(stream)
    for dropped in range(MAX_DRAWS):
        chain = draw_chain(recipe.split, recipe.task_types, first, recipe.goals, recipe.max_objects, rng, engine)
        if chain is not None:
            _write_game(
                final.parent, chain.placement, chain.walkthrough, task_id=stream, dropped=dropped, notes=chain.notes()
            )
            return final
    raise GameError(f"no chain from {first} in {MAX_DRAWS} draws for split {recipe.split}, game {final.parent.name}")


def play_expert(placement: Placement, engine: Engine) -> list[str] | None:
    """The commands with which the expert wins a drawn game on the engine; None if it does not win it."""
    from erecap.envs.household.experts.oracle import best_way
    from erecap.envs.household.experts.travel import floor_plan

    kinds = (placement.target.lower(), placement.parent.lower(), placement.toggle.lower())
    task = Task(placement.task_type, *kinds, placement.room.number)
    plan = floor_plan(placement.room.number)
    engine.load(GameData(Path("(generated)"), json.loads(game_json(placement, [])), task))
    turn = engine.reset()
    if turn.won:
        return None
    walkthrough: list[str] = []
    while not turn.won and len(walkthrough) < MAX_EXPERT_STEPS:
        # Planned anew from each state, as the environment does it, so that this too is known to work.
        way = best_way(turn.world, task, plan, engine.verbs)
        if way is None or not way.commands or way.commands[0] not in turn.commands:
            return None
        walkthrough.append(way.commands[0])
        turn = engine.step(way.commands[0])
    return walkthrough if turn.won else None


def _make_all(recipe: Recipe, indices: list[int], workers: int) -> Iterator[Path]:
    if workers <= 1:
        engine = open_engine() if indices else None
        try:
            for index in indices:
                assert engine is not None
                yield ensure_game(recipe, index, engine)
        finally:
            if engine is not None:
                engine.close()
        return
    # Spawned, not forked: the caller may have threads, and a fork would copy their locks.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        yield from pool.map(_make_in_worker, [recipe] * len(indices), indices)


_worker_engine: Engine | None = None


def _start_worker() -> None:
    global _worker_engine
    _worker_engine = open_engine()


def _make_in_worker(recipe: Recipe, index: int) -> Path:
    assert _worker_engine is not None
    return ensure_game(recipe, index, _worker_engine)


def _game_file(recipe: Recipe, index: int) -> Path:
    return recipe.folder() / str(index) / GAME_FILE


def _write_game(
    folder: Path,
    placement: Placement,
    walkthrough: list[str],
    *,
    task_id: str,
    dropped: int,
    notes: dict[str, Any] | None = None,
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Both files are written aside and appear together.
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        aside.chmod(0o755)
        task = json.loads(task_json(placement, task_id))
        task["erecap"] = {"dropped": dropped, "expert_steps": len(walkthrough), **(notes or {})}
        (aside / TASK_FILE).write_text(json.dumps(task, indent=1) + "\n", encoding="utf-8")
        (aside / GAME_FILE).write_text(game_json(placement, walkthrough), encoding="utf-8")
        os.rename(aside, folder)
    except OSError:
        # Another process was faster; it wrote the same bytes.
        if not (folder / GAME_FILE).is_file():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@cache
def _alfworld_version() -> str:
    need("alfworld")
    return version("alfworld")


def _notes(game_file: Path) -> dict[str, Any]:
    path = game_file.with_name(TASK_FILE)
    try:
        data = read_json(path)
        params = data["pddl_params"]
        place = params["toggle_target"] if data["task_type"] == LOOK else params["parent_target"]
        return {
            "index": int(game_file.parent.name),
            "task_type": data["task_type"],
            "room": data["scene"]["floor_plan"],
            "object": params["object_target"],
            "place": place,
            "dropped": int(data["erecap"]["dropped"]),
            "expert_steps": int(data["erecap"]["expert_steps"]),
        }
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise GameError(f"game file {path} is damaged ({reason}); delete its folder to make it anew") from error


def _write_manifest(recipe: Recipe) -> Path:
    folder = recipe.folder()
    indices = sorted(int(path.parent.name) for path in folder.glob(f"[0-9]*/{GAME_FILE}"))
    games = [_notes(_game_file(recipe, index)) for index in indices]
    path = folder / "manifest.json"
    manifest = {
        "split": recipe.split,
        "seed": recipe.seed,
        "task_types": list(recipe.task_types),
        "max_objects": recipe.max_objects,
        "goals": list(recipe.goals),
        "generator": GENERATOR,
        "alfworld": _alfworld_version(),
        "dropped": sum(game["dropped"] for game in games),
        "games": games,
    }
    write_json(path, manifest)
    return path
