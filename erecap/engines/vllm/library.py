"""The package `vllm`: imported where it is asked for, after the settings that it reads when it is."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from pydantic import ValidationError

from erecap.engines.packages import package
from erecap.engines.vllm.limits import version_problem
from erecap.errors import ConfigError

# What vLLM is told where its user has not told it anything else: one process, quiet, no reports to its makers.
DEFAULTS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the other one tells no names of the requests in a pass
}


@cache
def library() -> Any:
    """The module `vllm`.

    Raises:
        ConfigError: the package is not installed, cannot be loaded here, or is of another version.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    vllm = package("vllm", "vllm", "pip install 'erecap[vllm]' in an environment of its own")
    problem = version_problem(vllm.__version__)
    if problem is not None:
        raise ConfigError(f"engine vllm: {problem}")
    return vllm


def reason_of(error: Exception) -> str:
    """Reason why vLLM has not loaded a model, in one line; of pydantic's findings the first, and what it is about."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return ": ".join([*map(str, first["loc"]), " ".join(first["msg"].split())])
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
