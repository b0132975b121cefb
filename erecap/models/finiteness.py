"""A few tokens read by a loaded model: its numbers have to be finite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from erecap.errors import ModelError
from erecap.models.inspection import first_line

if TYPE_CHECKING:
    import torch

TOKENS = 12
FAILURES = (ValueError, TypeError, AttributeError, LookupError, RuntimeError, AssertionError)


def read_tokens(model: Any, folder: Path) -> torch.Tensor:
    """Logits `(TOKENS, vocab)` in float32 of token ids that are spread over the vocabulary.

    Raises:
        ModelError: the model cannot read them; names `folder`.
    """
    import torch

    from erecap.parallel.placement import input_device

    size = int(model.config.get_text_config(decoder=True).vocab_size)
    ids = torch.arange(TOKENS, device="cpu") * size // TOKENS
    try:
        with torch.no_grad():
            logits: torch.Tensor = model(input_ids=ids.unsqueeze(0).to(input_device(model)), use_cache=False).logits[0]
    except torch.OutOfMemoryError:
        raise
    except FAILURES as error:
        raise ModelError(f"{folder}: the model cannot read tokens: {first_line(error)}") from error
    return logits.float()


def check_finite(model: Any, folder: Path) -> None:
    """Refuse a model with weights that are not finite, or that computes such logits.

    The weights are summed, one pass over the memory; only a sum that is not finite has its numbers looked at.

    Raises:
        ModelError: names the first such tensor, or says that the configuration or the number format is at fault.
    """
    import torch

    summed = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    for name, weight in model.named_parameters():
        weight = weight.to_local() if hasattr(weight, "to_local") else weight  # this rank's part
        if weight.dtype not in summed or weight.device.type == "meta":
            continue
        if not bool(weight.sum(dtype=torch.float32).isfinite()) and not bool(weight.isfinite().all()):
            raise ModelError(f"{folder}: the weights are damaged: {name} holds values that are not finite")
    # Attention without a mask may hide angles that are not finite, behind a short text.
    turned = next(
        (name for name, own in model.named_buffers() if "inv_freq" in name and not own.isfinite().all()), None
    )
    if turned is not None:
        raise ModelError(
            f"{folder / 'config.json'}: its rotary embeddings (rope_theta) give {turned} that is not finite"
        )
    if not bool(read_tokens(model, folder).isfinite().all()):
        kind = str(model.dtype).removeprefix("torch.")
        raise ModelError(
            f"{folder}: the logits are not finite although the weights are: config.json is not that of these weights, "
            f"or they pass the range of {kind}"
        )
