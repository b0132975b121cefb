"""The package `llama_cpp`: imported where it is asked for, and its log."""

from __future__ import annotations

import ctypes
import logging
from collections import deque
from functools import cache
from typing import Any

from erecap.engines.packages import package

_log = logging.getLogger(__name__)
_LEVELS = {3: logging.INFO, 4: logging.INFO}  # what stops us is raised; the rest is for those who look for it
_said: deque[str] = deque(maxlen=16)
_keep: list[Any] = []  # callbacks that llama.cpp calls as long as the process lives


@cache
def library() -> Any:
    """The C functions of llama.cpp, with its log going to the logger of this module.

    Raises:
        ConfigError: the package is not installed, or cannot be loaded here.
    """
    api = package("llamacpp", "llama_cpp.llama_cpp", "pip install 'erecap[llamacpp]', which compiles it")

    @api.llama_log_callback
    def note(level: int, text: bytes, user_data: Any) -> None:
        line = text.decode("utf-8", "replace").strip()
        if line and level != 5:  # 5: the rest of a line
            if level == 4:
                _said.append(line)
            _log.log(_LEVELS.get(level, logging.DEBUG), "%s", line)

    _keep.append(note)
    api.llama_backend_init()
    api.llama_log_set(note, ctypes.c_void_p(0))
    return api


def last_words() -> str:
    """The last error that llama.cpp told, as the end of a sentence; empty where it said nothing."""
    words = f": {' '.join(_said[-1].split())}" if _said else ""
    _said.clear()
    return words
