"""torch.compile for a model's plain forward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from erecap.errors import ModelError

INDUCTOR = "inductor"  # the backend that makes code


def compile_problem(device: torch.device) -> str | None:
    """Reason why torch cannot compile for `device`; None: it can."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else "triton, which makes code for CUDA, is missing or does not know the device"
    if device.type != "cpu":
        return f"torch makes no code for {device.type}"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "there is no C++ compiler (g++ or clang++; the variable CXX names another)"
    return None


@contextmanager
def compiled(model: Any, backend: str = INDUCTOR) -> Iterator[Callable[[bool], AbstractContextManager[Any]]]:
    """Within, plain calls of `model` and its `generate` run compiled code, made at the first call of each length.

    Whatever puts hooks on the layers (sessions, pruning at prefill) runs the model's own modules instead: hooks and a
    cache that changes its layout would make the code anew for every call. So compiling makes sessions no faster, and
    their fused decoder steps aside.

    Args:
        backend: of torch.compile.

    Yields:
        A function whose context runs compiled code (True) or the modules (False): for comparisons in turn.

    Raises:
        ModelError: torch cannot compile here.
    """
    problem = compile_problem(model.device) if backend == INDUCTOR else None
    if problem is not None:
        raise ModelError(f"{type(model).__name__} cannot be compiled: {problem}")
    model.compile(backend=backend)
    try:
        yield lambda on: torch.compiler.set_stance("default" if on else "force_eager")
    finally:
        del model._compiled_call_impl
