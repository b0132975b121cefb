"""The expert from odd states: after random commands, with the wrong things in hand, with parts of the task done."""

import random

import pytest

from erecap.envs.household.options import TASK_TYPES
from tests.envs.household.test_env import walk

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("made")]


@pytest.mark.parametrize("episode", range(6))
def test_the_expert_wins_after_random_commands(play, episode):
    assert len(TASK_TYPES) == 6  # episode i is of the i-th type
    env = play(episodes=6)
    for seed in range(3):
        turns = walk(env, episode, 40, seed=seed)
        info = turns[-1][-1]
        steps = 0
        while not info["success"]:
            promised = len(info["expert_actions"])
            *_, info = env.step(info["expert_actions"][0])
            assert not info["failed"] and len(info["expert_actions"]) == promised - 1
            steps += 1
        assert steps <= 20


@pytest.mark.parametrize("episode", range(6))
def test_the_expert_puts_down_what_it_does_not_need(play, episode):
    env = play(episodes=6)
    rng = random.Random(episode)
    _, info = env.reset(options={"episode": episode})
    target = info["goal"]
    while True:  # look around until something is in reach that the task is not about
        takes = [c for c in info["skills"] if c.startswith("take ") and c.split()[1] not in target]
        if takes:
            break
        near = [c for c in info["skills"] if c.startswith("open ")] or [
            c for c in info["skills"] if c.startswith("go to")
        ]
        *_, info = env.step(rng.choice(near))
    *_, info = env.step(takes[0])
    thing = takes[0].removeprefix("take ").split(" from ")[0]
    assert any(command.startswith(f"move {thing} to ") for command in info["expert_actions"])
    for command in info["expert_actions"]:
        *_, info = env.step(command)
    assert info["success"]


def test_progress_rises_to_one_on_the_expert_way(play):
    env = play(episodes=6)
    expected = {0: [1], 1: [0.5, 1], 2: [1 / 3, 1], 3: [1 / 3, 1], 4: [1 / 3, 1], 5: [0.5, 1]}
    for episode, shares in expected.items():
        _, info = env.reset(options={"episode": episode})
        seen = []
        for command in info["expert_actions"]:
            *_, info = env.step(command)
            seen.append(info["progress"])
        assert [share for share in dict.fromkeys(seen) if share > 0] == pytest.approx(shares)
