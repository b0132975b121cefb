"""Packaged configurations load, and are named as their files."""

import pytest

from erecap.config import load_run, load_suite, load_suites
from erecap.config.load import RUNS, SUITES
from erecap.config.source import packaged_names


@pytest.mark.parametrize("name", packaged_names(RUNS))
def test_runs(name):
    run = load_run(name)
    assert run.name == name
    assert load_suites(run)


@pytest.mark.parametrize("name", packaged_names(SUITES))
def test_suites(name):
    assert load_suite(name).name == name


def test_the_demo_is_there():
    assert {"demo", "demo-full", "smoke"} <= set(packaged_names(RUNS))
