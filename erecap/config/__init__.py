"""Suites and runs as YAML: what they may say, and the errors that tell what is wrong in one line.

`load_run("demo", ["modes=full,prune[recency]", "prune.keep=0.5"])` gives a checked run, `load_suites(run)` its suites.
"""

from erecap.config.load import load_run, load_suite, load_suites
from erecap.config.modes import Decode, Evict, Mode, parse_mode
from erecap.config.run import PlannerSettings, PruneSettings, RunConfig
from erecap.config.suite import Disturbances, Suite

__all__ = [
    "Decode",
    "Disturbances",
    "Evict",
    "Mode",
    "PlannerSettings",
    "PruneSettings",
    "RunConfig",
    "Suite",
    "load_run",
    "load_suite",
    "load_suites",
    "parse_mode",
]
