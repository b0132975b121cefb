"""Games that several tests share: five a split, made once per test session in a cache of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from erecap.envs.household.env import HouseholdEnv
from erecap.envs.household.games.generate import GenerationReport, generate
from erecap.envs.household.options import SPLITS, HouseholdOptions

SEED, COUNT = 11, 5


@pytest.fixture(scope="session")
def game_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that stays for the session."""
    return tmp_path_factory.mktemp("games")


@pytest.fixture(autouse=True)
def use_game_cache(game_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test of this room makes and finds its games there."""
    monkeypatch.setenv("ERECAP_CACHE", str(game_cache))


@pytest.fixture(scope="session")
def made(game_cache: Path) -> dict[str, GenerationReport]:
    """Games 0..4 of each split."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERECAP_CACHE", str(game_cache))
        return {split: generate(split, SEED, COUNT) for split in SPLITS}


@pytest.fixture
def play() -> Iterator[Callable[..., HouseholdEnv]]:
    """Makes environments on the session's games, and closes them."""
    opened = []

    def make(*, expert: bool = True, episodes: int = COUNT, **options: object) -> HouseholdEnv:
        env = HouseholdEnv(HouseholdOptions(**options), seed=SEED, episodes=episodes, expert=expert)  # type: ignore[arg-type]
        opened.append(env)
        return env

    yield make
    for env in opened:
        env.close()


@pytest.fixture
def one_game(made: dict[str, GenerationReport], tmp_path: Path) -> Path:
    """A folder with a copy of one game that a test may damage."""
    folder = tmp_path / "json_2.1.1" / "trial"
    shutil.copytree(made["unseen"].paths[0].parent, folder)
    return folder


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    """Change a JSON file in place."""
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")
