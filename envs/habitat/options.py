"""Options of the Habitat environment. Light: the simulator is not imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from erecap.validation import each_once

Split = Literal["train", "unseen"]
TaskKind = Literal["pointnav", "objectnav", "tour", "chain", "fetch"]
Expert = Literal["oracle", "search"]
Sight = Literal["rays", "semantic", "navmesh"]
Frames = Literal["camera", "none"]
TASK_KINDS: tuple[TaskKind, ...] = get_args(TaskKind)
MOST_GOALS = 8
# Metres within which a stop is right. The follower of `worker.py` stops 0.18 m from its end, so no less can be asked.
POINT_WITHIN, THING_WITHIN = 0.2, 0.5


class HabitatOptions(BaseModel):
    """Options that a suite may set under `options` when its `env` is habitat."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: tuple[TaskKind, ...] = Field(
        ("objectnav",),
        min_length=1,
        description="Kinds of task, taken in turn by episodes: `pointnav` a point, `objectnav` an object, `tour` "
        "several objects named at once, `chain` several named one after the other, `fetch` an object brought to a "
        "place.",
    )
    split: Split = Field(
        "unseen", description="Generated houses have floor plans of this split; no floor plan is in both."
    )
    rooms: tuple[int, int] = Field((3, 6), description="Fewest and most rooms of a generated house.")
    objects: int = Field(12, ge=1, le=40, description="Movable objects of a generated house.")
    goals: tuple[int, int] = Field((3, 5), description="Fewest and most goals of a tour or chain.")
    success_distance: float | None = Field(
        None,
        ge=POINT_WITHIN,
        le=5,
        description="Geodesic metres to the goal within which `stop` is right; unset: 0.2 for points, 0.5 for objects.",
    )
    sight: Sight = Field(
        "rays",
        description="How the robot sees: `rays` cast to the objects in its field of view (habitat-sim with Bullet), "
        "`semantic` by the semantic sensor (needs a renderer, and Bullet for the floor), `navmesh` along free floor.",
    )
    field_of_view: float = Field(90.0, ge=30, le=150, description="Degrees, horizontally.")
    view_range: float = Field(6.0, gt=0.5, le=20, description="Metres that the robot sees.")
    expert: Expert = Field(
        "oracle",
        description="Whose next commands are told: `oracle` knows where everything is; `search` acts on what the robot "
        "has seen. Path lengths for SPL are always those of `oracle`.",
    )
    scene: str | None = Field(
        None, description="A scene file, or a scene's name in `scene_dataset`, played instead of generated houses."
    )
    scene_dataset: Path | None = Field(
        None, description="A Habitat `*.scene_dataset_config.json`, or a folder with one."
    )
    episodes_file: Path | None = Field(
        None,
        description="PointNav or ObjectNav episodes of habitat-lab (json or json.gz), played instead of drawn ones.",
    )
    scenes_dir: Path | None = Field(
        None, description="Folder of the scenes that `episodes_file` names; unset: the folder of the file."
    )
    frames: Frames = Field(
        "camera",
        description="Frames of the report: `camera`, the robot's view, needs a renderer; `none`. The map needs none.",
    )
    gpu: int = Field(-1, ge=-1, description="GPU that draws; -1: the renderer's own choice, software included.")
    python: Path | None = Field(
        None,
        description="Interpreter that has habitat-sim; unset: `ERECAP_HABITAT_PYTHON`, else this interpreter.",
    )
    houses_dir: Path | None = Field(
        None, description="Folder for generated houses and navmeshes; unset: erecap's cache."
    )
    time_limit: float = Field(300.0, gt=0, description="Seconds that one request to the simulator may take.")

    _each_once = field_validator("tasks")(each_once)

    @field_validator("rooms")
    @classmethod
    def _few_rooms(cls, value: tuple[int, int]) -> tuple[int, int]:
        return _range(value, 2, 9)

    @field_validator("goals")
    @classmethod
    def _few_goals(cls, value: tuple[int, int]) -> tuple[int, int]:
        return _range(value, 2, MOST_GOALS)

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> HabitatOptions:
        given = self.model_fields_set
        if self.scene is not None and self.episodes_file is not None:
            raise ValueError("scene has no meaning together with episodes_file, which names its scenes; leave it out")
        if self.scene is None and self.episodes_file is None:
            unused = sorted({"scene_dataset", "scenes_dir"} & given)
            why = "without scene or episodes_file"
        elif self.episodes_file is not None:
            unused = sorted({"split", "rooms", "objects", "tasks", "goals"} & given)
            why = "together with episodes_file"
        else:
            unused = sorted({"split", "rooms", "objects", "scenes_dir"} & given)
            why = "together with scene"
        if not unused and self.episodes_file is not None and self.scene_dataset is not None:
            unused, why = sorted({"scenes_dir"} & given), "together with scene_dataset, which has the scenes"
        if not unused and not {"tour", "chain"} & set(self.tasks):
            unused, why = sorted({"goals"} & given), "without the task tour or chain"
        if unused:
            raise ValueError(f"{', '.join(unused)} has no meaning {why}; leave it out")
        return self


def _range(value: tuple[int, int], fewest: int, most: int) -> tuple[int, int]:
    if not fewest <= value[0] <= value[1] <= most:
        raise ValueError(f"allowed are two whole numbers from {fewest} to {most}, the smaller one first")
    return value
