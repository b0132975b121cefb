"""Fingerprints of weights: the same for the same tensors, however they are packed into files."""

from __future__ import annotations

import hashlib
import json
import mmap
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from erecap.errors import ModelError
from erecap.models.inspection import read_header, read_json, weight_files

# torch's names of the number formats, as safetensors writes them.
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def fingerprint(source: Path | str | Any) -> str:
    """SHA-256 over the sorted tensors of a model folder or a loaded model: name, dtype, shape and bytes.

    An output matrix tied to the input embedding counts once. A loaded model has its folder's fingerprint
    as long as it was loaded in the folder's dtype and not changed since.

    Args:
        source: a Hugging Face folder (its files are read, not loaded), or a `transformers` model.

    Returns:
        `"sha256:"` and 64 hexadecimal digits.

    Raises:
        ModelError: the folder is damaged; a tensor's dtype has no name in safetensors.
    """
    tensors = _folder_tensors(Path(source)) if isinstance(source, (str, Path)) else _model_tensors(source)
    digest = hashlib.sha256()
    for name, dtype, shape, raw in tensors:
        digest.update(f"{name} {dtype} {list(shape)}\n".encode())
        digest.update(raw)
    return f"sha256:{digest.hexdigest()}"


# Keys of a configuration that say nothing of what the model computes.
_IDLE = frozenset(
    {"_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache", "return_dict"}
    | {"output_attentions", "output_hidden_states", "attn_implementation", "_attn_implementation"}
)


def model_print(model: Any, adapters: str = "") -> dict[str, str]:
    """Digests of what a loaded model computes, by name: `weights`, `adapters`, `config`, `dtype`.

    Other than `fingerprint`, in a few tenths of a second for a gigabyte: all bytes go through CRC-32, which tells any
    change by accident, and none that somebody fakes.

    Args:
        adapters: the state of adapters that are not merged.

    Raises:
        ModelError: weights without values.
    """
    import torch

    from erecap.parallel.placement import waiting_weights

    digest, seen = hashlib.sha256(), dict[tuple[Any, ...], int]()
    waiting = {found.name: found for found in waiting_weights(model)}
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        key: tuple[Any, ...] = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.device.type == "meta":
            if name not in waiting:
                raise ModelError(f"tensor {name} has no values, so the model has no fingerprint")
            tensor, key = waiting[name].source[waiting[name].key], (name,)
        if key not in seen:  # tied tensors once
            seen[key] = zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} {seen[key]:08x}\n".encode())
    config = model.config.get_text_config(decoder=True).to_dict()
    facts = json.dumps({key: value for key, value in config.items() if key not in _IDLE}, sort_keys=True, default=str)
    return {
        "weights": digest.hexdigest()[:32],
        "adapters": hashlib.sha256(adapters.encode()).hexdigest()[:32],
        "config": hashlib.sha256(facts.encode()).hexdigest()[:32],
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def _folder_tensors(folder: Path) -> Iterator[tuple[str, str, tuple[int, ...], Any]]:
    tied = bool(read_json(folder / "config.json").get("tie_word_embeddings"))
    entries = []
    for path in weight_files(folder):
        with path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        for name, entry in read_header(path).items():
            first, last = entry["data_offsets"]
            raw = mapped[start + first : start + last]
            entries.append((name, entry["dtype"], tuple(entry["shape"]), raw))
    names = {name for name, *_ in entries}
    for name, dtype, shape, raw in sorted(entries, key=lambda entry: entry[0]):
        if tied and name == "lm_head.weight" and "model.embed_tokens.weight" in names:
            continue
        yield name, dtype, shape, raw


def _model_tensors(model: Any) -> Iterator[tuple[str, str, tuple[int, ...], Any]]:
    import torch

    tied = set(model.all_tied_weights_keys)
    for name, tensor in sorted(model.state_dict().items()):
        if name in tied:
            continue
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise ModelError(f"tensor {name} has dtype {dtype}, which has no fingerprint")
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        yield name, _DTYPES[dtype], tuple(tensor.shape), raw
