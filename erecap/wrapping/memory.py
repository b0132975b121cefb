"""Memory of a wrapped model's conversations: how much by default, and how a budget fits into what is given."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import torch

from erecap.budget import Budget
from erecap.engines.token_bytes import bytes_per_token, check_memory
from erecap.errors import ConfigError


def quarter_of_memory(device: torch.device) -> int:
    """Bytes: a quarter of the memory of `device`."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 4
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def within_memory(model: Any, budget: Budget, memory_bytes: int) -> Budget:
    """The limits of one conversation where all conversations together may take `memory_bytes`.

    An automatic budget gets them as its own memory, so that the conversation that is served stays stored, and is
    evicted within them. `Budget()` and a share of tokens stay as they are, and may outgrow the memory.

    Raises:
        ConfigError: fewer than 16 tokens of the model fit, or fewer than a fixed budget stores.
    """
    each = bytes_per_token(model)
    if budget.automatic:
        try:
            check_memory(each, memory_bytes)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        least = memory_bytes if budget.memory_bytes is None else min(memory_bytes, budget.memory_bytes)
        return dataclasses.replace(budget, memory_bytes=least)
    if budget.kv_tokens is not None and memory_bytes < budget.kv_tokens * each:
        raise ConfigError(
            f"memory_bytes={memory_bytes} holds {memory_bytes // each:,} tokens of this model, fewer than the budget "
            f"of {budget.kv_tokens:,}; allowed: {budget.kv_tokens * each} or more, or a smaller budget"
        )
    return budget
