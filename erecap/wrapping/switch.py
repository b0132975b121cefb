"""The environment variable that turns the middleware off under planners that are wrapped."""

from __future__ import annotations

import os

from erecap.errors import ConfigError

SWITCH = "ERECAP_MODE"


def switched_off() -> bool:
    """Return True if calls are to pass unchanged.

    Raises:
        ConfigError: the variable says something else than `full`.
    """
    mode = os.environ.get(SWITCH, "")
    if mode not in ("", "full"):
        raise ConfigError(f"{SWITCH}: got {mode!r}; allowed: full, which turns the middleware off, or nothing")
    return mode == "full"
