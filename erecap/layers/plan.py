"""The layer plan: which sublayers, blocks, heads and channels of a model are out, and where that comes from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Numbers = tuple[int, ...]
# A weight of a decoder layer, by its name in the decoder.
TUNED = re.compile(r"layers\.(0|[1-9][0-9]*)\.((?:self_attn|mlp)\..+)")


@dataclass(frozen=True)
class Base:
    """The model that a plan was made for."""

    name: str  # for people
    hash: str  # fingerprint of its folder (`erecap.models.fingerprint`)
    adapter: str | None = None  # hash of the adapter that is merged into it


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """A change of a model's layers. Layers are numbered from 0, as the base numbers them.

    Numbers are sorted. A layer that loses its attention and its MLP is a block that is out.

    Args:
        layers: number of decoder layers of the base.
        blocks: layers that are out as a whole.
        attention, mlp: layers without that sublayer.
        heads: query heads that are out, by layer; whole KV groups, with the key and value head of each.
        channels: channels of the MLP that are out, by layer: rows of its gate and up projections, columns of the down
            projection.
        tuned: weights that replace the base's, by name (`layers.3.mlp.down_proj.weight`), in the shape that is left.
        base: the model that the plan is for; None: not compared.
        found: origin of the plan: method, calibration, seed, command.
        test: figures of the test that it passed.

    Raises:
        ValueError: a number out of range or twice, parts of what is out already, tuned weights that are no finite
            floating-point numbers, or nothing that is left.
    """

    layers: int
    blocks: Numbers = ()
    attention: Numbers = ()
    mlp: Numbers = ()
    heads: Mapping[int, Numbers] = field(default_factory=dict)
    channels: Mapping[int, Numbers] = field(default_factory=dict)
    tuned: Mapping[str, torch.Tensor] = field(default_factory=dict)
    base: Base | None = None
    found: Mapping[str, Any] = field(default_factory=dict)
    test: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in ("blocks", "attention", "mlp"):
            _set(self, part, _numbers(f"{part}", getattr(self, part), self.layers, "layers"))
        whole = sorted({*self.attention} & {*self.mlp})
        twice = sorted({*self.blocks} & {*self.attention, *self.mlp})
        if twice:
            raise ValueError(f"layer {twice[0]} is out as a block, and a sublayer of it is named as well")
        _set(self, "blocks", tuple(sorted({*self.blocks, *whole})))
        for part in ("attention", "mlp"):
            _set(self, part, tuple(number for number in getattr(self, part) if number not in whole))
        for part, sublayer in (("heads", "attention"), ("channels", "mlp")):
            _set(self, part, self._slices(part, sublayer))
        for name, tensor in self.tuned.items():
            self._check_tuned(name, tensor)
        if len({*self.blocks, *self.attention}) == self.layers:
            raise ValueError(f"no attention is left of {self.layers} layers; a plan leaves one at least")

    def _slices(self, part: str, sublayer: str) -> dict[int, Numbers]:
        found = {}
        for layer, numbers in sorted(getattr(self, part).items()):
            _numbers(part, (layer,), self.layers, "layers")
            if layer in self.blocks or layer in getattr(self, sublayer):
                raise ValueError(f"{part} of layer {layer} are named, and its {sublayer} is out")
            if numbers:
                found[layer] = _numbers(f"{part} of layer {layer}", numbers)
        return found

    def _check_tuned(self, name: str, tensor: torch.Tensor) -> None:
        match = TUNED.fullmatch(name)
        if match is None:
            raise ValueError(f"tuned weight {name!r} is none of a decoder layer (layers.N.mlp.down_proj.weight)")
        layer = _numbers("tuned weights", (int(match[1]),), self.layers, "layers")[0]
        out = self.attention if match[2].startswith("self_attn") else self.mlp
        if layer in self.blocks or layer in out:
            raise ValueError(f"tuned weight {name} belongs to a sublayer that is out")
        if not tensor.is_floating_point():  # such as quantized ones, which mean nothing without their scale
            raise ValueError(f"tuned weight {name} holds {tensor.dtype}; allowed: floating-point numbers")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"tuned weight {name} holds values that are not finite")

    @property
    def kept(self) -> Numbers:
        """Layers that are left, wholly or in part."""
        return tuple(number for number in range(self.layers) if number not in self.blocks)

    @property
    def sublayers(self) -> int:
        """Attentions and MLPs that are out, those of blocks among them."""
        return 2 * len(self.blocks) + len(self.attention) + len(self.mlp)

    def structure(self) -> dict[str, Any]:
        """The parts that are out, as JSON values."""
        return {
            "layers": self.layers,
            **{part: list(getattr(self, part)) for part in ("blocks", "attention", "mlp")},
            **{
                part: {str(layer): list(numbers) for layer, numbers in getattr(self, part).items()}
                for part in ("heads", "channels")
            },
        }

    def words(self) -> str:
        """The parts that are out, in one line for people."""
        parts = [
            f"{name} {', '.join(map(str, numbers))}"
            for name, numbers in (("blocks", self.blocks), ("attention", self.attention), ("mlp", self.mlp))
            if numbers
        ]
        for name, slices in (("heads", self.heads), ("channels", self.channels)):
            if slices:
                parts.append(f"{sum(map(len, slices.values()))} {name} in {len(slices)} layers")
        if self.tuned:
            parts.append(f"{len(self.tuned)} tuned weights")
        return "; ".join(parts) or "nothing"

    def digest(self) -> str:
        """SHA-256 of what the plan changes, whatever it was found by: `sha256:` and 64 hexadecimal digits."""
        import torch

        digest = hashlib.sha256(json.dumps(self.structure(), sort_keys=True).encode())
        for name, tensor in sorted(self.tuned.items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return f"sha256:{digest.hexdigest()}"


def _numbers(part: str, numbers: Sequence[int], below: int | None = None, of: str = "") -> Numbers:
    """`numbers`, sorted; each once, and from 0 to `below`."""
    wrong = next((n for n in numbers if type(n) is not int or n < 0 or (below is not None and n >= below)), None)
    if wrong is not None:
        allowed = "0 or more" if below is None else f"0 to {below - 1}, the base has {below} {of}"
        raise ValueError(f"{part}: got {wrong!r}; allowed: {allowed}")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{part}: a number is named twice; once each is allowed")
    return tuple(sorted(numbers))


def _set(plan: LayerPlan, name: str, value: Any) -> None:
    object.__setattr__(plan, name, value)
