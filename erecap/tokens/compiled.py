"""Compiled models under hooks: code of torch.compile would be made anew for every length and layout of the cache."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from erecap.tokens.hooks import find_decoder


class _Eager:
    """Runs compiled modules by their own Python code while somebody asks for it; the setting is the process's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users, self._stack = 0, ExitStack()

    def acquire(self) -> None:
        with self._lock:
            if not self._users:
                self._stack.enter_context(torch.compiler.set_stance("force_eager"))
            self._users += 1

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._stack.close()


_eager = _Eager()


@contextmanager
def without_compiled_layers(model: nn.Module) -> Iterator[None]:
    """Within, a model that torch.compile has made code for runs its own modules; other models are not touched."""
    if not is_compiled(model):
        yield
        return
    _eager.acquire()
    try:
        yield
    finally:
        _eager.release()


def is_compiled(model: nn.Module) -> bool:
    """Return True if calls of the model, of its decoder or of a decoder layer run compiled code."""
    if hasattr(model, "_orig_mod"):  # what torch.compile(model) returns
        return True
    decoder = find_decoder(model)
    return any(vars(module).get("_compiled_call_impl") is not None for module in (model, decoder, *decoder.layers))
