"""The home that the examples plan for: a household suite, in the words that the shipped planner has learned."""

from __future__ import annotations

from erecap.config import load_suite
from erecap.context import Context, Situation
from erecap.context.prompt import record_text, system_text
from erecap.envs import make_env


class Home:
    """One episode. `instructions` and `first` begin a conversation, `follow` tells what came of a plan.

    The same is in `context`, for planners of this package.

    Args:
        suite: a suite's name, such as household-unseen.
        episode: its number there.
        most: commands that are taken from one plan.
    """

    def __init__(self, suite: str, episode: int, most: int = 5) -> None:
        self._env = make_env(load_suite(suite))
        seen, self._info = self._env.reset(seed=episode, options={"episode": episode})
        self.goal: str = self._info["goal"]
        self.instructions = system_text(self._info["templates"], most)
        self.first = f"{record_text('goal', self.goal)}\n{seen}"
        self.context = Context(self.goal, self._info["templates"], situation=Situation.from_info(self._info))
        self.context.add("observation", seen)
        self.steps = 0
        self.over = False
        self._most = most

    @property
    def solved(self) -> bool:
        """True if all goals are reached."""
        return bool(self._info["success"])

    def act(self, command: str) -> str:
        """Execute one command; what is seen then."""
        seen, _, terminated, truncated, self._info = self._env.step(command)
        self.steps += 1
        self.over = terminated or truncated
        return str(seen)

    def follow(self, plan: str) -> str:
        """Execute a plan up to its end, to a failure, to a command that is not possible, or to a new goal.

        Returns:
            The user message that tells of it.
        """
        told: list[str] = []

        def tell(kind: str, text: str) -> None:
            told.append(record_text(kind, text))
            self.context.add(kind, text)

        if plan.strip():
            self.context.add("plan", plan.strip())
        for command in map(str.strip, plan.strip().splitlines()[: self._most]):
            if command not in self._info["skills"]:
                if not told:
                    tell("failure", f"{command!r} is not possible now")
                break
            tell("action", command)
            seen = self.act(command)
            tell("failure" if self._info["failed"] else "observation", seen)
            self.context.situation = Situation.from_info(self._info)
            if self._info["goal"] != self.goal:
                self.goal = self._info["goal"]
                tell("goal", self.goal)
                break
            if self.over or self._info["failed"]:
                break
        if not told:
            tell("failure", "the plan was empty")
        return "\n".join(told)
