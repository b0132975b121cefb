"""Long chats to measure on, from an agent that wanders through generated household games."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from erecap.context.prompt import record_text, system_text
from erecap.errors import ConfigError
from erecap.generation import Message

if TYPE_CHECKING:
    from erecap.envs.household.options import Split

Count = Callable[[Sequence[Message]], int]
GAMES = 8  # one after the other, then again from the first
MAX_STEPS = 5  # commands of a plan


class Walk:
    """An agent in household games; use it in a `with` statement.

    Args:
        split: floor plans of the games; those that planners are tested on unless said otherwise.

    Raises:
        EnvironmentUnavailable: the household simulator is missing.
    """

    def __init__(self, seed: int = 0, split: Split = "unseen") -> None:
        from erecap.envs.household.env import HouseholdEnv
        from erecap.envs.household.options import HouseholdOptions

        self._choose = random.Random(seed)
        self._seed, self._game, self._ended = seed, 0, False
        self._env = HouseholdEnv(HouseholdOptions(split=split), seed=seed, episodes=GAMES)

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *error: object) -> None:
        self._env.close()

    def start(self) -> list[Message]:
        """System message, and the goal with the first observation."""
        text, self._info = self._env.reset(seed=self._seed, options={"episode": 0})
        goal = record_text("goal", self._info["goal"])
        return [
            {"role": "system", "content": system_text(self._info["templates"], MAX_STEPS)},
            {"role": "user", "content": f"{goal}\n{text}", "protect": [(0, len(goal))]},
        ]

    def turn(self, tokens: int, count: Count) -> list[Message]:
        """A plan of random commands, and a user message of at least `tokens` tokens with its outcome."""
        commands: list[str] = []
        lines = self._next_game() if self._ended else []
        while True:
            # Mostly walking: looking at what is carried tells little.
            walks = [skill for skill in self._info["skills"] if skill.startswith("go to")]
            command = self._choose.choice(walks if self._choose.random() < 0.6 else self._info["skills"])
            commands.append(command)
            lines += self._step(command)
            if count([_user(lines)]) >= tokens or self._ended:
                return [{"role": "assistant", "content": "\n".join(commands), "protect": []}, _user(lines)]

    def follow(self, plan: str) -> Message:
        """The outcome of the first commands of `plan`; nonsense gets the world's refusal."""
        lines = self._next_game() if self._ended else []
        for command in [line.strip() for line in plan.splitlines() if line.strip()][:MAX_STEPS]:
            lines += self._step(command)
            if self._ended:
                break
        return _user(lines or ["No step was taken."])

    def _step(self, command: str) -> list[str]:
        text, _, self._ended, _, self._info = self._env.step(command)
        return [record_text("action", command), text]

    def _next_game(self) -> list[str]:
        self._game, self._ended = self._game + 1, False
        text, self._info = self._env.reset(seed=self._seed, options={"episode": self._game % GAMES})
        return [text]


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
    with Walk(seed) as walk:
        messages = walk.start()
        length = 0
        while length < tokens:
            turn = walk.turn(turn_tokens, count)
            messages += turn
            # Counting the whole chat at every turn would take longer than the walk.
            length = count(messages) if not length or length + 2 * turn_tokens >= tokens else length + count(turn)
    # It ends with the plan that the next turn carries out.
    return [*messages, {"role": "assistant", "content": "go to countertop 1\ngo to fridge 1", "protect": []}]


def cut(messages: Sequence[Message], tokens: int, count: Count) -> list[Message]:
    """The shortest beginning of at least `tokens` tokens that ends with a plan; all of it where there is none."""
    ends = range(3, len(messages) + 1, 2)
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if count(messages[: ends[middle]]) >= tokens else (middle + 1, high)
    return list(messages[: ends[low]])


def next_turn(tokens: int, count: Count, *, seed: int = 0) -> Message:
    """The outcome of the last plan: a user message of about `tokens` tokens, protected as the newest observation."""
    choose = random.Random(seed + 1)
    things = ["apple", "bowl", "butterknife", "cup", "dishsponge", "egg", "fork", "ladle", "mug", "pan", "plate"]
    lines = ["> go to countertop 1"]
    while count([_observation(lines)]) < tokens:
        lines.append(f"On the countertop {len(lines)}, you see a {choose.choice(things)} {choose.randint(1, 9)}.")
    return _observation(lines)


def shortened(message: Message, tokens: int, count: Count) -> Message:
    """`message` without its last words, so that it makes a chat of at most `tokens` tokens.

    Raises:
        ConfigError: the template alone has more tokens.
    """
    words = message["content"].split(" ")
    while words and count([_observation([" ".join(words)])]) > tokens:
        words.pop()
    if not words:
        raise ConfigError(f"a turn of {tokens} tokens is shorter than the chat template around it")
    return _observation([" ".join(words)])


def _user(lines: Sequence[str]) -> Message:
    return {"role": "user", "content": "\n".join(lines), "protect": []}


def _observation(lines: Sequence[str]) -> Message:
    content = "\n".join(lines)
    return {"role": "user", "content": content, "protect": [(0, len(content))]}


def check_lengths(lengths: Sequence[int], new_tokens: int, plan_tokens: int, model: Any) -> None:
    """Raise ConfigError unless the longest history fits the model's window, with its new turn and its plan."""
    window = model.config.get_text_config(decoder=True).max_position_embeddings
    # A history ends with a whole turn, and so may be longer than asked for by almost one.
    if max(lengths) + 3 * new_tokens + plan_tokens > window:
        raise ConfigError(f"a history of {max(lengths)} tokens does not fit the window of {window} with its turn")
