"""World files in pyrobosim's own YAML schema."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from erecap.errors import ConfigError

# Numbers of a robot: the least and the greatest that is allowed. pyrobosim takes whatever is written.
_SMALLEST = math.ulp(0.0)  # more than 0
_ROBOT = {"radius": (_SMALLEST, math.inf), "initial_battery_level": (0.0, 100.0)}
_EXECUTOR = {"linear_velocity": (_SMALLEST, math.inf), "max_angular_velocity": (_SMALLEST, math.inf)}
_ACTION = {"delay": (0.0, math.inf), "success_probability": (0.0, 1.0), "battery_usage": (0.0, math.inf)}


def read_world(path: Path) -> dict[str, Any]:
    """Read a world file.

    Raises:
        ConfigError: there is no such file, it is no world, or a robot has a setting that cannot be.
    """
    path = path.expanduser()
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"world: {path} cannot be read: {reason}") from error
    except RecursionError as error:
        raise ConfigError(f"world: {path} cannot be read: it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ConfigError(f"world: {path} is no pyrobosim world: it holds {type(found).__name__}, not a mapping")
    for part in ("rooms", "locations", "objects", "robots"):
        if not isinstance(found.get(part), list) or not all(isinstance(entry, dict) for entry in found[part]):
            raise ConfigError(f"world: {path} is no world to play in: {part} must be a list of mappings")
        if not found[part]:
            raise ConfigError(f"world: {path} is no world to play in: it has no {part}")
    hallways = found.get("hallways", [])
    if not isinstance(hallways, list) or not all(isinstance(entry, dict) for entry in hallways):
        raise ConfigError(f"world: {path} is no world to play in: hallways must be a list of mappings")
    for part in ("rooms", "locations", "objects", "robots"):
        wrong = next((entry["name"] for entry in found[part] if not isinstance(entry.get("name") or "", str)), None)
        if wrong is not None:
            raise ConfigError(
                f"world: {path}: {part}: got the name {wrong!r:.60}; allowed: text, such as {str(wrong)!r:.60}"
            )
    for number, robot in enumerate(found["robots"]):
        _check_robot(f"world: {path}: robots.{number}", robot)
    return found


def _check_robot(where: str, robot: Mapping[str, Any]) -> None:
    _check_numbers(where, robot, _ROBOT)
    for part in ("path_planner", "path_executor", "action_execution_options"):
        if not isinstance(robot.get(part) or {}, dict):
            raise ConfigError(f"{where}.{part}: got {robot[part]!r:.60}; allowed: a mapping")
    _check_numbers(f"{where}.path_executor", robot.get("path_executor") or {}, _EXECUTOR)
    for action, options in (robot.get("action_execution_options") or {}).items():
        place = f"{where}.action_execution_options.{action}"
        if not isinstance(options, dict):
            raise ConfigError(f"{place}: got {options!r:.60}; allowed: a mapping")
        _check_numbers(place, options, _ACTION)


def _check_numbers(where: str, values: Mapping[str, Any], bounds: Mapping[str, tuple[float, float]]) -> None:
    for key, (least, most) in bounds.items():
        value = values.get(key)
        if value is None:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not (least <= value <= most and math.isfinite(value)):
            lower = "more than 0" if least == _SMALLEST else f"at least {least:g}"
            upper = "" if math.isinf(most) else f" and at most {most:g}"
            raise ConfigError(f"{where}.{key}: got {value!r:.60}; allowed: a number, {lower}{upper}")
