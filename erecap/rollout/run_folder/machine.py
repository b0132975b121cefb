"""The machine and software of a run: processor, versions, revision. No names and no paths of the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import erecap

_SIMULATORS = ("minigrid", "alfworld", "textworld", "pyrobosim", "trimesh", "habitat_sim")
_PACKAGES = ("erecap", "torch", "transformers", "numpy", "gymnasium", *_SIMULATORS)


def versions() -> dict[str, str]:
    """Python and the installed packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine(threads: int | None) -> dict[str, Any]:
    """Processor, cores usable by this process, memory in GB (10^9 bytes), GPU.

    Args:
        threads: threads of the model's arithmetic; None if no model was loaded.
    """
    return {
        "cpu": _cpu_name(),
        "cores": cores(),
        "threads": threads,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": _gpu_name(),
    }


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def git_revision() -> str | None:
    """Revision of the checkout that this package is run from, with "+changes" if files differ; else None."""
    root = Path(erecap.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    revision = _git(root, "rev-parse", "HEAD")
    if revision is None:
        return None
    return revision + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None  # a checkout without git at hand is no reason not to play
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _gpu_name() -> str | None:
    # Only where torch is loaded already: a run without a model should not load it to look for a GPU.
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
