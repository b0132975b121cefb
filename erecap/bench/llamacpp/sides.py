"""llama.cpp as sides of the comparison of decoders: the packed file as it is, and the same unpacked to float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from erecap.bench.decoders import LLAMACPP_FILE, LLAMACPP_FLOAT, EngineSide, Side
from erecap.bench.llamacpp.worker import Server
from erecap.engines.llamacpp.engine import LlamaCppEngine
from erecap.engines.llamacpp.model import LlamaCppModel, LlamaCppOptions
from erecap.engines.protocol import EngineSettings
from erecap.models.gguf_files import locate_gguf


def llamacpp_sides(
    name: str, work: Path, threads: int, say: Callable[[str], None]
) -> dict[str, Callable[[Sequence[int]], Side]]:
    """Both sides, each with a context of its own.

    Args:
        name: catalog name or path of a GGUF file.
        work: an empty folder for the unpacked file, which must stay while the sides are used.

    Raises:
        ConfigError: llama.cpp is not installed, or there is no such file.
    """
    packed = locate_gguf(name, say)
    unpacked = work / "unpacked.gguf"
    say("llama.cpp unpacks the file to float32")
    Server().convert(str(packed), str(unpacked), "float32")
    opened: dict[str, Any] = {
        # Flash attention rounds to float16 whatever is stored.
        LLAMACPP_FLOAT: LlamaCppModel.open(unpacked, LlamaCppOptions(threads=threads, kv="float32", flash=False)),
        LLAMACPP_FILE: LlamaCppModel.open(packed, LlamaCppOptions(threads=threads)),
    }
    return {
        side: lambda context, model=model: EngineSide(LlamaCppEngine(model, EngineSettings()), context)  # type: ignore[misc]
        for side, model in opened.items()
    }
