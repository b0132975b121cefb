"""`import erecap` asks OpenMP for short waiting, before torch is loaded, and never against the user."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from erecap import doctor
from erecap.threading_policy import SHORT_WAITING, VARIABLES, wait_briefly

TELL = """
import json, os
from erecap import threading_policy as policy
print(json.dumps([policy.decision, {name: os.environ[name] for name in policy.VARIABLES if name in os.environ}]))
"""


def started(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A process that knows nothing of what this one has set."""
    others = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**others, **variables})
    assert done.returncode == 0, done.stderr
    return done


def told(code: str, **variables: str) -> list[object]:
    return list(json.loads(started(code + TELL, **variables).stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", ["erecap", "erecap.models", "erecap.cli.main", "erecap.planners", "erecap.wrapping"])
def test_every_way_in_sets_it(module: str) -> None:
    assert told(f"import {module}\n") == ["ours", dict(SHORT_WAITING)]


@pytest.mark.integration  # for the seconds that a process takes to import torch
@pytest.mark.skipif(sys.platform != "linux", reason="torch brings libgomp on Linux only")
def test_the_library_has_read_it_when_torch_is_loaded() -> None:
    shown = started("import erecap, torch", OMP_DISPLAY_ENV="VERBOSE").stderr
    assert f"GOMP_SPINCOUNT = '{SHORT_WAITING['GOMP_SPINCOUNT']}'" in shown
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in shown


@pytest.mark.parametrize("name", VARIABLES)
def test_what_the_user_set_is_left_alone(name: str) -> None:
    assert told("", **{name: "active"}) == ["user", {name: "active"}]
    environment = {name: ""}
    assert wait_briefly(environment, loaded=()) == "user" and environment == {name: ""}


@pytest.mark.integration  # for the seconds that a process takes to import torch
def test_after_torch_it_is_too_late_and_the_doctor_says_so() -> None:
    assert told("import torch\n") == ["late", {}]
    code = "import torch; from erecap.doctor import check_waiting; print(*vars(check_waiting()).values(), sep='; ')"
    name, state, found, advice = started(code).stdout.split("; ")
    assert (name, state, found) == ("waiting", "warn", "as OpenMP does by default: torch was imported before erecap")
    settings = " ".join(f"{name}={value}" for name, value in SHORT_WAITING.items())
    assert advice.startswith(f"import erecap before torch, or set {settings}: ")
    told_by_user = started(code, OMP_WAIT_POLICY="passive").stdout
    assert told_by_user == "waiting; True; OMP_WAIT_POLICY=passive (as the user set it); \n"


def test_processes_that_it_starts_wait_alike() -> None:
    code = f"import erecap, subprocess, sys; subprocess.run([sys.executable, '-c', {TELL!r}], check=True)\n"
    assert json.loads(started(code).stdout) == ["ours", dict(SHORT_WAITING)]


def test_programs_that_are_not_ours_do_not() -> None:
    code = """
import json
from erecap import threading_policy as policy
print(json.dumps({name: value for name, value in policy.environment_of_others().items() if name in policy.VARIABLES}))
"""
    assert json.loads(started(code).stdout) == {}
    assert json.loads(started(code, OMP_WAIT_POLICY="passive").stdout) == {"OMP_WAIT_POLICY": "passive"}
    assert "PATH" in started("from erecap import threading_policy as p; print(*p.environment_of_others())").stdout


def test_the_doctor_shows_what_is_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "decision", wait_briefly(environment := {}, loaded=()))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    check = doctor.check_waiting()
    assert check.ok is True and check.found == "OMP_WAIT_POLICY=PASSIVE, GOMP_SPINCOUNT=10000 (set by erecap)"
