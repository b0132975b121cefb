"""Calibration tokens on their way through the layers of a model, one layer after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from erecap.errors import ModelError
from erecap.layers.decoder import planned_decoder

TOGETHER = 2048  # tokens of one forward pass
Ids = Sequence[Sequence[int]]


class Calibration:
    """Texts as the layers of a model read them: the inputs of its first layer, and what every layer is called with.

    Args:
        model: in eval mode, without a layer plan.
        ids: texts as token ids.
        watch: hooks for the pass that finds this out, such as those that measure activations.

    Raises:
        ModelError: no tokens, or some that the model does not know; layers that cannot be called one by one.
    """

    def __init__(self, model: Any, ids: Ids, watch: Callable[[ExitStack], None] | None = None) -> None:
        decoder = planned_decoder(model)
        self.hidden: list[torch.Tensor] = []  # by batch
        self._calls: list[list[dict[str, Any]]] = []  # by batch, by layer
        with ExitStack() as stack, torch.no_grad():
            for number, layer in enumerate(decoder.layers):
                handle = layer.register_forward_pre_hook(self._noting(number), with_kwargs=True)
                stack.callback(handle.remove)
            if watch is not None:
                watch(stack)
            for batch in _batches(ids, model):
                self._calls.append([])
                decoder(input_ids=batch, use_cache=False)

    def _noting(self, number: int) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if len(args) != 1 and "hidden_states" not in kwargs:
                raise ModelError(f"{type(layer).__name__} is not called with hidden states alone; it cannot be fitted")
            if number == 0:
                self.hidden.append(args[0] if args else kwargs["hidden_states"])
            self._calls[-1].append({name: value for name, value in kwargs.items() if name != "hidden_states"})

        return hook

    def run(self, layer: nn.Module, number: int, hidden: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Hidden states after layer `number` of the model, each `(texts, tokens, hidden_size)`, in inference."""
        outputs = []
        with torch.no_grad():
            for states, calls in zip(hidden, self._calls, strict=True):
                output = layer(states, **calls[number])
                outputs.append(output[0] if isinstance(output, tuple) else output)
        return outputs


@contextmanager
def inputs_of(module: nn.Module, take: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Within, `take` gets every input of `module`, as rows `(tokens, in_features)`."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        take((args[0] if args else kwargs["hidden_states"]).detach().flatten(0, -2))

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def outputs_of(module: nn.Module, take: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Within, `take` gets every output of `module`, as rows `(tokens, out_features)`."""
    handle = module.register_forward_hook(lambda _, args, output: take(output.detach().flatten(0, -2)))
    try:
        yield
    finally:
        handle.remove()


def _batches(ids: Ids, model: Any) -> Iterator[torch.Tensor]:
    """Texts of one length together, `(texts, tokens)`."""
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    by_length: dict[int, list[Sequence[int]]] = {}
    for text in ids:
        wrong = next((token for token in text if not 0 <= token < vocabulary), None)
        if wrong is not None:
            raise ModelError(f"calibration: token {wrong} is not among the model's {vocabulary:,}")
        by_length.setdefault(len(text), []).append(text)
    by_length.pop(0, None)
    if not by_length:
        raise ModelError("calibration: no tokens; give texts")
    for length, texts in sorted(by_length.items()):
        most = max(1, TOGETHER // length)
        for start in range(0, len(texts), most):
            yield torch.tensor([list(text) for text in texts[start : start + most]], device=model.device)
