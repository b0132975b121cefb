"""Long chats to measure on: what an agent sees that wanders through generated household games."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from erecap.context.prompt import record_text, system_text
from erecap.errors import ConfigError
from erecap.protocols import Message

Count = Callable[[Sequence[Message]], int]


def wander(tokens: int, count: Count, *, turn_tokens: int = 100, seed: int = 0) -> list[Message]:
    """A household chat of at least `tokens` tokens that ends with a plan, so that a turn can follow.

    The agent executes random admissible commands; every turn holds commands and observations of about `turn_tokens`
    tokens, and the plan before it names its commands. Several games follow one another.

    Args:
        count: tokens of a rendered chat.

    Raises:
        ConfigError: `tokens` or `turn_tokens` below 1.
        EnvironmentUnavailable: the household simulator is missing.
    """
    if min(tokens, turn_tokens) < 1:
        raise ConfigError(f"lengths must be 1 or more, got {tokens} and {turn_tokens}")
    from erecap.envs.household.env import HouseholdEnv
    from erecap.envs.household.options import HouseholdOptions

    choose = random.Random(seed)
    games = 8
    env = HouseholdEnv(HouseholdOptions(split="unseen"), seed=seed, episodes=games)
    commands: list[str] = []
    lines: list[str] = []
    length, game, ended = 0, 0, False
    try:
        text, info = env.reset(seed=seed, options={"episode": 0})
        goal = record_text("goal", info["goal"])
        messages: list[Message] = [
            {"role": "system", "content": system_text(info["templates"], 5)},
            {"role": "user", "content": f"{goal}\n{text}", "protect": [(0, len(goal))]},
        ]
        while length < tokens:
            if ended:
                game += 1
                text, info = env.reset(seed=seed, options={"episode": game % games})
                lines = [text]
            # Mostly walking: looking at what is carried tells little.
            walks = [skill for skill in info["skills"] if skill.startswith("go to")]
            command = choose.choice(walks if choose.random() < 0.6 else info["skills"])
            text, _, ended, _, info = env.step(command)
            commands.append(command)
            lines += [record_text("action", command), text]
            if count([{"role": "user", "content": "\n".join(lines)}]) >= turn_tokens or ended:
                messages += _turn(commands, lines)
                commands, lines = [], []
                length = count(messages)
    finally:
        env.close()
    # It ends with the plan that the next turn carries out.
    return [*messages, {"role": "assistant", "content": "go to countertop 1\ngo to fridge 1", "protect": []}]


def _turn(commands: Sequence[str], lines: Sequence[str]) -> list[Message]:
    return [
        {"role": "assistant", "content": "\n".join(commands), "protect": []},
        {"role": "user", "content": "\n".join(lines), "protect": []},
    ]


def next_turn(tokens: int, count: Count, *, seed: int = 0) -> Message:
    """What came of the last plan: a user message of about `tokens` tokens, protected as the newest observation."""
    choose = random.Random(seed + 1)
    things = ["apple", "bowl", "butterknife", "cup", "dishsponge", "egg", "fork", "ladle", "mug", "pan", "plate"]
    lines = ["> go to countertop 1"]

    def message() -> Message:
        content = "\n".join(lines)
        return {"role": "user", "content": content, "protect": [(0, len(content))]}

    while count([message()]) < tokens:
        lines.append(f"On the countertop {len(lines)}, you see a {choose.choice(things)} {choose.randint(1, 9)}.")
    return message()
