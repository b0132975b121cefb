"""Contributions of others that wait until a planner has its turn: bounded, oldest first."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contribution:
    """Something that one planner tells another."""

    subject: str  # what it is about; a newer one about the same takes its place
    text: str
    step: int = 0  # environment steps taken when it was seen


class Inbox:
    """Contributions of others since the planner spoke last.

    Args:
        limit: most contributions that wait; where more come, the oldest are dropped.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[str, Contribution] = {}  # by subject, oldest first
        self.missed = 0  # dropped since the last `take`

    def __len__(self) -> int:
        return len(self._waiting)

    def news(self, but: str) -> bool:
        """Return True if something waits whose subject does not begin with `but`."""
        return self.missed > 0 or any(not subject.startswith(but) for subject in self._waiting)

    def put(self, told: Contribution) -> None:
        """Add a contribution. What was told of the same before and is still unread is outdated, and goes."""
        self._waiting.pop(told.subject, None)
        self._waiting[told.subject] = told
        while len(self._waiting) > self._limit:
            del self._waiting[next(iter(self._waiting))]
            self.missed += 1

    def take(self) -> list[Contribution]:
        """All that waits, oldest first; nothing waits afterwards."""
        taken = list(self._waiting.values())
        if self.missed:
            number = "1 older contribution was" if self.missed == 1 else f"{self.missed} older contributions were"
            taken.insert(0, Contribution("", f"{number} left out."))
        self._waiting, self.missed = {}, 0
        return taken
