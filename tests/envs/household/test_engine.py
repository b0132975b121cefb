"""Our engine against textworld's own environment with alfworld's wrappers: the same words, command by command."""

import random

import pytest

from erecap.envs.household.data.gamefile import read_game
from erecap.envs.household.engine.opening import open_engine

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("index", [2, 1])
def test_the_engine_speaks_as_textworld_and_alfworld_do(made, index):
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler, AlfredInfos
    from textworld.envs import PddlEnv

    path = made["unseen"].paths[index]
    stock = AlfredInfos(AlfredDemangler(PddlEnv(textworld.EnvInfos(admissible_commands=True)), shuffle=False))
    stock.load(str(path))
    theirs = stock.reset()
    engine = open_engine()
    goal = engine.load(read_game(path))
    ours = engine.reset()
    assert ours.feedback in theirs.feedback and f"Your task is to: {goal}." in theirs.feedback
    rng = random.Random(0)
    for step in range(25):
        assert list(ours.commands) == theirs["admissible_commands"]
        busy = [command for command in ours.commands if not command.startswith("go to")]
        command = rng.choice(busy if step % 2 else ours.commands) if step != 7 else "go to nowhere 1"
        ours, (theirs, _, done) = engine.step(command), stock.step(command)
        assert (ours.feedback, ours.won) == (theirs.feedback, done)
    engine.close()


def test_alfworld_collects_the_games(made, capsys):
    from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv

    folder = made["seen"].manifest.parent
    config = {
        "env": {"goal_desc_human_anns_prob": 0, "task_types": [1, 2, 3, 4, 5, 6]},
        "dataset": {"data_path": str(folder), "num_train_games": -1},
    }
    collected = AlfredTWEnv(config, train_eval="train").game_files
    assert sorted(collected) == sorted(map(str, made["seen"].paths))
