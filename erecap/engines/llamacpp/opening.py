"""Opening of a GGUF model from the settings of a run or a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erecap.engines.llamacpp.library import library
from erecap.engines.llamacpp.model import TYPES, LlamaCppModel, LlamaCppOptions
from erecap.errors import ConfigError
from erecap.models.adapters import describe_adapter


def open_model(
    name: str,
    *,
    adapter: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> LlamaCppModel:
    """Open a model for the engine.

    Args:
        name: a GGUF file, or the catalog name of a model that comes as one.
        adapter: see `LlamaCppModel.open`.
        dtype: precision of keys and values; `auto` is float16. The weights have the file's.
        device: `cpu` leaves all layers there; `auto`, and the name of a device, put all on the devices that llama.cpp
            was built for.
        threads: None: as `LlamaCppOptions` says.

    Raises:
        ConfigError, ModelError: as `LlamaCppModel.open`, or another dtype or device.
    """
    kv: Any = "float16" if dtype == "auto" else dtype
    if kv not in TYPES:
        raise ConfigError(f"dtype: got {dtype!r} with engine llamacpp; allowed: auto, {', '.join(TYPES)}")
    kind, _, number = device.partition(":")
    if number and not number.isdigit():
        raise ConfigError(f"device: got {device!r}; allowed: auto, cpu, or a kind of device with its number")
    if kind not in ("auto", "cpu") and not library().llama_supports_gpu_offload():
        raise ConfigError(f"device: got {device!r}, and llama.cpp was built for the CPU alone; allowed: auto, cpu")
    options = LlamaCppOptions(
        threads=threads, kv=kv, gpu_layers=0 if kind == "cpu" else None, main_gpu=int(number or 0),
        split_mode=0 if number else None,
    )  # fmt: skip
    return LlamaCppModel.open(name, options, adapter=adapter)


def facts_of(model: LlamaCppModel, name: str, adapter: str | None) -> dict[str, Any]:
    """`model` of `run.json`: shape of the model, hash of its file, and the adapter that is applied to it."""
    api, kind = library(), model.facts.get("general.architecture", "")
    heads, kv_heads = model.heads
    hidden = int(api.llama_model_n_embd(model.handle))
    return {
        "name": Path(name).name,
        "hash": f"sha256:{model.digest}",
        "adapter": None if adapter is None else describe_adapter(adapter),
        "dtype": model.options.kv,
        "layers": model.layers,
        "hidden_size": hidden,
        "intermediate_size": int(model.facts.get(f"{kind}.feed_forward_length", 0)),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": int(model.facts.get(f"{kind}.attention.key_length", hidden // heads)),
        "vocab_size": model.vocabulary,
        "parameters": int(api.llama_model_n_params(model.handle)),
    }
