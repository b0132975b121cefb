"""Checks generated games split by split: they load, differ, come out the same again, and the expert wins each.

    python -m erecap.envs.household.check_games --count 100 --out docs/results/household-games.json

Games are made twice, in two empty cache folders, and compared byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

from erecap.envs.household.data.gamefile import TASK_FILE, read_game
from erecap.envs.household.env import HouseholdEnv
from erecap.envs.household.games.generate import GenerationReport, generate
from erecap.envs.household.options import SPLITS, HouseholdOptions
from erecap.errors import ErecapError
from erecap.files import write_json


def check_split(split: str, *, seed: int, count: int, workers: int) -> dict[str, Any]:
    """Make `count` games of a split twice, compare them, and let the expert play each.

    Returns:
        `n`; `differ` (games whose goal and placement no other game has); `reproduced` (equal byte for byte when made
        again); `expert_wins`; `dropped` candidates; `mean_expert_steps`; `seconds_per_game` to make one.
    """
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        again = _generate_in(second, split, seed, count, workers)
        copies = [_game_bytes(path) for path in again.paths]
        before = time.process_time()
        made = _generate_in(first, split, seed, count, workers)
        busy = time.process_time() - before
        games = [_game_bytes(path) for path in made.paths]
        signatures = {signature(path) for path in made.paths}
        wins = _expert_wins(split, seed, count)
    return {
        "n": count,
        "differ": len(signatures),
        "reproduced": sum(one == two for one, two in zip(games, copies, strict=True)),
        "expert_wins": wins,
        "dropped": made.dropped,
        "mean_expert_steps": round(mean(made.expert_steps), 2),
        "seconds_per_game": round(made.seconds / count, 3),
        # What other programs leave of the machine does not count here. Other processes cannot be measured.
        "cpu_seconds_per_game": round(busy / count, 3) if workers == 1 else None,
    }


def signature(path: Path) -> tuple[str, ...]:
    """Room, goal, and the receptacle in which each kind of object starts: equal for games that play the same."""
    game = read_game(path)
    placed = re.findall(r"\(inReceptacle ([A-Za-z]+)_bar_\S+ (\S+)\)", game.logic["pddl_problem"])
    goal = (str(game.task.room), game.task.type, game.task.target, game.task.parent, game.task.toggle)
    return goal + tuple(sorted(" ".join(pair) for pair in placed))


def _generate_in(folder: str, split: str, seed: int, count: int, workers: int) -> GenerationReport:
    os.environ["ERECAP_CACHE"] = folder
    return generate(split, seed, count, workers=workers)


def _game_bytes(path: Path) -> tuple[bytes, bytes]:
    return path.read_bytes(), path.with_name(TASK_FILE).read_bytes()


def _expert_wins(split: str, seed: int, count: int) -> int:
    options = HouseholdOptions.model_validate({"split": split})
    env = HouseholdEnv(options, seed=seed, episodes=count, expert=True)
    wins = 0
    for episode in range(count):
        _, info = env.reset(options={"episode": episode})
        expected = info["expert_steps"], info["expert_path_length"]
        steps = 0
        while not info["success"] and steps < expected[0]:
            _, _, _, _, info = env.step(info["expert_actions"][0])
            steps += 1
        wins += info["success"] and info["progress"] == 1.0 and (steps, info["path_length"]) == expected
    env.close()
    return wins


def main() -> int:
    """Run the check; exit code 1 if a game fails it."""
    parser = argparse.ArgumentParser(description="Check generated household games.")
    parser.add_argument("--count", type=int, default=100, help="games per split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that generate")
    parser.add_argument("--out", type=Path, help="JSON file for the result; also printed")
    arguments = parser.parse_args()
    rows = {}
    for split in SPLITS:
        began = time.perf_counter()
        row = check_split(split, seed=arguments.seed, count=arguments.count, workers=arguments.workers)
        rows[split] = {**row, "seconds": round(time.perf_counter() - began, 1)}
        print(split, rows[split], file=sys.stderr, flush=True)
    result = {
        "what": "generated household games: each differs, comes out the same again, and is won by the expert",
        "command": f"python -m erecap.envs.household.check_games --count {arguments.count} --seed {arguments.seed} "
        f"--workers {arguments.workers}",
        "date": date.today().isoformat(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("alfworld", "textworld", "fast-downward-textworld")},
        },
        "splits": rows,
    }
    if arguments.out:
        write_json(arguments.out, result)
    print(json.dumps(result, indent=2))
    whole = all(row["n"] == row["differ"] == row["reproduced"] == row["expert_wins"] for row in rows.values())
    return 0 if whole else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ErecapError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
