"""Out of loops: a planner that learns nothing new has to begin with something that it has not tried.

Small models copy from their own history, and one wrong plan in it makes the next one like it. The rule looks at what
was executed and seen alone, so it holds in any environment, and whatever part of the history the model still reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from erecap.context import Record


def untried(records: Sequence[Record], skills: Sequence[str], stuck_after: int) -> tuple[str, ...]:
    """What a plan may begin with.

    The agent is stuck if the last `stuck_after` commands that worked told, word by word, what had been told before
    under the current goal. Then only commands are left that were not executed under this goal.

    Args:
        records: of the episode, in order.
        skills: commands that are admissible now.
        stuck_after: commands in a row without news; at least 1.

    Returns:
        All of `skills` where the agent is not stuck, or has tried every one of them.
    """
    told: set[str] = set()
    done: set[str] = set()
    without_news, command = 0, None
    for record in records:
        if record.kind == "goal":
            told, done, without_news = set(), set(), 0
        elif record.kind == "action":
            command = record.text
        elif record.kind == "failure":
            command = None  # it had no effect, so it may be tried again, and says nothing about news
        elif record.kind == "observation":
            if command is not None:
                done.add(command)
                without_news = without_news + 1 if record.text in told else 0
            told.add(record.text)
            command = None
    if without_news < stuck_after:
        return tuple(skills)
    return tuple(skill for skill in skills if skill not in done) or tuple(skills)
