"""Training for early exit, as LayerSkip does it: later layers are left out at random, earlier ones name tokens.

Elhoushi et al., 2404.16710. Layer `l` of `L` is left out with a probability that rises with depth up to the given rate,
`rate * (2 ** (l / (L - 1)) - 1)`. The loss is a weighted mean of the cross-entropy after several layers, by the
model's own norm and head; the last layer always counts, and the others take turns, so that a step costs few heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from erecap.layers.decoder import find_decoder
from erecap.training.planner.model import Trainee
from erecap.training.planner.scores import batch_loss
from erecap.training.sequences import PlanSequence


class EarlyLayers:
    """Layer dropout and early-exit loss of one training.

    Args:
        trainee: the model.
        dropout: probability that the last layer is left out.
        scale: weight of early layers; 0: they have no loss of their own.
        turns: steps in which every early layer has its turn once.
    """

    def __init__(self, trainee: Trainee, dropout: float, scale: float, turns: int) -> None:
        self._trainee = trainee
        self._decoder: Any = find_decoder(trainee.model)
        self._head: Any = trainee.model.get_output_embeddings()
        self._dropout, self._scale, self._turns = dropout, scale, turns
        self._layers = len(self._decoder.layers)

    def dropped(self) -> frozenset[int]:
        """Layers to leave out in one pass, drawn with torch's generator."""
        last = max(1, self._layers - 1)
        rates = torch.tensor([self._dropout * (2 ** (layer / last) - 1) for layer in range(self._layers)])
        return frozenset((torch.rand(self._layers) < rates).nonzero()[:, 0].tolist())

    def weights(self, step: int) -> dict[int, float]:
        """Weights of the losses after each layer whose turn it is, with sum 1; the last layer is always among them."""
        last = self._layers - 1
        raw = {
            layer: self._scale * layer * (layer + 1) / 2
            for layer in range(1, last)
            if self._scale and layer % self._turns == step % self._turns
        }
        raw[last] = last + self._scale * last * (last - 1) / 2 if last else 1.0
        total = sum(raw.values())
        return {layer: weight / total for layer, weight in raw.items()}

    def loss(self, sequences: Sequence[PlanSequence], mays: Sequence[torch.Tensor | None], step: int) -> torch.Tensor:
        """As `batch_loss`, with layers left out and early layers weighted in."""
        weights = self.weights(step)
        with self._changed(self.dropped(), frozenset(weights) - {self._layers - 1}) as states:
            total = weights[self._layers - 1] * batch_loss(self._trainee, sequences, mays)
        for layer, hidden in states.items():
            total = total + weights[layer] * self._early_loss(hidden, sequences)
        return total

    def _early_loss(self, hidden: torch.Tensor, sequences: Sequence[PlanSequence]) -> torch.Tensor:
        """Summed cross-entropy of the labels from hidden states `(batch, tokens, hidden_size)`."""
        rows = [own[sequence.rows.to(own.device)] for own, sequence in zip(hidden, sequences, strict=True)]
        labels = torch.cat([sequence.labels for sequence in sequences]).to(hidden.device)
        with self._trainee.precision():
            logits = self._head(self._decoder.norm(torch.cat(rows)))
        return cross_entropy(logits.float(), labels, reduction="sum")

    @contextmanager
    def _changed(self, dropped: frozenset[int], kept: frozenset[int]) -> Iterator[dict[int, torch.Tensor]]:
        """Leave out the layers `dropped`; what is yielded gets the hidden states after each of the layers `kept`."""
        states: dict[int, torch.Tensor] = {}

        def hook(number: int) -> Any:
            def after(module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
                given = args[0] if args else kwargs["hidden_states"]
                found = output[0] if isinstance(output, tuple) else output
                hidden = given if number in dropped else found
                if number in kept:
                    states[number] = hidden
                if number not in dropped:
                    return None
                return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

            return after

        handles = [
            layer.register_forward_hook(hook(number), with_kwargs=True)
            for number, layer in enumerate(self._decoder.layers)
            if number in dropped | kept
        ]
        try:
            yield states
        finally:
            for handle in handles:
                handle.remove()
