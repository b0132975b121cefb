"""Load a causal language model and its tokenizer, ready to plan: evaluation mode, no gradients."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erecap.errors import ConfigError, ModelError
from erecap.models.finiteness import check_finite
from erecap.models.inspection import first_line, inspect_folder, read_json
from erecap.models.locating import locate
from erecap.models.origins import remember_origin
from erecap.models.pins import check_pins
from erecap.parallel.device_map import resolve_device_map
from erecap.parallel.start import join

DTYPES = ("auto", "float32", "bfloat16", "float16")


def load(
    name: str,
    dtype: str = "auto",
    device: str = "auto",
    attn: str = "sdpa",
    *,
    adapter: str | None = None,
    device_map: str | Mapping[str, str | int] | None = None,
) -> tuple[Any, Any]:
    """Load a model by catalog name, folder or hub name.

    Args:
        name: see `erecap.models.locate`.
        dtype: one of `DTYPES`; "auto" is bfloat16 where the hardware computes in it (`native_bfloat16`),
            else float32.
        device: "auto" (CUDA if there is one, else CPU) or any torch device, such as "cpu" or "cuda:1".
        attn: transformers' name of the attention implementation ("sdpa", "eager", ...).
        adapter: name or folder of a LoRA adapter to merge into the weights (`erecap.models.adapters`); they are
            merged in the number format of the model's folder, then converted.
        device_map: layers on several devices, see `erecap.parallel.device_map`, or a mapping of parts to devices as
            accelerate takes it; None: all on `device`.

    Under `torchrun` every process calls this, and gets its part of the weights (`erecap.models.splitting`).

    Returns:
        `(model, tokenizer)`, a `transformers` causal language model and its tokenizer with a chat template.

    Raises:
        ConfigError: unknown dtype or device, or a device map that does not fit the model or the machine.
        ModelError: not pulled; a file missing or damaged (named); weights, configuration or tokenizer of a catalog
            model that are not as pinned; weights not in safetensors; no chat template, or a broken one; weights that
            do not fit the configuration, or are not finite; an unknown quantization; not enough memory; an adapter that
            is damaged, belongs to another model or cannot be merged.
    """
    ranks = join()
    if ranks is not None and (device_map is not None or device != "auto"):
        raise ConfigError("device, device_map: got one under torchrun, which splits the model; allowed: neither")
    if device_map is not None and device != "auto":
        raise ConfigError(f"device: got {device} beside a device map; allowed: one of the two")
    chosen = resolve_device(device)
    number_format = resolve_dtype(dtype, chosen)
    folder = checked_folder(name)
    tokenizer = load_tokenizer(folder)
    if ranks is not None:
        from erecap.models.splitting import load_split

        return load_split(folder, number_format, attn, adapter, ranks), tokenizer
    places = None if device_map is None else resolve_device_map(empty_model(folder), device_map, number_format)
    if adapter is None:
        if places is None:
            model = load_weights(folder, number_format, chosen, attn)
        else:
            how = {"device_map": places, "offload_folder": offload_folder()}
            model = load_weights(folder, number_format, None, attn, **how)
        check_finite(model, folder)
        remember_origin(model, folder, None)
        return model, tokenizer
    from erecap.models.adapters import locate_adapter

    found = locate_adapter(adapter)
    if places is not None:  # merged whole, then placed
        chosen = resolve_device("cpu")
    model = merged(folder, found, chosen, attn).to(number_format)
    if places is not None:
        model = place(model, places)
    check_finite(model, folder)
    remember_origin(model, folder, found)
    return model, tokenizer


def checked_folder(name: str) -> Path:
    """The folder behind a model's name, after all checks that need no weights.

    Raises:
        ModelError: as `load`.
    """
    folder = locate(name)
    inspect_folder(folder)
    check_pins(name, folder)
    _check_quantization(folder)
    return folder


def merged(folder: Path, adapter: Path, device: Any, attn: str = "sdpa") -> Any:
    """The model of a folder with an adapter merged into it, in the number format of the folder.

    Raises:
        ModelError: as `load`, which also checks that the result is finite. A model that is at fault by itself is
            refused for that, before the adapter could be blamed.
    """
    from erecap.models.adapters import check_adapter, merge_adapter

    check_adapter(adapter, folder)
    model = load_weights(folder, "auto", device, attn)
    check_finite(model, folder)
    return merge_adapter(model, adapter)


def empty_model(folder: Path) -> Any:
    """A model of the folder's class and configuration without weights.

    Raises:
        ModelError: the configuration cannot be read.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(f"{folder}: the model cannot be loaded: {first_line(error)}") from error


