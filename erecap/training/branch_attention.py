"""Attention of a transcript with branches, without a mask for the transcript.

Under one mask over everything, each token's products with all later tokens are computed too, and thrown away. By
itself a transcript is plainly causal, which attention kernels do at half the price; only the branches need a mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from erecap.tokens.scoring import probe


@contextmanager
def split_attention(config: Any, transcript: int, mask: torch.Tensor) -> Iterator[None]:
    """Within, the model with this configuration attends in two parts; forward passes only.

    Args:
        config: its attention implementation is `sdpa`.
        transcript: tokens before the first branch.
        mask: `(1, 1, tokens, tokens)` bool, the same for all layers; only its rows of branches are used.
    """
    branches = mask[:, :, transcript:]

    def attend(base: Any, module: Any, query: Any, key: Any, value: Any, **options: Any) -> tuple[torch.Tensor, None]:
        before = slice(0, transcript)
        first, _ = base(module, query[:, :, before], key[:, :, before], value[:, :, before], None, **options)
        rest, _ = base(module, query[:, :, transcript:], key, value, branches, **options)
        return torch.cat([first, rest], dim=1), None

    probe.install(config)
    outer, probe.current.attend = probe.current.attend, attend
    try:
        yield
    finally:
        probe.current.attend = outer
        probe.remove(config)
