"""One forward pass over a sample, branches and all, under masks of our own; and the inputs of chosen layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from erecap.tokens.cache.masks import layer_windows
from erecap.tokens.hooks import find_decoder
from erecap.training.saliency.samples import Sample


def masks_of(model: Any, sample: Sample) -> dict[int | None, torch.Tensor | None]:
    """Attention masks by sliding window: `(1, 1, tokens, tokens)` bool, True where visible; None: causal order."""
    sequence = sample.sequence
    masks: dict[int | None, torch.Tensor | None] = {}
    for window in set(layer_windows(find_decoder(model).config)):
        plain = not sequence.branches and (window is None or sequence.tokens <= window)
        masks[window] = None if plain else sequence.visible(window).to(model.device)
    return masks


def forward_masked(
    model: Any,
    sample: Sample,
    *,
    rows: torch.Tensor,
    allowed: torch.Tensor | None = None,
    placeholder: bool = False,
) -> torch.Tensor:
    """Logits `(len(rows), vocabulary)` of a forward pass over a sample, branches and all.

    Args:
        allowed: `(1, 1, tokens, tokens)` bool: what each token may see at most; None: everything before it.
        placeholder: whoever took the place of attention brings the masks.
    """
    sequence, device = sample.sequence, model.device
    mask: Any = None
    if placeholder:
        # As the pruning hooks do: a 4-D mask is passed through as it is, and keeps the model from building one.
        mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device)
    else:
        masks = masks_of(model, sample)
        if allowed is not None:
            windows = list(masks)
            masks = {window: sequence.visible(window).to(device) & allowed.to(device) for window in windows}
        config = find_decoder(model).config
        if len(masks) == 1:
            mask = next(iter(masks.values()))
        else:
            made = {
                window: sequence.visible(window).to(device) if known is None else known
                for window, known in masks.items()
            }
            mask = {kind: made[window] for kind, window in zip(config.layer_types, layer_windows(config), strict=False)}
    output = model(
        input_ids=sequence.ids.unsqueeze(0).to(device),
        position_ids=sequence.positions().unsqueeze(0).to(device) if sequence.branches else None,
        attention_mask=mask,
        use_cache=False,
        logits_to_keep=rows.to(device),
    )
    logits: torch.Tensor = output.logits[0]
    return logits


@contextmanager
def layer_inputs(model: Any, stages: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """The inputs `(1, tokens, hidden_size)` of the pruning layers, filled in by the next forward pass."""
    inputs: dict[int, torch.Tensor] = {}

    def keep(stage: int) -> Any:
        def hook(layer: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            inputs[stage] = args[0] if args else kwargs["hidden_states"]

        return hook

    layers = find_decoder(model).layers
    handles = [layers[stage].register_forward_pre_hook(keep(stage), with_kwargs=True) for stage in stages]  # type: ignore[index]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
