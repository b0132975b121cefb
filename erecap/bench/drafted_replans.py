"""Replans that repeat part of the previous plan: decoded plainly, and with verified drafts."""

from __future__ import annotations

import difflib
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from erecap.bench.decode_settings import DecodeBench
from erecap.bench.replan.calls import answer, steady
from erecap.bench.replan.ceilings import ratio
from erecap.bench.replan.history import Count, Walk
from erecap.bench.results import Figure, result_row
from erecap.budget import Budget
from erecap.decoding.linear import known_weights
from erecap.generation import Generation, JsonRow, Message
from erecap.session.session import ReplanSession

WAYS = ("plain", "drafted")
RUN = 3  # tokens in a row that make a repetition
PART = 0.25  # share of a plan's tokens in such runs from which on it counts as repeating part of the old plan


def repeated_plans(
    bench: DecodeBench, model: Any, tokenizer: Any, count: Count, say: Callable[[str], None]
) -> list[JsonRow]:
    """Raw rows of replans in a household game, every one decoded plainly and drafted, with the same weights.

    The model plans, the game answers to its commands, and it plans again: what it repeats is its own doing. Drafts
    come from its last plan and the game's answer. The plans of the story are the plain ones of the model's
    own weights.
    """
    kinds = list(dict.fromkeys(("same", bench.product_weights)))
    budget = Budget(kv_tokens=bench.kv_tokens)
    bases = {
        kind: ReplanSession(
            model, tokenizer, budget=budget, draft=False, decode_weights=known_weights(kind), seed=bench.seed
        )
        for kind in kinds
    }
    rows: list[JsonRow] = []
    with Walk(bench.seed) as walk:
        messages: list[Message] = walk.start()
        while count(messages) < bench.history:
            messages += walk.turn(100, count)
        old = ""
        for point in range(bench.points + 1):
            for base in bases.values():
                base.read(messages[:-1])
            plans: dict[tuple[str, str], str] = {}
            with steady() as collect:
                # The first plan has none before it to repeat, and warms everything up.
                for repetition in range(bench.repetitions if point else 1):
                    for kind, way in itertools.product(kinds, WAYS):
                        collect()
                        twin = bases[kind].fork()
                        twin.draft = way == "drafted"
                        generation = answer(twin, messages, bench.tokens, old or None)
                        plans[kind, way] = generation.text
                        if point:
                            same = generation.text == plans[kind, "plain"]
                            head = {"point": point, "weights": kind, "way": way, "repetition": repetition}
                            rows.append({**head, **_raw(tokenizer, generation, old), "same_text": same})
            old = plans["same", "plain"]
            say(f"replan {point} of {bench.points}: done")
            messages += [{"role": "assistant", "content": old, "protect": []}, _newest(walk.follow(old))]
    return rows


def _raw(tokenizer: Any, generation: Generation, old: str) -> JsonRow:
    return {
        "decode_ms": generation.timing.decode_ms,
        "drafted_tokens": generation.usage.drafted_tokens,
        "accepted_tokens": generation.usage.accepted_tokens,
        "repeats": repeats(tokenizer, old, generation.text),
    }


def repeats(tokenizer: Any, old: str, new: str) -> float:
    """Share of `new`'s tokens that lie in runs of at least 3 tokens which `old` has in the same order."""
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (old, new))
    blocks = difflib.SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks if block.size >= RUN) / max(1, len(second))


def repeated_summary(rows: Sequence[JsonRow], tokens: int) -> list[JsonRow]:
    """Speed-up and accepted tokens by weights, over the replans that repeat part of the previous plan.

    `speed_up` is the ratio of the sums of decode times over those replans, in the same repetition. `all_speed_up` is
    over all replans, repeating or not.
    """
    summary = []
    for kind in dict.fromkeys(row["weights"] for row in rows):
        own = [row for row in rows if row["weights"] == kind]
        points = sorted({row["point"] for row in own})
        used = [p for p in points if _one(own, p, "plain")["repeats"] >= PART]
        drafted = [_one(own, point, "drafted") for point in used]
        summary.append(
            {
                "weights": kind,
                "replans": len(points),
                "used": used,
                "repeats": statistics.mean(row["repeats"] for row in drafted) if used else None,
                "accepted_share": sum(row["accepted_tokens"] for row in drafted) / (tokens * len(used))
                if used
                else None,
                "accepted_of_drafted": (
                    sum(row["accepted_tokens"] for row in drafted) / max(1, sum(r["drafted_tokens"] for r in drafted))
                ),
                "speed_up": vars(_speed_up(own, used)) if used else None,
                "all_speed_up": vars(_speed_up(own, points)),
                "same_text": all(row["same_text"] for row in own),
            }
        )
    return summary


def repeated_rows(summary: Sequence[JsonRow], about: JsonRow) -> list[JsonRow]:
    """The row R7, for `same` weights (algorithm) and for the product's; none where no plan repeated anything."""
    rows = []
    for entry in summary:
        if entry["speed_up"] is None:
            continue
        same = entry["weights"] == "same"
        note = (
            f"{entry['weights']} weights; {len(entry['used'])} of {entry['replans']} replans repeat "
            f"{100 * entry['repeats']:.0f} % of the plan before; {100 * entry['accepted_share']:.0f} % of their "
            f"tokens were accepted drafts; over all replans {entry['all_speed_up']['value']:.2f}"
            + ("" if entry["same_text"] else "; not every drafted plan is the plain one")
        )
        figure = Figure(**entry["speed_up"])
        rows.append(result_row("R7", figure, about, row="algorithm" if same else "product", note=note))
    return rows


def _speed_up(rows: Sequence[JsonRow], points: Sequence[int]) -> Any:
    repetitions = sorted({row["repetition"] for row in rows})
    sums = {
        way: [
            sum(r["decode_ms"] for r in rows if r["point"] in points and r["way"] == way and r["repetition"] == number)
            for number in repetitions
        ]
        for way in WAYS
    }
    return ratio(sums["plain"], sums["drafted"])


def _one(rows: Sequence[JsonRow], point: int, way: str) -> JsonRow:
    return next(row for row in rows if row["point"] == point and row["way"] == way)


def _newest(message: Message) -> Message:
    return {**message, "protect": [(0, len(message["content"]))]}
