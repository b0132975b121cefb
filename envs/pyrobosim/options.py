"""Options of the pyrobosim environment. Light: the simulator is not imported here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from erecap.validation import each_once

Split = Literal["train", "unseen"]
TaskKind = Literal["fetch", "gather", "place", "search", "order"]
Expert = Literal["oracle", "search"]
Knowledge = Literal["own", "shared"]
Turns = Literal["addressed", "earliest", "team"]
TASK_KINDS: tuple[TaskKind, ...] = ("fetch", "gather", "place")  # those of one robot, unless a suite names others
GATHERING = {"gather", "search", "order"}  # kinds of task that want several objects
MOST_ROBOTS = 8
FEWEST_ROOMS, MOST_ROOMS = 2, 9
WAY_PER_ROOM = 12.5  # metres: there and back, with a reserve, in a house whose rooms stand in one row


class PyRoboSimOptions(BaseModel):
    """Options that a suite may set under `options` when its `env` is pyrobosim."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Split = Field(
        "unseen", description="Generated worlds have floor plans of this split; no floor plan is in both."
    )
    tasks: tuple[TaskKind, ...] = Field(
        TASK_KINDS,
        min_length=1,
        description="Kinds of task, taken in turn episode by episode: `fetch` one object, `gather` several at one "
        "place, `place` one into something that is closed, `search` for objects in closed furniture, put several in a "
        "given `order`.",
    )
    robots: int | None = Field(
        None, ge=1, le=MOST_ROBOTS, description="How many robots; unset: one, or all that the world file has."
    )
    rooms: tuple[int, int] = Field((4, 6), description="Fewest and most rooms of a generated world.")
    objects: int = Field(12, ge=1, le=40, description="Movable objects of a generated world.")
    gather: int = Field(
        3, ge=2, le=8, description="Objects that `gather`, `search` and `order` want; a world file may have fewer."
    )
    closed_doors: float = Field(0.0, ge=0, le=1, description="Share of a generated world's hallways that are closed.")
    failures: float | None = Field(
        None, ge=0, lt=1, description="Probability that an action fails; unset: 0, or what the world file says."
    )
    battery_per_metre: float | None = Field(
        None, ge=0, le=20, description="Per cent of battery that a metre costs; unset: 0, or what the world file says."
    )
    knowledge: Knowledge = Field(
        "own", description="`own`: a robot knows only what it has seen itself; `shared`: what any robot has seen."
    )
    turns: Turns = Field(
        "addressed",
        description="With several robots: `addressed`, a command names its robot (`robot 2: look`); `earliest`, the "
        "robot that is free first has its turn; `team`, the same for cooperating planners, each of which knows its "
        "robot: observations do not name it.",
    )
    expert: Expert = Field(
        "oracle",
        description="Whose next commands are told: `oracle` knows where everything is; `search` acts on what the "
        "robots have seen. Path lengths for SPL are always those of `oracle`.",
    )
    deadline_s: float | None = Field(
        None, gt=0, description="Simulated seconds after which an episode is lost; unset: it may take any time."
    )
    battery_per_waiting_second: float = Field(
        0.0, ge=0, le=20, description="Per cent of battery that a second costs in which a robot waits for its planner."
    )
    world: Path | None = Field(
        None, description="A world in pyrobosim's own YAML, played instead of generated ones; tasks are drawn in it."
    )

    _each_once = field_validator("tasks")(each_once)

    @field_validator("rooms")
    @classmethod
    def _few_rooms(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not FEWEST_ROOMS <= value[0] <= value[1] <= MOST_ROOMS:
            numbers = f"two whole numbers from {FEWEST_ROOMS} to {MOST_ROOMS}"
            raise ValueError(f"allowed are {numbers}, the smaller one first")
        return value

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> PyRoboSimOptions:
        if "gather" in self.model_fields_set and not GATHERING & set(self.tasks):
            raise ValueError("gather has no meaning without the task gather, search or order; leave it out")
        if self.robots == 1 or (self.robots is None and self.world is None):
            refusal = self.refusal_for_one_robot()
            if refusal:
                raise ValueError(refusal)
        return self

    def refusal_for_one_robot(self) -> str:
        """The reason why these options cannot hold where one robot takes part; "" if they can."""
        unused = sorted({"turns", "knowledge"} & self.model_fields_set)
        return f"{', '.join(unused)} has no meaning with one robot; leave it out" if unused else ""

    @model_validator(mode="after")
    def _one_source_of_worlds(self) -> PyRoboSimOptions:
        if self.world is not None:
            unused = sorted({"split", "rooms", "objects", "closed_doors"} & self.model_fields_set)
            if unused:
                raise ValueError(f"{', '.join(unused)} has no meaning together with world; leave it out")
            return self
        if self.objects < self.gather and GATHERING & set(self.tasks):
            raise ValueError(f"gather: {self.gather} of {self.objects} objects; allowed: at most objects")
        most = math.floor(100 / (WAY_PER_ROOM * self.rooms[1]) * 10) / 10
        if (self.battery_per_metre or 0) > most:
            raise ValueError(
                f"battery_per_metre: got {self.battery_per_metre}; allowed: at most {most} in up to "
                f"{self.rooms[1]} rooms, so that a robot can come back to its charger"
            )
        return self
