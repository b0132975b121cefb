"""Frozen reference values of the settings, from which the identity of committed rows is taken.

An identity hashes only what differs from these values, so neither a new setting nor a changed default makes rows
that were played before "another configuration". Three rules follow:

- A value here never changes, also where the default in a settings class does.
- Whoever adds a setting adds its entry here, with the value under which everything goes as before the setting existed.
- A setting that decides nothing about an episode is named in one of the `..._LEFT_OUT`, with the reason.

The values are JSON: lists instead of tuples, text instead of paths. A test names every setting that is missing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Any]

SUITE: Values = {"seed": 0}
SUITE_LEFT_OUT = (
    "episodes",  # how many are played changes none of them
    "first",  # nor does the first of them
    "options",  # OPTIONS
    "disturbances",  # DISTURBANCES
)
DISTURBANCES: Values = {"slip": 0.0, "move": 0.0, "moves_per_minute": 0.0, "closings_per_minute": 0.0}

# By environment. Environments that are missing here are somebody else's; their options count as the suite writes them.
OPTIONS: Mapping[str, Values] = {
    "babyai": {"level": "BabyAI-GoToLocal-v0", "skill_steps": 100},
    "habitat": {
        "tasks": ["objectnav"],
        "split": "unseen",
        "rooms": [3, 6],
        "objects": 12,
        "goals": [3, 5],
        "success_distance": None,
        "sight": "rays",
        "field_of_view": 90.0,
        "view_range": 6.0,
        "expert": "oracle",
        "scene": None,
        "scene_dataset": None,
        "episodes_file": None,
    },
    "household": {
        "split": "unseen",
        "task_types": [
            "pick_and_place_simple",
            "look_at_obj_in_light",
            "pick_clean_then_place_in_recep",
            "pick_heat_then_place_in_recep",
            "pick_cool_then_place_in_recep",
            "pick_two_obj_and_place",
        ],
        "max_objects": 30,
        "goals": [1, 1],
        "expert": "oracle",
        "games_dir": None,
    },
    "pyrobosim": {
        "split": "unseen",
        "tasks": ["fetch", "gather", "place"],
        "robots": None,
        "rooms": [4, 6],
        "objects": 12,
        "gather": 3,
        "closed_doors": 0.0,
        "failures": None,
        "battery_per_metre": None,
        "knowledge": "own",
        "turns": "addressed",
        "expert": "oracle",
        "world": None,
        "deadline_s": None,
        "battery_per_waiting_second": 0.0,
    },
}

# Where a simulator runs, how it draws and where its files lie: that changes no episode.
OPTIONS_LEFT_OUT: Mapping[str, tuple[str, ...]] = {
    "habitat": ("scenes_dir", "frames", "gpu", "python", "houses_dir", "time_limit"),
}

RUN: Values = {"dtype": "auto", "seed": 0, "decode_weights": "same"}
RUN_LEFT_OUT = (
    # Names, and numbers of episodes and processes: they change no episode.
    "name", "episodes", "executor", "workers", "batch", "samples", "threads", "device", "device_map",
    # Part of the suite or of the mode.
    "suites", "horizon", "modes", "compositions",
    # Hashed as weights.
    "model", "adapter", "pruner", "allow_untested_pruner", "layers",
    # PRUNE, BUDGET, SCHEDULE, PLANNER, CLOCK, CONTROLLER
    "prune", "budget", "schedule", "planner", "clock", "controller",
    # Measures beside the calls, and changes no answer.
    "reread",
)  # fmt: skip
RUN_OF_SESSIONS = ("decode_weights",)  # count in modes that keep a session; the others in every mode with a model

PLANNER: Values = {
    "name": "llm",
    "max_steps": 5,
    "max_new_tokens": 64,
    "constrained": True,
    "period": None,
    "max_invalid": 3,
    "plans": "model",
    "stuck_after": None,
}
PLANNER_LEFT_OUT = ("agents",)  # TEAM: what the agents file says counts, wherever it lies
TEAM: Values = {
    "agents": None,
    "observations": "told",
    "conflicts": "resolve",
    "exclusive": ["item", "object"],
    "wait": "wait",
    "buffer": 32,
}
AGENT: Values = {"role": "", "robot": "", "may": None}
PRUNE: Values = {"keep": 0.7, "preset": None, "stages": None, "sinks": 4, "local": 0.1}
BUDGET: Values = {"kv_tokens": 1024, "kv_ratio": None, "memory_gb": None, "pays": None}
SCHEDULE: Values = {
    "deadline_ms": None,
    "low_watermark": 0.8,
    "cooldown": 2,
    "horizon": 8,
    "may_defer": False,
    "reuse_plan": False,
}
CLOCK: Values = {
    "charge": "measured",
    "fixed_ms": None,
    "costs": None,
    "scale": 1.0,
    "read_ahead": True,
}
CLOCK_LEFT_OUT = ("slo_ms",)  # counts violations, and changes no episode
CONTROLLER: Values = {"fixed": None, "slo_ms": None}
CONTROLLER_LEFT_OUT = ("checkpoint", "actions")  # hashed by their content, wherever they lie
