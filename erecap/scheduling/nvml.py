"""Use and memory of one NVIDIA GPU: by NVML where its Python package is installed, else memory alone by torch."""

from __future__ import annotations

import sys
from typing import Any


class GpuReader:
    """Reads one GPU; without one, or without a library that tells, everything is None.

    Args:
        library: answers as `pynvml` (package nvidia-ml-py), already started; None: it is not at hand.
        handle: of the GPU, as the library has it.
        torch_device: a CUDA device as torch names it, for its memory where the library is not at hand.
    """

    def __init__(self, library: Any = None, handle: Any = None, torch_device: str | None = None) -> None:
        self._library, self._handle, self._device = library, handle, torch_device

    @classmethod
    def of(cls, device: str) -> GpuReader:
        """The reader of a model's device; of `cpu` and others that are no CUDA device, one that reads nothing."""
        if not device.startswith("cuda"):
            return cls()
        try:
            import pynvml  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            return cls(torch_device=device)
        try:
            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByUUID(_uuid(device))
        except (pynvml.NVMLError, ValueError):
            return cls(torch_device=device)
        return cls(pynvml, handle, device)

    def use(self) -> float | None:
        """Share of the time in which the GPU was busy, of late."""
        if self._library is None:
            return None
        try:
            return min(1.0, max(0.0, self._library.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100.0))
        except self._library.NVMLError:
            return None

    def memory_free(self) -> float | None:
        """Share of the GPU's memory that is free."""
        free, total = self._memory()
        return None if free is None or not total else min(1.0, max(0.0, free / total))

    def _memory(self) -> tuple[float | None, float | None]:
        if self._library is not None:
            try:
                memory = self._library.nvmlDeviceGetMemoryInfo(self._handle)
                return memory.free, memory.total
            except self._library.NVMLError:
                pass  # then torch may know
        torch = sys.modules.get("torch")  # whoever has a model on a GPU has loaded it
        if torch is None or self._device is None or not torch.cuda.is_available():
            return None, None
        free, total = torch.cuda.mem_get_info(self._device)
        return float(free), float(total)


def _uuid(device: str) -> str:
    """The name by which NVML knows a CUDA device of torch, whose numbers may be others than NVML's.

    Raises:
        ValueError: torch does not tell.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        raise ValueError("no CUDA device is in use")
    number = torch.device(device).index
    found = torch.cuda.get_device_properties(torch.cuda.current_device() if number is None else number)
    uuid = getattr(found, "uuid", None)
    if uuid is None:
        raise ValueError("torch does not tell the device's name")
    return f"GPU-{uuid}"
