"""Waiting policy of OpenMP threads, set before the library is loaded.

On a processor, torch computes with OpenMP threads, which wait for each other after every operation. By default they
wait actively: a core turns in a loop for milliseconds before its thread sleeps. With a second busy program on the same
cores, the loops take most of their time. So `import erecap` asks for short waiting. Where the user has set one of the
variables, nothing is touched: `OMP_WAIT_POLICY=ACTIVE` keeps active waiting.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Mapping, MutableMapping
from typing import Literal

# Each of these says how to wait; whoever has set one has decided. `OMP_` is the standard's, `GOMP_` is read by the
# library in torch's wheels for Linux, `KMP_` by those of Intel and LLVM.
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
# What `import erecap` sets. Fewer turns of the loop make a busy machine quicker and a quiet one slower; both were
# measured (docs/dev/log/speed.md).
SHORT_WAITING: Mapping[str, str] = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}
# What libgomp does if nothing is set, spelled out: the other side of measurements.
LIBRARY_DEFAULT: Mapping[str, str] = {"GOMP_SPINCOUNT": "300000"}

Decision = Literal["ours", "user", "late"]


def wait_briefly(environment: MutableMapping[str, str] = os.environ, loaded: Container[str] = sys.modules) -> Decision:
    """Set the variables, unless the user has set one or the library is loaded already.

    Args:
        loaded: names of imported modules.

    Returns:
        `ours`: they are set, by this call or by one in a parent process; `user`: the user had set one of them;
        `late`: torch was imported before, with its OpenMP library, which reads them only once.
    """
    given = {name: environment[name] for name in VARIABLES if name in environment}
    if given:
        return "ours" if given == SHORT_WAITING else "user"
    if "torch" in loaded:
        return "late"
    environment.update(SHORT_WAITING)
    return "ours"


def environment_of_others() -> dict[str, str]:
    """The environment for a foreign program, such as the other side of a comparison, without our variables."""
    given = dict(os.environ)
    return given if decision == "user" else {name: given[name] for name in given if name not in VARIABLES}


# Taken once, when this module is imported: what holds for this process from then on.
decision: Decision = wait_briefly()
