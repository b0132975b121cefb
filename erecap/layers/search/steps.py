"""Steps of a search: the sublayers that each one removes, the weights that it tunes, and their plan."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from erecap.layers.plan import TUNED, LayerPlan

if TYPE_CHECKING:
    import torch

Kind = Literal["attention", "mlp"]
KINDS: tuple[Kind, ...] = ("attention", "mlp")
_NAME = re.compile(r"(0|[1-9][0-9]{0,5})\.(attention|mlp)")


class Sublayer(NamedTuple):
    """The attention or the MLP of one decoder layer. Sublayers are ordered as the model runs them."""

    layer: int
    kind: Kind  # "attention" sorts before "mlp"

    def __str__(self) -> str:
        return f"{self.layer}.{self.kind}"

    @classmethod
    def parse(cls, name: str) -> Sublayer:
        """The sublayer of a name such as `12.mlp`. Raises ValueError for another text."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} is no sublayer; allowed: such as 12.attention or 12.mlp")
        return cls(int(match[1]), "mlp" if match[2] == "mlp" else "attention")


@dataclass(frozen=True)
class Step:
    """A step of a search.

    Attributes:
        removed: one sublayer, or what was left of one block.
        score: harm by which it was chosen, as the method counts it; lower is less.
        tuned: weights of the decoder that were solved anew, by name as in `LayerPlan.tuned`.
        notes: JSON values that the method needs to go on after this step.
        evaluations: changes of the model that were judged on the calibration text.
        passes: work of the step, in passes of the whole model over that text.
        seconds: time that the step took.
    """

    removed: tuple[Sublayer, ...]
    score: float
    tuned: Mapping[str, torch.Tensor] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    evaluations: int = 0
    passes: float = 0.0
    seconds: float = 0.0


def sublayers_of(layers: int) -> tuple[Sublayer, ...]:
    """All sublayers of a model of `layers` layers, in order."""
    return tuple(Sublayer(layer, kind) for layer in range(layers) for kind in KINDS)


def plan_of_steps(layers: int, steps: Sequence[Step], **about: Any) -> LayerPlan:
    """The plan that these steps lead to. Later tuned weights replace earlier ones; those of what is out go.

    Args:
        layers: decoder layers of the base.
        about: `base`, `found` and `test` of the plan.

    Raises:
        ValueError: as `LayerPlan`, such as steps that leave no attention.
    """
    out = removed_by(steps)
    tuned = {name: tensor for step in steps for name, tensor in step.tuned.items() if owner(name) not in out}
    return LayerPlan(
        layers,
        attention=tuple(sublayer.layer for sublayer in out if sublayer.kind == "attention"),
        mlp=tuple(sublayer.layer for sublayer in out if sublayer.kind == "mlp"),
        tuned=tuned,
        **about,
    )


def removed_by(steps: Iterable[Step]) -> tuple[Sublayer, ...]:
    """The sublayers that these steps remove."""
    return tuple(sublayer for step in steps for sublayer in step.removed)


def owner(name: str) -> Sublayer:
    """The sublayer of a tuned weight. Raises ValueError for the name of another weight."""
    match = TUNED.fullmatch(name)
    if match is None:
        raise ValueError(f"tuned weight {name!r} is none of a decoder layer")
    return Sublayer(int(match[1]), "attention" if match[2].startswith("self_attn.") else "mlp")
