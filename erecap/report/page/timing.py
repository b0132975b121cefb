"""Calls that are timed, their pairing across modes, and the speed-up beside its ceiling."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from functools import partial
from typing import Any

from erecap.cost.flops import Ceiling, ModelShape, attention_scorer_flops, schedule_ceiling
from erecap.report.rows import ReplanRow
from erecap.report.stats import length_bins, median, percentiles

PHASES = ("tokenize", "prefill", "prune", "decode", "other")
LENGTH_EDGES = (0, 500, 1000, 2000, 4000, 8000)  # prompt tokens
LENGTH_TOLERANCE = 0.05  # two prompts of this relative difference in length count as equally long
ALLOWANCE = 0.10  # a measured speed-up may lie this far above its ceiling before it counts as a fault

FAULT_PAIRS = 5  # a median over fewer pairs is no ground for calling a fault


def timed(calls: Sequence[ReplanRow]) -> list[ReplanRow]:
    """Calls whose times count: a model was called, and nothing else ran beside it."""
    return [call for call in calls if call.prompt_tokens > 0 and not call.contended]


def phase_ms(call: ReplanRow) -> dict[str, float]:
    """Milliseconds of one call by phase; they add up to its total. Prefill is without its share of
    pruning.
    """
    named = {
        "tokenize": call.tokenize_ms,
        "prefill": max(0.0, call.prefill_ms - call.prune_ms),
        "prune": call.prune_ms,
        "decode": call.decode_ms,
    }
    return named | {"other": max(0.0, call.total_ms - sum(named.values()))}


def latency(calls: Sequence[ReplanRow]) -> dict[str, Any]:
    """Latency of one mode in milliseconds: percentiles of the whole call and of each phase, and P50 by
    length.
    """
    usable = timed(calls)
    phases = [phase_ms(call) for call in usable]
    by_length = []
    for low, high, members in length_bins([call.prompt_tokens for call in usable], LENGTH_EDGES):
        totals = percentiles([usable[index].total_ms for index in members])
        prefills = percentiles([usable[index].prefill_ms for index in members])
        by_length.append({"from": low, "below": high, "total_ms": totals, "prefill_ms": prefills})
    return {
        "calls": len(usable),
        "contended_calls": sum(call.contended for call in calls),
        "total_ms": percentiles([call.total_ms for call in usable]),
        "prefill_ms": percentiles([call.prefill_ms for call in usable]),
        "phases": {name: percentiles([phase[name] for phase in phases]) for name in PHASES},
        "by_length": by_length,
    }


def pair_by_length(baseline: Sequence[ReplanRow], other: Sequence[ReplanRow]) -> list[tuple[ReplanRow, ReplanRow]]:
    """For each call of `other`, the call of `baseline` in the same suite whose prompt is nearest in length.

    After the first call the modes go their own ways, so the same number of call seldom means the same
    prompt; what decides the time of a prefill is its length. The call of the same episode wins a tie.
    Calls without a partner within 5 % are left out.
    """
    by_suite: dict[str, list[ReplanRow]] = {}
    for call in sorted(baseline, key=_length):
        by_suite.setdefault(call.suite, []).append(call)
    pairs = []
    for call in other:
        candidates = by_suite.get(call.suite, [])
        reach = LENGTH_TOLERANCE * call.prompt_tokens
        first = bisect.bisect_left(candidates, call.prompt_tokens - reach, key=_length)
        last = bisect.bisect_right(candidates, call.prompt_tokens + reach, key=_length)
        if first < last:
            pairs.append((min(candidates[first:last], key=partial(_distance, call)), call))
    return pairs


def _length(call: ReplanRow) -> int:
    return call.prompt_tokens


def _distance(call: ReplanRow, partner: ReplanRow) -> tuple[int, bool, int]:
    gap = abs(partner.prompt_tokens - call.prompt_tokens)
    return gap, partner.episode != call.episode, abs(partner.replan - call.replan)


def ceiling_of(shape: ModelShape, mode: str, baseline: ReplanRow, call: ReplanRow) -> Ceiling:
    """The ceiling of one pair of calls, from the tokens that each layer of each really read."""
    scorer = attention_scorer_flops(shape, call.kept_per_layer) if mode == "prune[attention]" else 0.0
    return schedule_ceiling(shape, call.kept_per_layer, baseline.kept_per_layer, scorer)


def speed_up(
    shape: ModelShape | None, mode: str, session: bool, baseline: Sequence[ReplanRow], other: Sequence[ReplanRow]
) -> dict[str, Any]:
    """Prefill speed-up of `mode` over the baseline beside what its token counts allow; medians over pairs
    of calls.

    Only calls that read their whole prompt take part. In session modes it is the calls that reused something; for
    those no ceiling is given, since they do not read what the baseline reads. `fault` is set where the measured
    figure lies more than 10 % above the ceiling. The allowance is for the timer's noise, and for linear and
    attention parts that do not run at the same FLOP/s.

    Args:
        session: the mode keeps keys and values between calls.
    """
    pairs = pair_by_length(
        [call for call in timed(baseline) if _reads_all(call)],
        [call for call in timed(other) if _reads_all(call) != session],
    )
    ceilings = [ceiling_of(shape, mode, first, second) for first, second in pairs] if shape and not session else []
    measured = [first.prefill_ms / second.prefill_ms for first, second in pairs]
    shares = [ratio / ceiling.total for ratio, ceiling in zip(measured, ceilings, strict=bool(ceilings))]
    share = median(shares)
    return {
        "pairs": len(pairs),
        "prompt_tokens": median([second.prompt_tokens for _, second in pairs]),
        "linear": median([ceiling.linear for ceiling in ceilings]),
        "attention": median([ceiling.attention for ceiling in ceilings]),
        "total": median([ceiling.total for ceiling in ceilings]),
        "prefill_speed_up": median(measured),
        "replan_speed_up": median([first.total_ms / second.total_ms for first, second in pairs]),
        "share_of_ceiling": share,
        "allowance": ALLOWANCE,
        "fault": share is not None and len(pairs) >= FAULT_PAIRS and share > 1 + ALLOWANCE,
    }


def _reads_all(call: ReplanRow) -> bool:
    return bool(call.kept_per_layer) and call.reused_tokens == 0 and call.prefill_ms > 0 and call.total_ms > 0
