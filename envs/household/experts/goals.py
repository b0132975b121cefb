"""The goals of an episode, one after the other, and how many of them are fulfilled."""

from __future__ import annotations

from collections.abc import Sequence

from erecap.envs.household.data.gamefile import Goal, Task
from erecap.envs.household.engine.world import World
from erecap.envs.household.experts.progress import conditions, progress


class GoalList:
    """Goals that are announced one by one: the next when the one before is fulfilled.

    A goal counts as fulfilled once its conditions held while it was the current one. Whether they still hold later
    does not matter: the next goal may need the very same object.

    Args:
        goals: at least one.
    """

    def __init__(self, goals: Sequence[Goal]) -> None:
        if not goals:
            raise ValueError("an episode needs at least one goal")
        self.goals = tuple(goals)
        self.fulfilled = 0

    @property
    def done(self) -> bool:
        """True if all goals are fulfilled."""
        return self.fulfilled == len(self.goals)

    @property
    def current(self) -> Goal:
        """The goal that is to be achieved now; the last one when all are."""
        return self.goals[min(self.fulfilled, len(self.goals) - 1)]

    def check(self, world: World) -> str:
        """Count what the true state `world` fulfils now; the announcement of a new goal, "" if there is none."""
        before = self.fulfilled
        # What happens to be so already when its turn comes is passed over without a word.
        while not self.done and holds(world, self.current.task):
            self.fulfilled += 1
        if self.done or self.fulfilled == before:
            return ""
        return f"Done. Your next task is: {self.current.sentence}."

    def progress(self, world: World) -> float:
        """Share of the goals that are fulfilled, 0..1, counting the current one by its own conditions."""
        if self.done:
            return 1.0
        return (self.fulfilled + progress(world, self.current.task)) / len(self.goals)


def holds(world: World, task: Task) -> bool:
    """Return True if all conditions of `task` hold."""
    met, total = conditions(world, task)
    return met == total
