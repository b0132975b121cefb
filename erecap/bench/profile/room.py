"""Memory that a cell needs at least, beside what is free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from erecap.bench.profile.journal import Journal
from erecap.bench.profile.settings import FLOOR, Cell, Profile
from erecap.config.modes import Evict
from erecap.engines.token_bytes import bytes_per_token
from erecap.engines.transformers import CHUNK
from erecap.tokens.scoring.schedule import PruneConfig, scheduled_counts


def left_over(
    profile: Profile, cells: Sequence[Cell], model: Any, journal: Journal, say: Callable[[str], None]
) -> list[Cell]:
    """The cells that memory may suffice for, in their order; of the others the journal gets the reason.

    Asked before their texts are made, which takes longer the longer they are.
    """
    left = []
    for cell in cells:
        short = None if journal.skipped(cell) is not None else short_of_memory(profile, cell, model)
        if short is not None:
            say(f"{cell.name} at {cell.length:,} tokens: {short}; left out there and beyond")
            journal.add({**cell.head(), "skipped": short})
        elif journal.skipped(cell) is None:
            left.append(cell)
    return left


def short_of_memory(profile: Profile, cell: Cell, model: Any, free: int | None = None) -> str | None:
    """One sentence on why a cell is left out: its keys and values alone, with one layer's work, exceed free memory.

    Systems that give more memory than they have end a process that uses it, so trying is no way to find out.

    Args:
        free: bytes; None: what the model's devices have together.

    Returns:
        None where it may fit.
    """
    needed = least_bytes(profile, cell, model)
    if free is None:
        found = [free_bytes(device) for device in {tensor.device for tensor in model.parameters()}]
        free = None if None in found else sum(one for one in found if one is not None)
    if free is None or needed <= free:
        return None
    return f"needs {needed / 2**30:.1f} GiB at least, {free / 2**30:.1f} GiB are free"


def least_bytes(profile: Profile, cell: Cell, model: Any) -> int:
    """Bytes of keys and values, and of the hidden states and the MLP of one layer."""
    config = model.config.get_text_config(decoder=True)
    mode = None if cell.mode == FLOOR else cell.parsed
    read, stored = cell.length, float(cell.length)
    if mode is None:
        read, stored = profile.new_tokens, float(profile.new_tokens)
    elif mode.session:
        read = min(CHUNK, cell.length)
        if isinstance(mode.kv, Evict):
            stored = min(profile.kv_tokens + CHUNK, cell.length)
    elif mode.prune:
        layers = config.num_hidden_layers
        counts = scheduled_counts(cell.length, layers, PruneConfig().resolve_stages(layers), cell.keep)
        stored = sum(counts) / layers
    widths = 2 * config.hidden_size + 2 * getattr(config, "intermediate_size", config.hidden_size)
    return int(stored * bytes_per_token(model) + read * widths * model.dtype.itemsize)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device; None where the system does not tell."""
    if device.type == "cuda":
        # What torch keeps of earlier calls counts as taken to the device, and is used again.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    if device.type != "cpu":
        return None
    import psutil

    return int(psutil.virtual_memory().available)
