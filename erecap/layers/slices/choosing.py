"""Choice of how many parts each layer loses, so that the share over the whole model is the wanted one."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from erecap.errors import ConfigError


def blocks_of(count: int, multiple: int) -> list[int]:
    """Sizes of the steps in which a layer of `count` channels can lose them, so that a multiple is left after each.

    The first step takes what is beyond a multiple.
    """
    if count < multiple:
        return [count]
    rest = count % multiple
    return [rest] * bool(rest) + [multiple] * (count // multiple)


def choose(
    costs: Mapping[int, Sequence[float]],
    sizes: Mapping[int, Sequence[int]],
    ratio: float,
    spread: str,
    what: str,
    units: str,
) -> dict[int, int]:
    """The number of parts that each layer loses, from its least important one on. Each layer keeps its last part.

    `global` takes the cheapest parts of the whole model, whichever layers have them. `uniform` takes a part of the
    layer that has lost the smallest share so far; among equal ones the cheapest. So layers of one size differ by one
    part at most.

    Args:
        costs: importance of each part, by layer, rising.
        sizes: units of each part, such as channels.
        ratio: share of all units that goes.
        what, units: the setting and its units, for the message.

    Raises:
        ConfigError: the ratio takes less than half of a part, or more than can go.
    """
    total = sum(sum(own) for own in sizes.values())
    wanted, gone = ratio * total, 0
    lost = dict.fromkeys(costs, 0)
    taken = dict.fromkeys(costs, 0)  # units

    def entry(layer: int) -> tuple[float, float, int]:
        cost = costs[layer][lost[layer]]
        return (0.0 if spread == "global" else taken[layer] / sum(sizes[layer]), cost, layer)

    smallest = min(size for own in sizes.values() for size in own)
    most = sum(sum(own[:-1]) for own in sizes.values())
    if wanted - most > smallest / 2 or not most:
        raise ConfigError(
            f"{what} {ratio:g}: each layer keeps some, so at most {most:,} of {total:,} {units} can go; "
            f"allowed: to {most / total:.3g}"
        )
    queue = [entry(layer) for layer in costs if len(costs[layer]) > 1]
    heapq.heapify(queue)
    while queue:
        layer = queue[0][-1]
        size = sizes[layer][lost[layer]]
        if abs(gone + size - wanted) >= abs(gone - wanted):
            break
        gone, taken[layer], lost[layer] = gone + size, taken[layer] + size, lost[layer] + 1
        heapq.heappop(queue)
        if lost[layer] < len(costs[layer]) - 1:
            heapq.heappush(queue, entry(layer))
    if not gone:
        least = smallest / total / 2
        raise ConfigError(f"{what} {ratio:g}: none of {total:,} {units} would go; allowed: above {least:.3g}")
    return {layer: number for layer, number in lost.items() if number}
