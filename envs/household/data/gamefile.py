"""Game files in the format of alfworld: write drawn games, and read generated or downloaded ones."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erecap.envs.household.data import alfworld_data
from erecap.envs.household.data.placement import LOOK, Placement, can_hold, kinds_of
from erecap.envs.household.options import TASK_TYPES
from erecap.errors import GameError
from erecap.untrusted import read_json

GAME_FILE = "game.tw-pddl"
TASK_FILE = "traj_data.json"
_MANGLED = {"|": "_bar_", "+": "_plus_", "-": "_minus_", ".": "_dot_", ",": "_comma_"}


@dataclass(frozen=True)
class Task:
    """A game's task, as its traj_data.json states it. Kinds are lower-case, as the engine has them."""

    type: str
    target: str  # kind of object
    parent: str  # kind of receptacle; "" for look_at_obj_in_light
    toggle: str  # kind of lamp; "" otherwise
    room: int  # number of the floor plan


@dataclass(frozen=True)
class GameData:
    """A game as read from its folder."""

    path: Path  # of game.tw-pddl
    logic: dict[str, Any]  # pddl_domain, grammar, pddl_problem, ...
    task: Task
    chain: tuple[Goal, ...] = ()  # the goals of a chain, `task` first; empty for a game of one goal


@dataclass(frozen=True)
class Goal:
    """One goal, with the facts that the oracle expert needs for it.

    Its steps and metres are counted from the state in which it has fulfilled the goals before.
    """

    task: Task
    sentence: str
    expert_steps: int
    expert_metres: float


def mangle(name: str) -> str:
    """A floor-plan name as a PDDL symbol: `Mug|+00.68` -> `Mug_bar__plus_00_dot_68`."""
    for character, word in _MANGLED.items():
        name = name.replace(character, word)
    return name


def game_json(placement: Placement, walkthrough: list[str]) -> str:
    """Text of `game.tw-pddl`; the walkthrough is a sequence of commands that wins."""
    game = {
        "pddl_domain": alfworld_data.domain_text(),
        "grammar": alfworld_data.grammar_text().replace("UNKNOWN GOAL", placement.sentence),
        "pddl_problem": problem_text(placement),
        "solvable": True,
        "walkthrough": walkthrough,
    }
    return json.dumps(game)


def task_json(placement: Placement, task_id: str) -> str:
    """Text of `traj_data.json`, with the keys that alfworld's own code reads."""
    room, start = placement.room, placement.start
    x, z = start.x * 0.25, start.z * 0.25
    task = {
        "task_id": task_id,
        "task_type": placement.task_type,
        "pddl_params": {
            "object_target": placement.target,
            "parent_target": placement.parent,
            "toggle_target": placement.toggle,
            "mrecep_target": "",
            "object_sliced": False,
        },
        "scene": {
            "floor_plan": room.name,
            "scene_num": room.number,
            "init_action": {
                "action": "TeleportFull",
                "x": x,
                "z": z,
                "rotation": start.turn * 90,
                "horizon": start.horizon,
            },
            "object_poses": [],
            "object_toggles": [],
            "dirty_and_empty": False,
        },
        "turk_annotations": {"anns": [{"task_desc": placement.sentence, "high_descs": []}]},
    }
    return json.dumps(task, indent=1) + "\n"


