"""Places of a model on this machine: bytes on each device, and the tokens whose keys and values fit beside them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from erecap.engines.token_bytes import bytes_per_token
from erecap.models.loading import empty_model, resolve_device, resolve_dtype
from erecap.models.locating import locate
from erecap.parallel.device_map import DISK, layers_of, resolve_device_map

GIB = 2**30


@dataclass(frozen=True)
class Place:
    """A device, and what a device map puts there."""

    device: str
    layers: tuple[int, ...]  # decoder layers whose weights lie there
    weights: int  # bytes of all weights that lie there
    free: int  # bytes that are free there now
    token: int  # bytes of one token's keys and values that are stored there

    @property
    def fits(self) -> bool:
        """True if the weights fit into what is free."""
        return self.weights <= self.free

    @property
    def tokens(self) -> int | None:
        """Tokens whose keys and values fit beside the weights; None where none are stored."""
        return max(0, self.free - self.weights) // self.token if self.token else None


@dataclass(frozen=True)
class Places:
    """All devices of a model, and the tokens of one conversation that they can store together."""

    places: tuple[Place, ...]
    window: int  # tokens that the model was made for

    @property
    def tokens(self) -> int:
        """Tokens that every device has room for."""
        return min(place.tokens for place in self.places if place.tokens is not None)

    def lines(self) -> Iterator[tuple[bool, str, str]]:
        """For each device: whether the weights fit, its name, and what lies there; then the tokens that fit."""
        for place in self.places:
            layers = f"layers {_ranges(place.layers)}, " if place.layers else ""
            yield (
                place.fits, place.device,
                f"{layers}{place.weights / GIB:.2f} GiB of weights, {place.free / GIB:.2f} GiB free",
            )  # fmt: skip
        each = sum(place.token for place in self.places)
        yield (
            self.tokens > 0, "KV",
            f"{self.tokens:,} tokens fit beside the weights, {each:,} bytes each; the window is {self.window:,}",
        )  # fmt: skip


def places_of(name: str, device_map: str, dtype: str = "auto") -> Places:
    """Where `device_map` puts a model of this machine. No weight is loaded.

    Raises:
        ConfigError, ModelError: as `erecap.models.load`.
    """
    from erecap.tokens.cache.ropes import window_of

    model = empty_model(locate(name))
    number_format = resolve_dtype(dtype, resolve_device("auto"))
    found = resolve_device_map(model, device_map, number_format)
    window = window_of(model.config.get_text_config(decoder=True))
    return Places(tuple(_places(model.to(number_format), found)), window or 0)


def _places(model: Any, found: dict[str, str]) -> Iterator[Place]:
    prefix, count = layers_of(model)
    weights: dict[str, int] = dict.fromkeys(found.values(), 0)
    layers: dict[str, list[int]] = {device: [] for device in weights}
    for name, weight in model.named_parameters():
        weights[_device_of(name, found)] += weight.numel() * weight.element_size()
    for number in range(count):
        layers[_device_of(f"{prefix}.{number}.weight", found)].append(number)
    # Offloaded layers run on the first other accelerator, or on the CPU, and store their keys and values there.
    gpus = [device for device in weights if device not in ("cpu", DISK)]
    main = gpus[0] if gpus else "cpu"
    each = bytes_per_token(model) // count
    waits = {DISK, "cpu"} if gpus else {DISK}
    for device in dict.fromkeys([*weights, main]):
        stored = [] if device in waits else layers.get(device, [])
        if device == main:
            stored = stored + [number for other in waits for number in layers.get(other, [])]
        yield Place(
            device, tuple(layers.get(device, ())), weights.get(device, 0), _free(device), each * len(stored)
        )  # fmt: skip


def _device_of(name: str, found: dict[str, str]) -> str:
    """The device of a weight: that of the longest part that holds it."""
    parts = [part for part in found if not part or name == part or name.startswith(f"{part}.")]
    return found[max(parts, key=len)]


def _free(device: str) -> int:
    if device == DISK:
        return shutil.disk_usage(tempfile.gettempdir()).free
    if device == "cpu":
        import psutil

        return int(psutil.virtual_memory().available)
    import torch

    return int(torch.cuda.mem_get_info(torch.device(device))[0])


def _ranges(numbers: tuple[int, ...]) -> str:
    """`(0, 1, 2, 5)` as `0-2, 5`."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in found)
