"""Notices hooks, replaced functions and settings, which change what a model computes while its weights stay.

Sessions and wrapped models ask once a call; 0.3 milliseconds for a model of 30 layers.
"""

from __future__ import annotations

import copy
import sys
from itertools import chain
from types import ModuleType
from typing import Any
from weakref import ref

import torch
from torch import nn

from erecap.decoding.watch import GLOBAL_HOOKS, HARMLESS
from erecap.tokens.cache.ropes import changes_itself

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# Whole numbers and flags that modules read while they run. All numbers with a fraction are watched, by whatever name.
SETTINGS = frozenset(
    {"layer_idx", "head_dim", "num_heads", "num_key_value_heads", "num_key_value_groups", "sliding_window"}
    | {"is_causal", "is_sliding", "training", "top_k", "num_experts_per_tok", "norm_topk_prob", "padding_idx"}
)
# Keys of a configuration that say nothing of what a call through a cache of ours computes.
IDLE = frozenset({"use_cache", "return_dict", "output_attentions", "output_hidden_states", "dtype", "torch_dtype"})
# What torch and transformers keep of a compiled module, which computes the same.
COMPILED = frozenset({"_compiled_call_impl", "_compiled_call"})


class BehaviourWatch:
    """The hooks, functions and settings of a model when this was made.

    Functions are held weakly: they may refer to the model, which this must not keep alive.

    Args:
        model: any module.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._vars = [vars(module) for module in modules]
        self._hooks = [own[name] for own in self._vars for name in HOOKS]
        self._hooked = self._hooked_now()
        self._call = nn.Module.__call__
        # Rotary embeddings that change with the length set their own numbers.
        plain = [own for own in self._vars if not changes_itself(own)]
        self._settings = [(own, key) for own in plain for key, value in list(own.items()) if _is_setting(key, value)]
        self._values = self._values_now()
        self._attributes, self._own = self._attributes_now(), self._own_now()
        libraries = dict.fromkeys(sys.modules.get(type(module).__module__) for module in modules)
        self._library = [
            (vars(library), key, ref(value))
            for library in (torch.nn.functional, *libraries)
            if library is not None
            for key, value in list(vars(library).items())
            if callable(value) and not isinstance(value, (type, ModuleType)) and _can_be_weak(value)
        ]  # what the forwards of these modules call by name
        config: Any = getattr(model, "config", None)
        self._config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else None
        self._configured = copy.deepcopy(self._configured_now())

    def changed(self) -> bool:
        """True if hooks, functions or settings are other ones than when this was made."""
        return (
            nn.Module.__call__ is not self._call
            or self._hooked_now() != self._hooked
            or self._values_now() != self._values
            or any(own.get(key) is not value() for own, key, value in chain(self._own, self._library))
            or self._configured_now() != self._configured
            or self._has_new_functions()
        )

    def _hooked_now(self) -> list[tuple[int, int]]:
        """Numbers of the handles of foreign hooks, which torch gives once only; beside them 1 for global ones."""
        # Lists, because calls in other threads put hooks of ours on and take them off meanwhile.
        found = [item for hooks in self._hooks if hooks for item in list(hooks.items())]
        own = [number for number, hook in found if getattr(hook, "__module__", "") not in HARMLESS]
        return [*((number, 0) for number in own), *((number, 1) for hooks in GLOBAL_HOOKS for number in hooks)]

    def _values_now(self) -> list[Any]:
        return [own.get(key) for own, key in self._settings]

    def _attributes_now(self) -> int:
        return sum(map(len, self._vars))

    def _own_now(self) -> list[tuple[dict[str, Any], str, ref]]:
        """Functions that single modules have of their own, such as a replaced `forward`."""
        return [
            (own, key, ref(value))
            for own in self._vars
            for key, value in list(own.items())
            if callable(value) and key not in COMPILED and _can_be_weak(value)
        ]

    def _has_new_functions(self) -> bool:
        attributes = self._attributes_now()
        if attributes == self._attributes:
            return False
        if [(id(own), key) for own, key, _ in self._own_now()] != [(id(own), key) for own, key, _ in self._own]:
            return True
        self._attributes = attributes  # notes that modules take while they run
        return False

    def _configured_now(self) -> dict[str, Any]:
        config = {} if self._config is None else vars(self._config)
        return {key: value for key, value in config.items() if key[0] != "_" and key not in IDLE}


def precision_now(device: torch.device) -> str:
    """The number format that torch's autocast gives products on `device` in this thread; empty where it is off."""
    if not torch.is_autocast_enabled(device.type):
        return ""
    return str(torch.get_autocast_dtype(device.type)).removeprefix("torch.")


def _is_setting(key: str, value: Any) -> bool:
    return type(value) is float or (key in SETTINGS and isinstance(value, (int, type(None))))


def _can_be_weak(value: Any) -> bool:
    return type(value).__weakrefoffset__ != 0
