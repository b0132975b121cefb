"""Sources of an environment's games: generated on demand, or found in a folder."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from erecap.envs.household.data.gamefile import GAME_FILE, GameData, read_game
from erecap.envs.household.games.generate import Recipe, ensure_game
from erecap.envs.household.options import HouseholdOptions
from erecap.errors import ConfigError, GameError

if TYPE_CHECKING:
    from erecap.envs.household.engine.engine import Engine


class Games:
    """The games of one suite: episode -> game."""

    def __init__(self, options: HouseholdOptions, *, seed: int, episodes: int) -> None:
        """Raises ConfigError if there are not enough games, GameError if there is none in `games_dir`."""
        if episodes < 1:
            raise ConfigError(f"episodes: got {episodes}, allowed are whole numbers from 1 up")
        self.episodes = episodes
        self._recipe: Recipe | None = None
        self._found: list[Path] = []
        if options.games_dir is None:
            self._recipe = Recipe(options.split, seed, options.task_types, options.max_objects, options.goals)
            return
        self._found = find_games(options.games_dir, options.task_types)
        if len(self._found) < episodes:
            raise ConfigError(
                f"games_dir: {options.games_dir} has {len(self._found)} playable games ({GAME_FILE}) of the wanted "
                f"task types, but {episodes} episodes are asked for"
            )
        # The folders are sorted by task; a seeded order makes the first few episodes a fair sample.
        random.Random(f"games_dir/{seed}").shuffle(self._found)

    def load(self, episode: int, engine: Engine) -> GameData:
        """The game of an episode, generated if need be.

        Raises:
            ConfigError: there is no such episode.
            GameError: the game file is damaged, or no winnable game could be generated.
        """
        if not 0 <= episode < self.episodes:
            raise ConfigError(f"episode: got {episode}, allowed are 0 to {self.episodes - 1}")
        path = self._found[episode] if self._recipe is None else ensure_game(self._recipe, episode, engine)
        return read_game(path)


def find_games(folder: Path, task_types: tuple[str, ...]) -> list[Path]:
    """Games below `folder` that can be played, sorted by path.

    As in alfworld, games with slicing or with movable receptacles and games marked as unsolvable are left out. A game
    that cannot be read is among them: nobody can tell which task it had.

    Raises:
        ConfigError: there is no such folder.
        GameError: there is no game at all.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise ConfigError(f"games_dir: {folder} is not a folder")
    found = []
    for path in sorted(folder.rglob(GAME_FILE)):
        inner = path.relative_to(folder).as_posix()
        if "movable" in inner or "Sliced" in inner:
            continue
        try:
            game = read_game(path)
        except GameError:  # told when its own episode is played, which is the only one that it costs
            found.append(path)
            continue
        if game.task.type in task_types and game.logic.get("solvable") is not False:
            found.append(path)
    if not found and not any(folder.rglob(GAME_FILE)):
        raise GameError(f"games_dir: there is no {GAME_FILE} below {folder}")
    return found
