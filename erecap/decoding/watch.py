"""Notices what the fused decoder would pass over in a model.

`bypassed` is asked before every token that is generated, `changed` once an answer. Both look at dictionaries that
torch's modules hold anyway, in C where that is possible: 30 and 250 microseconds for a model of 30 layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, repeat
from operator import contains, is_not
from typing import Any
from weakref import ref

import torch
from torch import nn
from torch.nn.modules import module as torch_modules

from erecap.decoding.stock import attention_functions
from erecap.parallel.placement import waiting_weights
from erecap.tokens import hooks, rope_hooks
from erecap.tokens.cache.ropes import changes_itself

# Modules whose hooks do not stand in the way: our own, and those of transformers that only collect outputs.
HARMLESS = frozenset({hooks.__name__, rope_hooks.__name__, "transformers.utils.output_capturing"})
GLOBAL_HOOKS = (torch_modules._global_forward_hooks, torch_modules._global_forward_pre_hooks)
# What the fused decoder reads once, when it is made.
SETTINGS = ("scaling", "head_dim", "eps", "variance_epsilon", "num_key_value_groups", "layer_idx")


class ModelWatch:
    """The state of a model's modules when its fused decoder was made.

    A write through `tensor.data` that keeps its memory is not noticed here; fused products use the model's own tensors
    and see it, packed ones do not (see `erecap.decoding.revision`, which sessions ask once a call).

    Args:
        model: any module.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        # Their dictionaries instead of the modules: these lists must not keep the model alive.
        self._vars = [vars(module) for module in modules]
        self._hooks = [own[name] for own in self._vars for name in ("_forward_hooks", "_forward_pre_hooks")]
        self._parents = [own["_modules"] for own in self._vars if own["_modules"]]
        # Those that accelerate brings for each pass are other tensors each time.
        brought = {id(waiting.owner) for waiting in waiting_weights(model)}
        self._owners = [
            own["_parameters"]
            for own, module in zip(self._vars, modules, strict=True)
            if own["_parameters"] and id(module) not in brought
        ]
        self._owners += [own["_buffers"] for own in self._vars if own["_buffers"] and not changes_itself(own)]
        self._children = _values(self._parents)
        self._weights = _values(self._owners)
        self._plain = [weight for weight in self._weights if weight is not None and _counts_versions(weight)]
        self._versions, self._places = self._weights_now()
        self._kinds: list[Any] = list(map(type, self._children))  # a module may be given another class
        self._model, self._kind = ref(model), type(model)
        self._forwards: dict[Any, Any] = {
            kind: kind.forward for kind in (self._kind, *self._kinds) if kind is not type(None)
        }
        self._call = nn.Module.__call__
        changed = any(name in own for own in self._vars for name in ("forward", "_compiled_call_impl"))
        self._attributes = -1 if changed else sum(map(len, self._vars))
        self._settings = [(own, key) for own in self._vars for key in SETTINGS if key in own]
        self._values = [own[key] for own, key in self._settings]
        self._config = getattr(model, "config", None)
        self._attention = next((own for own in modules if hasattr(own, "layer_idx") and hasattr(own, "head_dim")), None)
        self._configured = self._configured_now()

    def bypassed(self) -> bool:
        """True while a foreign hook, a forward of its own, or training mode is on a module: read by the model then."""
        if any(GLOBAL_HOOKS) or self._vars[0]["training"] or nn.Module.__call__ is not self._call:
            return True
        # Without a new attribute anywhere there is no new forward.
        if sum(map(len, self._vars)) != self._attributes:
            if any(map(contains, self._vars, repeat("forward"))):
                return True
            if any(map(contains, self._vars, repeat("_compiled_call_impl"))):
                return True
        found = chain.from_iterable(map(dict.values, filter(None, self._hooks)))
        return any(getattr(hook, "__module__", "") not in HARMLESS for hook in found)

    def changed(self) -> bool:
        """True if modules, weights, buffers, classes or settings are other ones than when this was made."""
        children = chain.from_iterable(map(dict.values, self._parents))
        weights = chain.from_iterable(map(dict.values, self._owners))
        return (
            any(map(is_not, children, self._children))
            or any(map(is_not, weights, self._weights))
            or sum(map(len, self._parents)) != len(self._children)
            or list(map(type, self._children)) != self._kinds
            or type(self._model()) is not self._kind
            or self._weights_now() != (self._versions, self._places)
            or any(kind.forward is not forward for kind, forward in self._forwards.items())
            or [own.get(key) for own, key in self._settings] != self._values
            or self._configured_now() != self._configured
        )

    def _weights_now(self) -> tuple[list[int], list[int]]:
        # Tensors made in inference mode count no versions; outside of it they cannot be written to.
        versions = [weight._version for weight in self._plain]
        return versions, [weight.data_ptr() for weight in self._plain]

    def _configured_now(self) -> tuple[Any, ...]:
        config = self._config
        if config is None or self._attention is None:
            return ()
        text = config.get_text_config(decoder=True)
        return text.num_hidden_layers, *attention_functions(self._attention, text)


def _counts_versions(weight: torch.Tensor) -> bool:
    return weight.layout is torch.strided and not weight.is_inference()


def _values(owners: Iterable[dict[str, Any]]) -> list[Any]:
    return list(chain.from_iterable(map(dict.values, owners)))
