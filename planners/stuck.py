"""A way out of loops: a planner that learns nothing new has to begin with the commands that it tried least.

Small models copy from their own history, and one wrong plan in it makes the next one like it. The rule looks at what
was executed and seen alone, so it holds in any environment, and whatever part of the history the model still reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from erecap.context import Record


def least_tried(records: Sequence[Record], skills: Sequence[str], stuck_after: int) -> tuple[str, ...]:
    """The commands that a plan may begin with.

    The agent is stuck if the last `stuck_after` commands that worked told, word by word, what had been told before
    under the current goal. Then only commands are left that were executed least often under this goal: those that were
    not, as long as there are any; after that the rarest, so that no two of them take turns to the horizon.

    Args:
        records: of the episode, in order.
        skills: commands that are admissible now.
        stuck_after: commands in a row without news; at least 1.

    Returns:
        All of `skills` where the agent is not stuck.
    """
    told: set[str] = set()
    done: Counter[str] = Counter()
    without_news, command = 0, None
    for record in records:
        if record.kind == "goal":
            told, done, without_news = set(), Counter(), 0
        elif record.kind == "action":
            command = record.text
        elif record.kind == "failure":
            command = None  # it had no effect, so it may be tried again, and says nothing about news
        elif record.kind == "observation":
            if command is not None:
                done[command] += 1
                without_news = without_news + 1 if record.text in told else 0
            told.add(record.text)
            command = None
    if without_news < stuck_after or not skills:
        return tuple(skills)
    least = min(done[skill] for skill in skills)
    return tuple(skill for skill in skills if done[skill] == least)
