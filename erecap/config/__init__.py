"""Suites and runs as YAML: their schemas, and errors of one line.

`load_run("demo-full", ["modes=full,prune[recency]", "prune.keep=0.5"])` gives a checked run, `load_suites(run)` its
suites.
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
