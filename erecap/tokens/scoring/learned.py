"""The learned pruner: one small network for each pruning layer, which scores tokens by their hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import nn

from erecap.protocols import ScoreContext


class StageHead(nn.Module):
    """`Linear(H, H/4) -> GELU -> Linear(H/4, 1)` on the normed input of a decoder layer, in float32.

    The hidden state is divided by its root mean square first. Its length grows a hundredfold from the first layers to
    the last, and the first token's a thousandfold; without this, one learning rate would not do for all layers.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, max(1, hidden_size // 4))
        self.outer = nn.Linear(max(1, hidden_size // 4), 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores `(...)` float32 of hidden states `(..., hidden_size)`."""
        hidden = hidden.to(torch.float32)
        normed = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6)
        return self.outer(nn.functional.gelu(self.inner(normed))).squeeze(-1)


class Pruner(nn.Module):
    """A head for each pruning layer.

    Args:
        hidden_size: of the model.
        stages: layers whose input is scored, rising.
        session_stage: the one whose scores rank what a session evicts; None: the last.

    Attributes:
        age_weight: by how much a session counts a token less for its age; see `ReadScorer`. Of `session_stage`'s
            scores; fitted after training, 0 before. It lies among the weights, and so in their hash.

    Raises:
        ValueError: no stages, stages that do not rise from 1 on, or a `session_stage` that is none of them.
    """

    def __init__(self, hidden_size: int, stages: Sequence[int], session_stage: int | None = None) -> None:
        super().__init__()
        stages = tuple(stages)
        if not stages or stages[0] < 1 or any(b <= a for a, b in pairwise(stages)):
            raise ValueError(f"a pruner needs stages that rise, from layer 1 on, got {stages}")
        if session_stage is not None and session_stage not in stages:
            raise ValueError(f"session stage {session_stage} is none of the pruner's stages {stages}")
        self.hidden_size = hidden_size
        self.stages = stages
        self.session_stage = stages[-1] if session_stage is None else session_stage
        self.heads = nn.ModuleDict({str(stage): StageHead(hidden_size) for stage in stages})
        self.register_buffer("age_weight", torch.zeros(()))

    def forward(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """Scores `(...)` of `hidden` `(..., hidden_size)`, the input of `layer`.

        Raises:
            ValueError: not one of the pruner's layers, or another hidden size.
        """
        if str(layer) not in self.heads:
            raise ValueError(f"the pruner was trained for layers {', '.join(self.heads)}, not for layer {layer}")
        if hidden.shape[-1] != self.hidden_size:
            raise ValueError(f"the pruner takes hidden states of {self.hidden_size}, got {hidden.shape[-1]}")
        return self.heads[str(layer)](hidden)

    def moved(self, places: Mapping[int, int], layers: int) -> Pruner:
        """A pruner with the same heads at other stages, for a model without some of its layers.

        Args:
            places: new stage of each stage.
            layers: of that model.

        Raises:
            ValueError: two stages become one, or one stands before the first layer or behind the last.
        """
        found = tuple(places[stage] for stage in self.stages)
        if found[0] < 1 or found[-1] >= layers or any(b <= a for a, b in pairwise(found)):
            raise ValueError(
                f"its stages {', '.join(map(str, self.stages))} would be {', '.join(map(str, found))} of {layers} "
                "layers; they have to rise, from 1 on"
            )
        moved = Pruner(self.hidden_size, found, places[self.session_stage])
        for stage in self.stages:
            moved.heads[str(places[stage])] = self.heads[str(stage)]
        moved.age_weight = self.age_weight
        return moved.eval()


class LearnedScorer:
    """A `Pruner` as token scorer of `PruneConfig`, and as the ranking of a `ReplanSession` (`evict_by`)."""

    needs_attention = False

    def __init__(self, pruner: Pruner) -> None:
        self.pruner = pruner.eval().requires_grad_(False)

    @property
    def layer(self) -> int:
        """The layer whose input a session scores when it reads a token."""
        return self.pruner.session_stage

    @property
    def age_weight(self) -> float:
        """The weight by which a session lowers a token's score, for each natural logarithm of its age."""
        return float(self.pruner.age_weight)

    def score(self, layer: int, hidden: torch.Tensor, ctx: ScoreContext) -> torch.Tensor:
        """Scores `(batch, tokens)` float32 from the input of `layer`, `(batch, tokens, hidden_size)`."""
        self.pruner.to(hidden.device)
        with torch.no_grad():
            return self.pruner(layer, hidden)
