"""A tiny model whose answers depend on which tokens it sees; those of random weights hardly do."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from tests.session.chats import model

WINDOW = 4001  # of a model of its own: `model(window=WINDOW)` is this one, once it was made


@cache
def sharp() -> Any:
    """The model, with attention weights that are far from equal."""
    made = model(window=WINDOW)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "q_proj" in name:
                parameter.mul_(12.0)
            if "o_proj" in name:
                parameter.mul_(2.0)
    return made
