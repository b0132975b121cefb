"""Draws of an episode: the first one that its expert wins is played."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from erecap.errors import GameError

MOST_DRAWS = 20  # for one episode before giving up


class UselessDraw(GameError):
    """A drawn world without a goal, or with one that the expert does not reach; another draw may do."""


@dataclass(frozen=True)
class Won:
    """The first draw of an episode that the expert wins, and how."""

    draw: int
    steps: int
    metres: float


class Draws:
    """The draws that are played, found once for each seed and episode.

    Args:
        most: draws of one episode before giving up.
        play: `(seed, episode, draw) -> (steps, metres)` of the expert.

    >>> def play(seed, episode, draw):
    ...     if draw < 2:
    ...         raise UselessDraw("the expert is lost")
    ...     return 7, 1.5
    >>> draws = Draws(play)
    >>> draws.find(0, 3), draws.rejected
    (Won(draw=2, steps=7, metres=1.5), 2)
    """

    def __init__(self, play: Callable[[int, int, int], tuple[int, float]], most: int = MOST_DRAWS) -> None:
        self._play, self._most = play, most
        self._found: dict[tuple[int, int], Won] = {}
        self.rejected = 0  # draws dropped so far

    def find(self, seed: int, episode: int) -> Won:
        """The draw of an episode that is played.

        Raises:
            GameError: all draws were useless; says why the last one was.
        """
        key = (seed, episode)
        if key not in self._found:
            self._found[key] = self._first(seed, episode)
        return self._found[key]

    def _first(self, seed: int, episode: int) -> Won:
        why = ""
        for draw in range(self._most):
            try:
                return Won(draw, *self._play(seed, episode, draw))
            except UselessDraw as error:
                why = str(error)
                self.rejected += 1
        raise GameError(why if self._most == 1 else f"{why}; so ended the last of {self._most} draws")
