"""The expert of a team: the environment's next commands, as the answer of a cooperating planner."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from erecap.planners.cooperative.answer import MOST_NAMES, Answer
from erecap.planners.cooperative.merge import Merger
from erecap.planners.cooperative.team import Turn

_NUMBER = re.compile(r"\s*\d+$")


def expert_answer(
    turn: Turn, merger: Merger, untold: Mapping[str, str], goal: str, max_steps: int, wait: str
) -> Answer | str:
    """The answer of a planner that follows the environment's expert; or why there is none.

    It tells what it saw of things of a kind that the goal names, and plans the expert's commands up to the first that
    is for a thing which another robot has planned for; that thing it names under `conflicts`.

    Args:
        turn: what it is asked; its situation has the expert's next commands.
        merger: says which commands are for which things.
        untold: what it saw and has not told, by subject.
        goal: of the episode.
        max_steps: most commands.
        wait: the command of a robot that can do nothing else.
    """
    commands = turn.situation.expert_actions[:max_steps]
    if not commands:
        return "the environment's expert gives no actions here"
    claims = merger.claims(commands)
    left = [thing for thing in claims if thing in turn.contested][:MOST_NAMES]
    steps = commands[: min((claims[thing] for thing in left), default=len(commands))]
    if not steps:
        steps = (wait,) if wait in turn.situation.skills else commands[:1]
    wanted = wanted_things(goal, [name for slot in merger.exclusive for name in turn.situation.entities.get(slot, ())])
    told = [subject for subject in turn.facts if _names_any(untold[subject], wanted)]
    return Answer(tuple(told[:MOST_NAMES]), tuple(left), steps)


def wanted_things(goal: str, names: Iterable[str]) -> list[str]:
    """Those of `names` whose kind the goal names: `cup 2` where it wants a cup."""
    kinds = {name: _NUMBER.sub("", name) for name in names}
    return sorted(name for name, kind in kinds.items() if re.search(rf"\b{re.escape(kind)}s?\b", goal))


def _names_any(text: str, names: Sequence[str]) -> bool:
    return any(re.search(rf"\b{re.escape(name)}\b", text) for name in names)
