"""Guards of a wrapped model: equal results of a split prefill, and unchanged weights."""

from __future__ import annotations

from typing import Any

import torch

from erecap.wrapping.token_reader import TokenReader

TOKENS = 8  # of the first prompt that are read twice
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the largest logit
COARSE = 0.1  # in other dtypes, where reading in pieces rounds differently


def difference(model: Any, prompt: torch.Tensor, reader: TokenReader) -> str | None:
    """Reason why stored keys and values do not serve `model`; None where they do.

    Tokens of `prompt` `(1, n)` are read at once and in two pieces, which has to give the same logits.
    """
    ids = prompt.repeat(1, -(-TOKENS // prompt.shape[1]))[:, :TOKENS].to(model.device)
    half = TOKENS // 2
    conversation = reader.open()
    name = type(model).__name__
    with torch.inference_mode(False), torch.no_grad():
        whole = model(input_ids=ids.clone()).logits[0, half:].float()
        try:
            with reader.attached(conversation):
                model(input_ids=ids[:, :half].clone(), past_key_values=conversation.cache, use_cache=True)
                rest = model(input_ids=ids[:, half:].clone(), past_key_values=conversation.cache, use_cache=True)
        except (ValueError, TypeError, AttributeError, LookupError, RuntimeError) as error:
            return f"{name} cannot read in pieces ({type(error).__name__}: {error})"
    found = rest.logits[0].float()
    if found.shape != whole.shape:
        return f"{name} answers in another shape when it reads in pieces"
    apart = ((found - whole).abs().amax(-1) / whole.abs().amax(-1)).median()
    if not float(apart) <= TOLERANCE.get(model.dtype, COARSE):  # NaN is no agreement
        return f"{name} computes other logits when it reads in pieces (they differ by {float(apart):.2g})"
    return None


def weights_state(model: Any) -> tuple:
    """A state that changes whenever the weights of `model` or its active adapters do."""
    weights = tuple(
        (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in model.parameters()
    )
    if not getattr(model, "peft_config", None) and not getattr(model, "_hf_peft_config_loaded", False):
        return weights
    adapters = [
        (str(getattr(module, "active_adapters", None)), getattr(module, "disable_adapters", False))
        for module in model.modules()
        if hasattr(module, "active_adapters")
    ]
    return (*weights, *adapters)
