"""Ways to choose the tokens of an answer: by sampling, by early exit, and among the few that a grammar allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from erecap.config.exits import Exit
from erecap.decoding.choosing import Chooser
from erecap.engines.protocol import SessionEngine, refuse

if TYPE_CHECKING:
    from erecap.decoding.exits.drafting import ExitDraft, ExitState


def sampler_of(temperature: float, top_p: float, seed: int | None) -> Callable[[Any], int] | None:
    """Draws a token from logits `(vocab,)`, on the CPU as they are; None where decoding is greedy.

    Raises:
        ValueError: a temperature that is not finite.
    """
    if not math.isfinite(temperature):
        raise ValueError(f"temperature must be a finite number, got {temperature}")
    if temperature <= 0:
        return None
    import torch

    from erecap.decoding.stopping import sampler

    return sampler(temperature, top_p, seed, torch.device("cpu"))


def exits_of(settings: Exit | None, engine: SessionEngine, model: Any) -> ExitState | None:
    """The state of early exits; the engine must be able to read through the first layers only.

    Raises:
        ConfigError, ModelError, ValueError: as `open_exits`, or an engine that cannot.
    """
    if settings is None:
        return None
    refuse(engine.name, "early exit", engine.supports, "leave exit out, or use engine='transformers'")
    from erecap.decoding.exits.opening import open_exits

    return open_exits(settings, model)


def exit_draft(state: ExitState | None, ends: Sequence[int], past: Sequence[int]) -> ExitDraft | None:
    """The early exits of an answer, after `past`, everything before it, was read."""
    if state is None:
        return None
    from erecap.decoding.exits.drafting import ExitDraft

    return ExitDraft(state, ends, past)


def chooser_of(engine: SessionEngine, ends: Sequence[int]) -> Chooser | None:
    """Chooses among the tokens that a grammar allows, where the engine can."""
    return Chooser(engine, ends) if "some logits" in engine.supports else None  # type: ignore[arg-type]