def problem_text(placement: Placement) -> str:
    """The PDDL problem: all that is true at the start, and the goal from alfworld's goal library."""
    constants = alfworld_data.constants()
    room, items = placement.room, placement.items
    spots = {receptacle.id: mangle(receptacle.spot.name()) for receptacle in room.receptacles}
    start = mangle(placement.start.name())
    kinds = kinds_of(items)
    # The domain names these three types in its actions, whether or not the room has such a receptacle, and the
    # knives in its slicing.
    receptacle_kinds = sorted({*room.receptacle_kinds, "SinkBasin", "Microwave", "Fridge"})
    object_kinds = sorted({*kinds, "Knife", "ButterKnife"})
    objects = [
        "agent1 - agent",
        *(f"{kind}Type - otype" for kind in object_kinds),
        *(f"{kind}Type - rtype" for kind in receptacle_kinds),
        *(f"{mangle(item.id)} - object" for item in items),
        *(f"{mangle(receptacle.id)} - receptacle" for receptacle in room.receptacles),
        *(f"{name} - location" for name in sorted({start, *spots.values()})),
    ]
    facts = ["(= (total-cost) 0)", f"(atLocation agent1 {start})"]
    for receptacle in room.receptacles:
        name = mangle(receptacle.id)
        facts.append(f"(receptacleType {name} {receptacle.kind}Type)")
        facts.append(f"(receptacleAtLocation {name} {spots[receptacle.id]})")
        if receptacle.kind in constants.OPENABLE_CLASS_SET:
            facts.append(f"(openable {name})")
    for home in room.receptacle_kinds:
        facts += [f"(canContain {home}Type {kind}Type)" for kind in kinds if can_hold(home, kind)]
    for item in items:
        name = mangle(item.id)
        facts += [f"({prefix} {name})" for prefix in _properties(item.kind)]
        facts.append(f"(objectType {name} {item.kind}Type)")
        facts.append(f"(inReceptacle {name} {mangle(item.receptacle)})")
        facts.append(f"(objectAtLocation {name} {spots[item.receptacle]})")
    goal = alfworld_data.goals()[placement.task_type]["pddl"].format(
        obj=placement.target, recep=placement.parent, toggle=placement.toggle
    )
    return "\n".join(
        [
            f"(define (problem erecap_{room.name})",
            "(:domain alfred)",
            _block("objects", objects),
            _block("init", facts),
            textwrap.dedent(goal).replace("#", "-").strip(),  # the library's goal closes the definition too
            "",
        ]
    )


def _properties(kind: str) -> Iterable[str]:
    constants = alfworld_data.constants()
    able = constants.VAL_ACTION_OBJECTS
    if kind in able["Toggleable"]:
        yield "toggleable"
        return
    yield "pickupable"
    if kind in constants.MOVABLE_RECEPTACLES_SET:
        yield "isReceptacleObject"
    # No task type here slices anything, so nothing is sliceable: a sliced object would only cost the agent time.
    for prefix, group in (("cleanable", "Cleanable"), ("heatable", "Heatable"), ("coolable", "Coolable")):
        if kind in able[group]:
            yield prefix


def _block(name: str, lines: list[str]) -> str:
    return "\n".join([f"(:{name}", *(f"  {line}" for line in lines), ")"])


def read_game(path: Path) -> GameData:
    """Read `game.tw-pddl` and the `traj_data.json` beside it.

    Raises:
        GameError: a file is missing, is no JSON, or lacks a key; the task is of a type that is not played here.
    """
    logic = _read_json(path)
    for key in ("pddl_domain", "grammar", "pddl_problem"):
        if not isinstance(logic.get(key), str):
            raise GameError(f"game file {path} has no text under {key!r}")
    beside = path.with_name(TASK_FILE)
    data = _read_json(beside)
    return GameData(path, logic, _read_task(beside, data), _read_chain(beside, data))


def _read_task(path: Path, data: dict[str, Any]) -> Task:
    try:
        params = data["pddl_params"]
        task_type, sliced = data["task_type"], params["object_sliced"]
        kinds = [params[key].lower() for key in ("object_target", "parent_target", "toggle_target")]
        room = int(data["scene"]["scene_num"])
    except KeyError as error:
        raise GameError(f"game file {path} has no key {error.args[0]!r}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise GameError(f"game file {path} has a value of the wrong type: {error}") from error
    if task_type not in TASK_TYPES or sliced:
        kind = f"{task_type} with slicing" if sliced else task_type
        raise GameError(f"game file {path} has the task type {kind}; played are {', '.join(TASK_TYPES)}")
    target, parent, toggle = kinds
    return Task(task_type, target, "" if task_type == LOOK else parent, toggle, room)


def _read_chain(path: Path, data: dict[str, Any]) -> tuple[Goal, ...]:
    """The goals that `Chain.notes` wrote; none in games of others."""
    try:
        rows = data.get("erecap", {}).get("goals", [])
        return tuple(
            Goal(Task(**row["task"]), row["sentence"], int(row["expert_steps"]), float(row["expert_metres"]))
            for row in rows
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise GameError(f"game file {path} has damaged goals ({type(error).__name__}: {error})") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path)
    except OSError as error:
        raise GameError(f"game file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise GameError(f"game file {path} is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise GameError(f"game file {path} is not valid JSON: {error.msg} at line {error.lineno}") from error
    except ValueError as error:
        raise GameError(f"game file {path} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise GameError(f"game file {path} holds no JSON object")
    return data
