"""Check that a model with a plan computes what the unchanged model does with the same parts masked."""

from __future__ import annotations

from typing import Any

import torch

from erecap.errors import ModelError
from erecap.layers.masking import masked
from erecap.layers.plan import LayerPlan

TOKENS = 12  # that are read
_FAILURES = (ValueError, TypeError, AttributeError, LookupError, RuntimeError, AssertionError)


def masked_logits(model: Any, plan: LayerPlan) -> torch.Tensor | Exception:
    """Logits `(TOKENS, vocab)` of the unchanged model under `masked`, or the reason why it cannot be run so.

    That is told only where the plan itself can be applied: else it has a better reason.
    """
    try:
        with masked(model, plan):
            return probe_logits(model)
    except _FAILURES as error:
        return error


def check_outputs(model: Any, expected: torch.Tensor | Exception) -> None:
    """Compare the model's logits with those of `masked_logits`.

    Raises:
        ModelError: they differ by more than rounding explains, or the model cannot be run with the plan, or masked.
    """
    name = type(model).__name__
    if isinstance(expected, Exception):
        raise ModelError(f"{name} cannot have this layer plan: its parts cannot be masked ({_line(expected)})")
    try:
        found = probe_logits(model)
    except _FAILURES as error:
        raise ModelError(f"{name} cannot have this layer plan: with it, it does not run ({_line(error)})") from error
    apart = ((found - expected).abs().amax(-1) / expected.abs().amax(-1)).median()
    limit = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.1
    if not float(apart) <= limit:  # NaN is no agreement
        raise ModelError(
            f"{name} cannot have this layer plan: with it, it computes other logits than with the same parts masked "
            f"(they differ by {float(apart):.2g})"
        )


def probe_logits(model: Any) -> torch.Tensor:
    """Logits `(TOKENS, vocab)` of a few tokens spread over the vocabulary."""
    size = int(model.config.get_text_config(decoder=True).vocab_size)
    step = max(1, (size - 3) // TOKENS)
    ids = torch.tensor([[min(size - 1, 3 + step * number) for number in range(TOKENS)]], device=model.device)
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0].float()
    return logits


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
