"""Records of an episode: typed, appended in order and never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from erecap.errors import ConfigError

if TYPE_CHECKING:
    from erecap.context.graph import ContextGraph

Kind = Literal["goal", "observation", "action", "failure", "plan", "constraint"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Record:
    """One event or fact of an episode."""

    index: int  # place in the context, from 0
    step: int  # environment steps taken when it was recorded
    kind: Kind
    subject: str  # subject of the record, such as "cabinet 3"; "" if it has none
    text: str
    agent: str = ""  # the planner whose plan it belongs to, where several cooperate


@dataclass(frozen=True)
class Situation:
    """The commands that are possible now. Replaced at each observation; planners read it for constraints."""

    skills: tuple[str, ...] = ()  # commands that are admissible now
    entities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # slot name -> names seen so far
    templates: tuple[str, ...] = ()  # shapes of all skills, such as "take {object} from {receptacle}"
    expert_actions: tuple[str, ...] = ()  # the expert's next commands, where they were asked for
    robot: str = ""  # the robot that acts next, which all of these are about; "" where there is only one
    robots: tuple[str, ...] = ()  # all robots, where there are several

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> Situation:
        """The situation that an environment reports in the `info` of `reset` or `step` (`StepInfo`)."""
        return cls(
            skills=tuple(info.get("skills", ())),
            entities={slot: tuple(names) for slot, names in info.get("entities", {}).items()},
            templates=tuple(info.get("templates", ())),
            expert_actions=tuple(info.get("expert_actions", ())),
            robot=str(info.get("robot", "")),
            robots=tuple(info.get("robots", ())),
        )


class Context:
    """The append-only record of one episode. The first goal is record 0; a later one takes its place.

    Args:
        goal: the mission in words.
        templates: shapes of all skills; they are stated once, in the system message.
        situation: what can be done at the start.

    Raises:
        ConfigError: the goal is empty.
    """

    def __init__(self, goal: str, templates: Sequence[str] = (), *, situation: Situation | None = None) -> None:
        self.templates = tuple(templates)
        self.situation = situation or Situation(templates=self.templates)
        self.trigger: str | None = None  # why a plan is asked for now
        self.remaining: tuple[str, ...] = ()  # commands of the last plan that are not executed yet
        self.plans: Mapping[str, tuple[str, ...]] = {}  # the same by robot, whatever the trigger
        self._records: list[Record] = []
        self.add("goal", goal, step=0)

    @property
    def goal(self) -> str:
        """The goal that holds now: the newest one."""
        return self._goal

    @property
    def records(self) -> Sequence[Record]:
        """All records, oldest first. Do not change the sequence; use `add`."""
        return self._records

    def add(self, kind: Kind, text: str, subject: str = "", step: int | None = None, agent: str = "") -> Record:
        """Append a record. Without `step` it belongs to the step of the record before it.

        Surrounding white space is dropped, and half a surrogate pair, which no tokenizer can read, becomes
        "?".

        Raises:
            ConfigError: an unknown kind, an empty goal, or a step that lies before the newest record's.
        """
        if kind not in KINDS:
            raise ConfigError(f"record kind {kind!r} is unknown; allowed: {', '.join(KINDS)}")
        text = _readable(text)
        if kind == "goal" and not text:
            raise ConfigError("the goal is empty; a context needs a goal in words")
        newest = self._records[-1].step if self._records else 0
        if step is None:
            step = newest
        elif step < newest:
            raise ConfigError(f"a record of step {step} cannot follow one of step {newest}")
        record = Record(len(self._records), step, kind, _readable(subject), text, agent)
        self._records.append(record)
        if kind == "goal":
            self._goal = text
        return record

    @cached_property
    def graph(self) -> ContextGraph:
        """The relations among the records; reads new records when it is asked."""
        from erecap.context.graph import ContextGraph

        return ContextGraph(self)


def _readable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8").strip() if not text.isascii() else text.strip()
