"""Opening of a model on vLLM from the settings of a run or a server."""

from __future__ import annotations

import os

from erecap.engines.vllm.library import library
from erecap.engines.vllm.model import DTYPES, VllmModel, VllmOptions
from erecap.errors import ConfigError


def open_model(
    name: str,
    *,
    adapter: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> VllmModel:
    """Open a model for the engine.

    Args:
        name: a folder of transformers, or a catalog or hub name.
        adapter: see `VllmModel.open`.
        dtype: precision of weights, keys and values; `auto` is the folder's.
        device: `auto`, or the one kind of device that vLLM is built for.
        threads: of a CPU; None: `OMP_NUM_THREADS`, else vLLM's choice.

    Raises:
        ConfigError, ModelError: as `VllmModel.open`, or another dtype or device.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype: got {dtype!r} with engine vllm; allowed: {', '.join(DTYPES)}")
    library()
    from vllm.platforms import current_platform

    if device not in ("auto", current_platform.device_type):
        raise ConfigError(
            f"device: got {device!r} with engine vllm, which is built for one kind; allowed: auto, "
            f"{current_platform.device_type}"
        )
    if threads is not None:
        set_threads(threads)
    return VllmModel.open(name, VllmOptions(dtype=dtype), adapter=adapter)


def set_threads(threads: int) -> None:
    """Set the threads of a CPU for this process, before vLLM has a model.

    Torch reads the variable when it is loaded, and vLLM when it begins: without it, it chooses for itself.
    """
    import torch

    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
