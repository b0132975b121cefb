"""Stage sets to try: regular grids, sets that a person names, and the neighbours of a set. No torch in here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from erecap.errors import ConfigError

Stages = tuple[int, ...]

PUBLISHED = (4, 3)  # start and step of the stages of SDTP: range(4, L - 2, 3)
STARTS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24)
STEPS = (1, 2, 3, 4, 5, 6, 8, 10)
COUNTS = (1, 2, 3, 4, 6, 8)  # stages of a grid that ends early; every grid is also taken whole
MOST = 1000  # stages of a set; no model has as many layers
MOVES = (-2, -1, 1, 2)  # layers that one stage is moved by


def published(layers: int) -> Stages:
    """The published stages for a model of `layers` layers; empty for a model of six layers or fewer."""
    start, step = PUBLISHED
    return tuple(range(start, layers - 2, step))


def grids(layers: int, allowed: Sequence[int] | None = None) -> list[Stages]:
    """Regular sets, whole and with their first stages only, sorted.

    Args:
        layers: decoder layers of the model; the sets are `range(start, layers - 2, step)`.
        allowed: layers that may drop tokens; then a set takes every first, second, ... of them from one of them on.
    """
    if allowed is None:
        whole_sets = [tuple(range(start, layers - 2, step)) for start in STARTS for step in STEPS]
    else:
        places = sorted(allowed)
        whole_sets = [tuple(places[start::step]) for start in range(len(places)) for step in STEPS]
    found = {whole[:count] for whole in whole_sets for count in (*COUNTS, len(whole))}
    return sorted(stages for stages in found if stages)


def spread(sets: Sequence[Stages], speed_up: Callable[[Stages], float], count: int) -> list[Stages]:
    """`count` of the sets whose speed-ups lie evenly between the least and the greatest, slowest first.

    Each is the one that comes nearest to an evenly spaced speed-up; a tie goes to fewer stages.
    """
    if count < 1 or not sets:
        return []
    left = {stages: speed_up(stages) for stages in sets}
    low, high = min(left.values()), max(left.values())
    chosen: list[Stages] = []
    for step in range(min(count, len(sets))):
        wanted = low + (high - low) * step / max(1, count - 1)
        best = min(left, key=lambda stages: (abs(left[stages] - wanted), len(stages), stages))
        chosen.append(best)
        del left[best]
    return chosen


def neighbours(stages: Stages, layers: int, allowed: Sequence[int] | None = None) -> dict[Stages, str]:
    """Sets that differ by one stage moved, dropped or added, each with what was done; always in the same order."""
    places = set(range(1, layers)) if allowed is None else set(allowed)
    found: dict[Stages, str] = {}

    def note(changed: set[int], what: str) -> None:
        if changed:
            found.setdefault(tuple(sorted(changed)), what)

    for stage in stages:
        rest = set(stages) - {stage}
        for by in MOVES:
            if stage + by in places and stage + by not in rest:
                note(rest | {stage + by}, f"moved {stage} to {stage + by}")
        note(rest, f"dropped {stage}")
    for layer in sorted(places - set(stages)):
        note({*stages, layer}, f"added {layer}")
    return found


def parse_sets(text: str) -> list[Stages]:
    """`"4,7,10; 6:28:4"` as `[(4, 7, 10), (6, 10, 14, 18, 22, 26)]`; `start:stop:step` is Python's range.

    Raises:
        ConfigError: anything else, stages that do not rise from 1 on, or a set that is empty.
    """
    found: list[Stages] = []
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        try:
            if ":" in part:
                start, stop, step = (int(number) for number in part.split(":"))
                stages = tuple(range(start, stop, step)[:MOST])
            else:
                stages = tuple(int(number) for number in part.split(","))
        except ValueError:
            stages = ()
        if not stages or stages[0] < 1 or list(stages) != sorted(set(stages)):
            raise ConfigError(
                f"--candidates: got {part!r}; allowed: rising layers from 1 on as 4,7,10 or start:stop:step as 4:28:3, "
                "sets apart by semicolons"
            )
        if stages not in found:
            found.append(stages)
    if not found:
        raise ConfigError(f"--candidates: no stage set in {text!r}; allowed: for example 4,7,10;6:28:4")
    return found


def words(stages: Stages) -> str:
    """`(4, 7, 10, 13)` as `4:14:3`, an irregular set as `4,7,8`: what `parse_sets` reads."""
    steps = {after - before for before, after in pairwise(stages)}
    if len(stages) > 3 and len(steps) == 1:
        return f"{stages[0]}:{stages[-1] + 1}:{steps.pop()}"
    return ",".join(map(str, stages))


def check_sets(sets: Sequence[Stages], layers: int, allowed: Sequence[int] | None = None) -> None:
    """Raise ConfigError if a set names a layer that the model or the scorer does not have."""
    places = set(range(1, layers)) if allowed is None else set(allowed)
    for stages in sets:
        unknown = [layer for layer in stages if layer not in places]
        if unknown:
            what = f"1 to {layers - 1}" if allowed is None else ", ".join(map(str, sorted(places)))
            raise ConfigError(f"stage at layer {unknown[0]} cannot be tried; allowed layers: {what}")
