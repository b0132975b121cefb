"""A short calibration: time what sessions do on this machine, fit a `CostModel`, and test it on other sizes."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from erecap.calibration.workload import Workload
from erecap.cost.fitting import fit_non_negative, relative_errors
from erecap.cost.model import CostModel, decode_features, edit_features, prefill_features
from erecap.decoding.linear import Weights
from erecap.decoding.short import FUSED_TOKENS
from erecap.errors import ConfigError
from erecap.tokens.cache.ropes import window_of_model

Kind = Literal["prefill", "decode", "evict", "splice"]
KINDS: tuple[Kind, ...] = ("prefill", "decode", "evict", "splice")
EDITABLE = 250  # stored tokens from which on evicting a quarter leaves system and goal alone


@dataclass(frozen=True)
class Grid:
    """Sizes that are timed, in tokens. The held-out ones are not fitted to, and share no size with the others."""

    stored: tuple[int, ...] = (3072, 1536, 768, 256, 0)
    new: tuple[int, ...] = (8, 32, 128, 160, 512)  # the longest at every other level only, since it takes longest
    passes: tuple[int, ...] = (1, 3, 9, 20, 48)
    held_out_stored: tuple[int, ...] = (2200, 1100, 500)
    held_out_new: tuple[int, ...] = (16, 64, 320)
    held_out_passes: tuple[int, ...] = (1, 2, 6, 12, 32)
    rounds: int = 5  # times that each size is timed, fewer where `seconds` are over
    least_rounds: int = 3
    seconds: float = 40.0  # no further round begins after that

    def fitted_to(self, window: int, chunk: int) -> Grid:
        """This grid for a model of `window` positions: scaled down where it would not fit.

        Raises:
            ConfigError: a window that is too short to measure anything in.
        """
        if window < 512:
            raise ConfigError(f"the model's window has {window} tokens; calibration needs one of 512 or more")
        share = min(1.0, window / 2 / max(self.stored))
        most = min(chunk, window // 4)

        def new(sizes: Sequence[int]) -> tuple[int, ...]:
            return tuple(sorted({min(size, most) for size in sizes}))

        return replace(
            self,
            stored=tuple(int(size * share) for size in self.stored),
            held_out_stored=tuple(int(size * share) for size in self.held_out_stored),
            new=new(self.new),
            held_out_new=new(self.held_out_new),
        )


@dataclass(frozen=True)
class Point:
    """One size of one kind of step, timed several times."""

    kind: Kind
    tokens: int  # read in this step; 0 for evict and splice
    kv: int  # tokens stored when it began
    held_out: bool
    ms: float  # median
    low: float
    high: float


@dataclass(frozen=True)
class KindError:
    """Relative errors of the predictions of one kind, on held-out sizes."""

    median: float
    worst: float
    points: int


@dataclass(frozen=True)
class Calibration:
    """The outcome of a calibration: fitted costs, and their errors."""

    cost: CostModel
    errors: dict[str, KindError]  # by kind
    points: tuple[Point, ...]
    rounds: int
    seconds: float
    noise: float  # median over points of (high - low) / median: what repeating a step differs by


def calibrate(
    model: Any,
    tokenizer: Any,
    *,
    decode_weights: Weights = "same",
    grid: Grid | None = None,
    processor_time: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Calibration:
    """Time a session's steps through its own code, and fit their cost.

    Sizes take turns within a round, and rounds repeat, so that a slow spell of the machine does not fall on one size;
    medians over the rounds are fitted.

    Args:
        model, tokenizer: as for `ReplanSession`.
        decode_weights: precision of the weights in decoding, as for `ReplanSession`.
        grid: sizes; None: the default ones, fitted to the model's window.
        processor_time: time prefill, decode and splice by the processor time of this process, which other programs
            disturb less. That is the time of a quiet machine only where one thread does the arithmetic on the CPU.

    Raises:
        ConfigError: a model whose window is too short, or processor time of several threads or of a GPU.
    """
    if processor_time and (model.device.type != "cpu" or torch.get_num_threads() != 1):
        got = f"{torch.get_num_threads()} threads on {model.device}"
        raise ConfigError(f"processor time tells how long a step takes with 1 thread on cpu, got {got}")
    started = time.perf_counter()
    chunk = CostModel.chunk
    window = window_of_model(model, reused=True)
    sizes = (grid or Grid()).fitted_to(window, chunk)
    stored = sorted({*sizes.stored, *sizes.held_out_stored}, reverse=True)
    say(f"reading {stored[0]} tokens")
    now = time.process_time if processor_time else time.perf_counter
    work = Workload(model, tokenizer, stored[0], now, decode_weights=decode_weights)
    times: dict[tuple[Kind, int, int, bool], list[float]] = {}
    rounds = 0
    movable = True
    timed_from = time.perf_counter()
    for round_number in range(sizes.rounds + 1):  # the first one warms up
        if round_number > sizes.least_rounds and time.perf_counter() - timed_from > sizes.seconds:
            break
        work.restart()
        gc.collect()
        for level in stored:
            work.go_to(level)
            held_out = level in sizes.held_out_stored
            if round_number == 0 and level not in (stored[0], stored[-1]):
                continue
            found: list[tuple[Kind, int, float]] = []
            every_other = not held_out and sizes.stored.index(level) % 2
            fitted = sizes.new[:-1] if every_other else sizes.new
            for new in sizes.held_out_new if held_out else fitted:
                found.append(("prefill", new, work.prefill(new)))
            for tokens in sizes.held_out_passes if held_out else sizes.passes:
                # A single token takes least, varies most in relation, and is what a plan is made of.
                times_each = 3 if tokens == 1 else 1
                found.append(("decode", tokens, statistics.median(work.read(tokens) for _ in range(times_each))))
            if work.kv >= EDITABLE:
                found.append(("evict", 0, work.evict()))
                if movable:
                    try:
                        found.append(("splice", 0, work.splice()))
                    except ValueError:
                        movable = False  # an embedding of positions that sessions do not splice either
            if round_number:
                for kind, tokens, elapsed in found:
                    times.setdefault((kind, tokens, work.kv, held_out), []).append(elapsed)
        rounds = round_number
        say(f"round {rounds} of at most {sizes.rounds}" if rounds else "warmed up")
    points = tuple(
        Point(kind, tokens, kv, held_out, statistics.median(values), min(values), max(values))
        for (kind, tokens, kv, held_out), values in times.items()
    )
    cost = fit(points, chunk)
    return Calibration(
        cost=cost,
        errors=held_out_errors(cost, points),
        points=points,
        rounds=rounds,
        seconds=time.perf_counter() - started,
        noise=statistics.median((point.high - point.low) / point.ms for point in points),
    )


def fit(points: Sequence[Point], chunk: int = CostModel.chunk, short: int = FUSED_TOKENS) -> CostModel:
    """The cost model of the points that are not held out.

    Args:
        chunk: tokens that prefill reads at once.
        short: tokens up to which a chunk is read the short way.

    Raises:
        ValueError: no points of prefill or of decode.
    """

    def chosen(kind: Kind) -> list[Point]:
        return [point for point in points if point.kind == kind and not point.held_out]

    def solve(own: Sequence[Point], features: Callable[[Point], tuple[float, ...]]) -> tuple[float, ...]:
        return fit_non_negative([features(point) for point in own], [point.ms for point in own])

    def of_chunk(point: Point) -> tuple[float, ...]:
        return prefill_features(point.tokens, point.kv)

    edits = {kind: chosen(kind) for kind in ("evict", "splice")}
    few = [point for point in chosen("prefill") if point.tokens <= short]
    many = [point for point in chosen("prefill") if point.tokens > short]
    if min(len({point.tokens for point in part}) for part in (few, many)) < 2:
        few, many = [], few + many  # one size says nothing about others: a single fit for all
    return CostModel(
        prefill=solve(many, of_chunk),
        prefill_short=solve(few, of_chunk) if few else None,
        short=short if few else 0,
        decode=solve(chosen("decode"), lambda point: decode_features(point.tokens, point.kv)),
        chunk=chunk,
        **{
            kind: solve(own, lambda point: edit_features(point.kv)) if own else (0.0, 0.0)
            for kind, own in edits.items()
        },
    )


def held_out_errors(cost: CostModel, points: Sequence[Point]) -> dict[str, KindError]:
    """Relative errors on the held-out points, by kind; kinds without such points are absent."""
    predict: dict[Kind, Callable[[Point], float]] = {
        "prefill": lambda point: cost.predict_prefill(point.tokens, point.kv),
        "decode": lambda point: cost.predict_pass(point.tokens, point.kv),
        "evict": lambda point: cost.predict_evict(point.kv),
        "splice": lambda point: cost.predict_splice(point.kv),
    }
    found: dict[str, KindError] = {}
    for kind in KINDS:
        own = [point for point in points if point.kind == kind and point.held_out]
        if own:
            errors = relative_errors([predict[kind](point) for point in own], [point.ms for point in own])
            found[kind] = KindError(statistics.median(errors), max(errors), len(errors))
    return found
