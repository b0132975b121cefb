"""Modules as transformers and torch ship them: the only ones whose arithmetic the fused decoder may write out anew."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
import transformers
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from erecap.tokens.scoring import probe

SHIPPED = tuple(str(Path(package.__file__).parent) for package in (torch, transformers))
KERNELS = ("sdpa", "eager")  # and flash_attention_*: softmax attention as the fused decoder computes it


def changed_module(name: str, module: nn.Module) -> str | None:
    """Reason why `module` may compute something else than its class as shipped does; None if it does not.

    Args:
        name: of the module within its model; "" for the model itself.
    """
    kind, where = type(module), name or "the model"
    if not kind.__module__.startswith(("transformers.", "torch.nn.")):
        return f"{where} is {kind.__name__}, a class of {kind.__module__}"
    own = next((key for key, value in vars(module).items() if callable(value) and _is_method(kind, key)), None)
    if own is not None:
        return f"{where} has a {own} of its own"
    forward: Any = kind.forward
    while forward is not None:  # through decorators: a replacement may carry the names of what it replaces
        code = getattr(forward, "__code__", None)
        if code is None or not code.co_filename.startswith(SHIPPED):
            return f"forward of {kind.__name__} was replaced"
        forward = getattr(forward, "__wrapped__", None)
    return None


def changed_attention(attention: nn.Module, config: Any) -> str | None:
    """Reason why attention runs other functions than the shipped ones; None if it does not."""
    name = probe.base_name(config._attn_implementation)
    if name not in KERNELS and not name.startswith("flash_attention"):
        return f"its attention implementation is {name!r}"
    for function in attention_functions(attention, config):
        if function is not None and not function.__module__.startswith("transformers."):
            return f"{function.__name__} of {function.__module__} takes part in its attention"
    return None


def attention_functions(attention: nn.Module, config: Any) -> tuple[Any, ...]:
    """The functions that an attention layer looks up when it runs: rotation, and attention itself."""
    shipped = vars(sys.modules[type(attention).__module__])
    name = probe.base_name(config._attn_implementation)
    function = shipped.get("eager_attention_forward") if name == "eager" else ALL_ATTENTION_FUNCTIONS.get(name)
    return shipped.get("apply_rotary_pos_emb"), function


def unplain_weight(model: nn.Module) -> str | None:
    """Reason why the weights are not plain numbers on one device, such as quantised or offloaded ones; None: they are.

    A tensor of another class may compute its products in a way of its own.
    """
    devices = set()
    for name, parameter in model.named_parameters():
        if type(parameter) is not nn.Parameter or type(parameter.data) is not torch.Tensor:
            return f"{name} is held in {type(parameter).__name__}, not in a plain tensor"
        if parameter.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            return f"{name} has dtype {parameter.dtype}"
        devices.add(parameter.device)
    if any(device.type == "meta" for device in devices):
        return "its weights are on no device (meta)"
    return "it is spread over several devices" if len(devices) > 1 else None


def _is_method(kind: type, key: str) -> bool:
    return isinstance(getattr(kind, key, None), FunctionType)
