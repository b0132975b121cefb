"""Agents files: who plans for which robot, what each may do, and how they share what they see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from erecap.config.run import COOPERATIVE, PlannerSettings
from erecap.config.source import read_named
from erecap.context import Situation
from erecap.errors import ConfigError
from erecap.planners.templates import bindings, template_parts
from erecap.validation import each_once, one_line

TEAMS = "erecap.configs.teams"
DEFAULT_TEAM = "team"
FEWEST, MOST = 2, 8  # agents
Label = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9 _-]*$", max_length=40)]


class AgentSettings(BaseModel):
    """One planner of a team."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Label = Field(description="What the others call it.")
    role: str = Field(default="", max_length=200, description="What it is there for, in words that it is told.")
    robot: str = Field(default="", description="The robot that it plans for; empty where there is only one.")
    may: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Shapes of the commands that it may plan, such as go to {place}; null: all.",
    )


class TeamSettings(BaseModel):
    """An agents file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    agents: list[AgentSettings] | None = Field(
        default=None,
        min_length=FEWEST,
        max_length=MOST,
        description="The planners; null: one for each robot of the episode, which is called like its robot.",
    )
    observations: Literal["told", "shared"] = Field(
        default="told", description="told: what a planner saw is its own until it tells; shared: all read it at once."
    )
    conflicts: Literal["resolve", "tell"] = Field(
        default="resolve",
        description="Of two plans for one thing, resolve: the older one keeps it; tell: its planner is asked first.",
    )
    exclusive: list[str] = Field(
        default=["item", "object"],
        description="Slots of command shapes whose names only one robot may plan for, unless the goal names them.",
    )
    wait: str = Field(default="wait", min_length=1, description="The command of a robot that has to wait for another.")
    buffer: int = Field(
        default=32, ge=4, le=1000, description="Most contributions of others that wait for a planner; the oldest go."
    )

    _each_once = field_validator("exclusive")(each_once)

    @field_validator("agents")
    @classmethod
    def _distinct_names(cls, agents: list[AgentSettings] | None) -> list[AgentSettings] | None:
        names = [agent.name for agent in agents or ()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two of them are called {twice!r}; allowed: one")
        return agents


@dataclass(frozen=True)
class Roster:
    """An agents file, read; its agents are known once an episode says which robots there are."""

    source: str  # for messages
    settings: TeamSettings

    def agents(self, situation: Situation) -> tuple[AgentSettings, ...]:
        """The planners of an episode.

        Raises:
            ConfigError: the file does not fit the episode's robots or commands.
        """
        robots = situation.robots or ("",)
        self._check_commands(situation.templates)
        listed = self.settings.agents
        if listed is None:
            if not FEWEST <= len(robots) <= MOST:
                number = f"{len(robots)} robots take" if situation.robots else "no robots take"
                raise ConfigError(
                    f"{self.source}: agents: missing, and {number} turns in the episode; allowed: a list of agents, "
                    f"or {FEWEST} to {MOST} robots that take turns (pyrobosim: turns: team)"
                )
            return tuple(AgentSettings(name=robot, robot=robot) for robot in robots)
        self._check_robots(listed, robots)
        for agent in listed:
            for shape in agent.may or ():
                if situation.templates and shape not in situation.templates:
                    allowed = ", ".join(situation.templates)
                    raise ConfigError(
                        f"{self.source}: agent {agent.name!r}: may: {shape!r} is no command here; allowed: {allowed}"
                    )
        return tuple(listed)

    def _check_commands(self, templates: Sequence[str]) -> None:
        """Refuse commands and slots that the file names and the episode lacks; the defaults are those of all tasks."""
        written = self.settings.model_fields_set if templates else set()
        if "wait" in written and all(bindings(self.settings.wait, shape) is None for shape in templates):
            allowed = ", ".join(templates)
            raise ConfigError(f"{self.source}: wait: {self.settings.wait!r} is no command here; allowed: {allowed}")
        slots = sorted({slot for shape in templates for _, slot in template_parts(shape) if slot})
        known = {*slots, *TeamSettings().exclusive}  # a file may add to the defaults
        unknown = [slot for slot in self.settings.exclusive if slot not in known]
        if "exclusive" in written and unknown:
            allowed = ", ".join(slots)
            raise ConfigError(f"{self.source}: exclusive: no command here has a {unknown[0]!r}; allowed: {allowed}")

    def _check_robots(self, agents: Sequence[AgentSettings], robots: Sequence[str]) -> None:
        shown = ", ".join(robots) if robots != ("",) else "'' (there is one robot)"
        for agent in agents:
            if agent.robot not in robots:
                where = f"{self.source}: agent {agent.name!r}"
                raise ConfigError(f"{where}: robot {agent.robot!r} is not in the episode; allowed: {shown}")
        idle = next((robot for robot in robots if all(agent.robot != robot for agent in agents)), None)
        if idle is not None:
            raise ConfigError(f"{self.source}: agents: none plans for {idle!r}; allowed: at least one for each robot")


def team_settings(planner: PlannerSettings) -> TeamSettings | None:
    """The agents file of a run's planner, read and checked; None where one plans alone.

    Raises:
        ConfigError: as `load_roster`.
    """
    return load_roster(planner.agents or DEFAULT_TEAM).settings if planner.name == COOPERATIVE else None


def load_roster(path_or_name: str) -> Roster:
    """Read an agents file: a packaged name such as `team`, or the path of a YAML file.

    Raises:
        ConfigError: one line that names file, key, what was got and what is allowed.
    """
    source, values = read_named("team", path_or_name, TEAMS)
    try:
        return Roster(source, TeamSettings.model_validate(values))
    except ValidationError as error:
        raise ConfigError(one_line(source, error, TeamSettings)) from error
