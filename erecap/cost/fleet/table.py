"""Robots that one GPU holds and serves, for several lengths of history and ways to keep it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from erecap.cost.fleet.gpu import Gpu, Served, tokens_held
from erecap.cost.fleet.simulation import Load, Outcome, Server, most_stored, simulate
from erecap.generation import JsonRow

FULL, REUSE = "full", "reuse"


@dataclass(frozen=True)
class Scale:
    """Settings of `erecap scale`.

    Raises:
        ValueError: numbers that make no sense.
    """

    histories: tuple[int, ...] = (8000, 32000, 128000)  # tokens
    kept: int = 1024  # tokens that the third way keeps
    robots: tuple[int, ...] = (1, 4, 16, 64, 256, 1000)
    new_tokens: int = 100
    plan_tokens: int = 32
    period_s: float = 10.0  # mean time that a plan is carried out
    seconds: float = 60.0  # simulated
    slo_s: float = 1.0  # that 95 % of the calls are to keep
    host_gb: float = 512.0  # 10^9 bytes of the host's memory for keys and values
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.histories or not self.robots or min(*self.histories, *self.robots, self.kept) < 1:
            raise ValueError(f"histories, robots and kept must be from 1 on, got {self}")
        for name in ("period_s", "seconds", "slo_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: got {getattr(self, name):g}; allowed: seconds above 0")
        if self.host_gb < 0:
            raise ValueError(f"host_gb: got {self.host_gb:g}; allowed: memory from 0 on")

    def load(self, way: str, history: int, robots: int) -> Load:
        """The load of so many robots whose history is kept in one of the ways."""
        return Load(
            robots, history, kept=None if way in (FULL, REUSE) else self.kept, reuse=way != FULL,
            new_tokens=self.new_tokens, plan_tokens=self.plan_tokens, period_s=self.period_s, seconds=self.seconds,
            seed=self.seed,
        )  # fmt: skip

    @property
    def ways(self) -> tuple[str, ...]:
        """Ways to keep a history: nothing, all of it, `kept` tokens."""
        return FULL, REUSE, str(self.kept)


def scale_table(
    scale: Scale, gpu: Gpu, model: Served, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Simulate every way, history and number of robots.

    Returns:
        `holds` (robots in the GPU's memory at a time, by way and history), `calls` (a row for each number of robots),
        `most` (robots up to which 95 % of the calls end in time), and what all of it rests on.

    Raises:
        ValueError: the weights do not fit.
    """
    server = Server(host_bytes=1e9 * scale.host_gb)
    calls: list[JsonRow] = []
    most: list[JsonRow] = []
    for history in scale.histories:
        for way in scale.ways:
            found: dict[int, Outcome] = {}

            def outcome(robots: int, way: str = way, history: int = history, found: dict = found) -> Outcome:
                if robots not in found:
                    found[robots] = simulate(scale.load(way, history, robots), gpu, model, server)
                return found[robots]

            for robots in scale.robots:
                calls.append({"history": history, "way": way, "robots": robots, **_shown(outcome(robots), scale)})
            number = most_robots(lambda robots: outcome(robots).p95_s <= scale.slo_s, scale.robots)
            most.append({"history": history, "way": way, "robots": number, "at_least": number == max(scale.robots)})
            say(f"history of {history:,} tokens, {way}: {number} robots")
    return {
        "gpu": asdict(gpu),
        "model": {
            **asdict(model), "parameters": model.parameters, "weight_bytes": model.weight_bytes,
            "bytes_per_token": model.bytes_per_token,
        },
        "server": asdict(server),
        "settings": asdict(scale),
        "tokens_held": tokens_held(gpu, model),
        "holds": [
            _held(scale, gpu, model, server, history, way) for history in scale.histories for way in scale.ways[1:]
        ],
        "calls": calls,
        "most": most,
    }  # fmt: skip


def most_robots(holds: Callable[[int], bool], grid: Sequence[int]) -> int:
    """The most robots for which `holds` is true, to 2 %; at most the largest number of the grid, 0 for none."""
    low, high = 0, 0
    for robots in sorted(grid):
        if not holds(robots):
            high = robots
            break
        low = robots
    while high and high - low > max(1, high // 50):
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _held(scale: Scale, gpu: Gpu, model: Served, server: Server, history: int, way: str) -> JsonRow:
    load = scale.load(way, history, 1)
    return {
        "history": history, "way": way, "stored_tokens": load.stored, "bytes": load.stored * model.bytes_per_token,
        "robots": tokens_held(gpu, model) // most_stored(load, server, again=False),
    }  # fmt: skip


def _shown(outcome: Outcome, scale: Scale) -> JsonRow:
    row = {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(outcome).items()}
    row |= {key: None for key in ("p50_s", "p95_s") if math.isinf(row[key])}  # no robot has asked
    # A call that takes longer than a plan is carried out: the queue would grow with the time that is simulated.
    row["keeps_up"] = outcome.p95_s <= scale.period_s
    return row
