"""The name under which models take their KV cache: `cache` from transformers 5.24 on, `past_key_values` before."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from transformers import GenerationMixin

NAMES = ("cache", "past_key_values", "layer_past", "past_key_value")
_STEP = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
CACHE = next(name for name in NAMES if name in _STEP)  # of this transformers: of its models, `generate` and outputs


def given_cache(arguments: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a call, under any of its names; None where there is none."""
    found = (arguments.get(name) for name in NAMES)
    return next((cache for cache in found if cache is not None), None)