def place(model: Any, places: dict[str, str]) -> Any:
    """Put the parts of a loaded model on the devices of `places`; offloaded weights go to a temporary folder."""
    from accelerate import dispatch_model

    folder = offload_folder() if "disk" in places.values() else None
    return dispatch_model(model, places, offload_dir=folder, skip_keys=["past_key_values"])


def offload_folder() -> str:
    """A new folder for weights that wait on disk, deleted when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="erecap-offloaded-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return folder.name


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder.

    Raises:
        ModelError: it cannot be read, or holds no chat template, or one that cannot be compiled.
    """
    from transformers import AutoTokenizer

    from erecap.models.unpacking import quiet

    # The tokenizers library raises plain `Exception` for a file that it cannot parse.
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise ModelError(f"{folder}: the tokenizer cannot be read: {first_line(error)}") from error
    if tokenizer.chat_template is None:
        raise ModelError(
            f"{folder}: no chat template (chat_template.jinja, or 'chat_template' in tokenizer_config.json); "
            "a planner needs a model that was trained to chat"
        )
    _check_template(folder, tokenizer.chat_template)
    return tokenizer


def _check_template(folder: Path, template: Any) -> None:
    """Refuse a chat template that cannot be compiled; some tokenizers have several, by name."""
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import _compile_jinja_template

    for text in template.values() if isinstance(template, dict) else (template,):
        if not isinstance(text, str):
            raise ModelError(f"{folder}: chat_template: got {repr(text)[:40]}; allowed: a text in the language Jinja")
        try:
            _compile_jinja_template(text)
        except (TemplateError, RecursionError) as error:
            raise ModelError(f"{folder}: the chat template is broken: {first_line(error)}") from error


def resolve_device(device: str) -> Any:
    """The torch device that a user's word means.

    Raises:
        ConfigError: torch does not know it, or it is not on this machine.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device '{device}' is not known; use auto, cpu, or cuda[:N]") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device '{device}' is not on this machine (CUDA devices: {torch.cuda.device_count()}); use auto or cpu"
        )
    return chosen


def resolve_dtype(dtype: str, device: Any) -> Any:
    """The torch dtype that a user's word means on `device`.

    Raises:
        ConfigError: not one of `DTYPES`.
    """
    import torch

    if dtype not in DTYPES:
        raise ConfigError(f"dtype '{dtype}' is not known; use one of {', '.join(DTYPES)}")
    if dtype == "auto":
        return torch.bfloat16 if native_bfloat16(device) else torch.float32
    return getattr(torch, dtype)


def native_bfloat16(device: Any) -> bool:
    """Return True if the hardware multiplies bfloat16 itself.

    A CPU that does not converts every operand: reading a prompt then takes three times as long as in
    float32 (measured: docs/dev/log/speed.md).
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(unit, False) for unit in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    return False


def load_weights(folder: Path, dtype: Any, device: Any, attn: str, **how: Any) -> Any:
    """The model of a folder, in evaluation mode.

    Args:
        device: moved there; None: as transformers has put it.
        how: further arguments of `from_pretrained`.

    Raises:
        ModelError: damaged weights, or no room for them.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    from erecap.models.unpacking import quiet

    try:
        with quiet():
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                attn_implementation=attn,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # reported below, with the tensor's name
                output_loading_info=True,
                **how,
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: the model cannot be loaded: {first_line(error)}") from error
    except ImportError as error:
        field = ": quantization_config" if "quantization_config" in read_json(folder / "config.json") else ""
        raise ModelError(f"{folder / 'config.json'}{field}: a package is missing: {first_line(error)}") from error
    # transformers fills tensors that the files lack with random numbers, and only warns.
    missing = sorted(report["missing_keys"]) + sorted(key[0] for key in report["mismatched_keys"])
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} tensors are missing or have another shape than config.json says, "
            f"the first is {missing[0]}"
        )
    if device is None:
        return model.eval().requires_grad_(False)
    try:
        return model.to(device).eval().requires_grad_(False)
    except torch.OutOfMemoryError as error:
        raise ModelError(f"'{folder.name}' does not fit into the memory of {device}: {first_line(error)}") from error


def _check_quantization(folder: Path) -> None:
    """Refuse a kind of quantization that transformers does not know: it would take the packed numbers for weights."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    settings = read_json(folder / "config.json").get("quantization_config")
    if settings is None:
        return
    where = f"{folder / 'config.json'}: quantization_config"
    if not isinstance(settings, dict):
        raise ModelError(f"{where}: got {repr(settings)[:40]}; allowed: an object")
    method = settings.get("quant_method")
    packed = settings.get("load_in_4bit") or settings.get("load_in_8bit")
    if not packed and method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        known = ", ".join(sorted(AUTO_QUANTIZATION_CONFIG_MAPPING))
        raise ModelError(f"{where}: quant_method: got {repr(method)[:40]}; allowed: {known}")
