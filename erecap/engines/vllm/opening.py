"""Opening of a model on vLLM from the settings of a run or a server."""

from __future__ import annotations

import os

from erecap.engines.vllm.model import VllmModel, VllmOptions
from erecap.errors import ConfigError

DTYPES = ("auto", "float32", "bfloat16", "float16")


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
        device: `auto`; vLLM is built for one kind of device.
        threads: of a CPU; None: `OMP_NUM_THREADS`, else vLLM's choice.

    Raises:
        ConfigError, ModelError: as `VllmModel.open`, or another dtype or device.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype: got {dtype!r} with engine vllm; allowed: {', '.join(DTYPES)}")
    if device not in ("auto", "cpu"):
        raise ConfigError(f"device: got {device!r} with engine vllm, which is built for one kind; allowed: auto")
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    return VllmModel.open(name, VllmOptions(dtype=dtype), adapter=adapter)
