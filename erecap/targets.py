"""Targets of all results files: one table of figures and their required values.

Rows of `docs/results/FILE.json` take their target from here, and the tables of docs/results.md list all of them,
measured or not.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Literal

Relation = Literal[">=", "<=", ">"]
_HOLDS = {">=": operator.ge, "<=": operator.le, ">": operator.gt}
QUALITY_EPISODES = 120  # that a figure of quality needs, where its target says nothing else


@dataclass(frozen=True)
class Target:
    """A figure, and the value that it must reach."""

    file: str  # its rows lie in docs/results/FILE.json
    what: str  # in tables
    relation: Relation | None  # None: the figure is shown, and judged by nothing
    limit: float
    unit: str  # "x" for ratios, "points" for differences of percentages
    row: str | None = None  # `algorithm` or `product`: the row that is judged, where there are two
    n: int = 0  # episodes below which the figure is a smoke test

    def holds(self, measured: float) -> bool | None:
        """Return True where `measured` reaches the target, and None where there is nothing to reach."""
        return None if self.relation is None else bool(_HOLDS[self.relation](measured, self.limit))

    def __str__(self) -> str:
        return "–" if self.relation is None else f"{self.relation} {self.limit:g}"


def targets_of(file: str) -> dict[str, Target]:
    """Return the targets of one results file by id, in the order of its tables."""
    return {name: target for name, target in TARGETS.items() if target.file == file}


def _replan(what: str, relation: Relation | None, limit: float, unit: str = "x", row: str = "algorithm") -> Target:
    return Target("replan", what, relation, limit, unit, row=row)


def _quality(what: str, limit: float, unit: str = "points", n: int = QUALITY_EPISODES) -> Target:
    return Target("quality", what, ">=", limit, unit, n=n)


TARGETS: dict[str, Target] = {
    "R1a": _replan("replan after 4,000 tokens, `full` over `erecap`", ">=", 18, row="product"),
    "R1b": _replan("replan after 7,500 tokens, `full` over `erecap`", ">=", 45, row="product"),
    "R2": _replan("replan over its floor, the worst length", "<=", 1.15),
    "R3": _replan("replan after 7,500 tokens over replan after 1,000", "<=", 1.1),
    "R4": _replan("KV stored after 7,500 tokens, `erecap` over `reuse`", "<=", 0.15),
    "R5": _replan(
        "plan tokens as after a fresh read of what is kept, beyond the window minus before it, in points",
        ">=", -1, "points",
    ),
    "R6": _replan("cold prefill of 4,096 tokens at keep 0.7, share of its FLOP ceiling", ">=", 0.9),
    "R7": _replan("decoding a plan that repeats part of the old one, drafted over plain", ">=", 2.5),
    "R7-lookup": _replan("the same, over prompt lookup", ">", 1),
    "R7-suffix": _replan("the same, over suffix decoding", ">", 1),
    # Between two engines: no target. R8-plain and R8-drafted compare the two sides on one engine.
    "R8": _replan("replan after 7,500 tokens, llama.cpp with its prompt cache over `erecap`", None, 0, row="product"),
    "R11": _replan("replan beside a program that is busy on two threads, over the same alone", "<=", 2),
    "R8-plain": Target(
        "engines", "replan after 7,500 tokens, llama.cpp with its prompt cache over `erecap` on llama.cpp", ">=", 3, "x"
    ),
    "R8-drafted": Target("engines", "the same with drafts on both sides", ">=", 4, "x"),
    "R9-speed": Target(
        "engines", "eight agents of 7,500 tokens, vLLM with its prefix cache over `erecap`", ">=", 2.5, "x"
    ),
    "R9-blocks": Target("engines", "KV blocks an agent there, `erecap` over the prefix cache", "<=", 0.2, "x"),
    "R10": Target(
        "engines", "replan after 7,500 tokens over its floor, a model of 1B parameters on llama.cpp", "<=", 1.2, "x"
    ),
    "Q1a": _quality("success of the unpruned planner, single tasks in unseen rooms", 85, "%"),
    "Q1b": _quality("success of the unpruned planner, chains in unseen rooms", 65, "%"),
    "Q2-single-SR": _quality("success, `erecap` minus unpruned, single tasks", -2),
    "Q2-single-SPL": _quality("SPL, `erecap` minus unpruned, single tasks", -2),
    "Q2-chain-SR": _quality("success, `erecap` minus unpruned, chains", -2),
    "Q2-chain-SPL": _quality("SPL, `erecap` minus unpruned, chains", -2),
    "Q2-in": _quality("success, `erecap` minus unpruned, chains whose chat fits the window", -5, n=300),
    "Q2-in-auto": _quality("the same with the automatic budget", -1, n=300),
    "Q3": _quality("success or SPL on chains, `erecap` minus the best of recency, random, attention and mask", 10),
    "Q4": _quality("plan tokens with the same first choice as the unpruned model, teacher-forced", 95, "%"),
    "Q5-512": _quality("success on chains, `erecap` minus `recency`, at 512 tokens", 5),
    "Q5-2048": _quality("success on chains, `erecap` minus `recency`, at 2,048 tokens", 5),
    "Q6": _quality("a second base model, the worse of Q2-chain-SR and Q3", -2, n=60),
    "L1-sleb": Target(
        "layers", "plans that differ from the dense planner's, at equal speed-up, SPRINT over SLEB", "<=", 0.5, "x"
    ),
    "L1-blockpruner": Target("layers", "the same over BlockPruner", "<=", 0.75, "x"),
    "L2-sleb": Target("layers", "pruning time, SLEB over SPRINT", ">=", 3, "x"),
    "L2-blockpruner": Target("layers", "pruning time, BlockPruner over SPRINT", ">=", 10, "x"),
    "L3": Target("layers", "predicted over measured speed-up, the worst plan, as max(x, 1/x)", "<=", 1.05, "x"),
    "L4": Target("layers", "slicing by 20 or 30 %: (measured speed-up - 1) over (FLOP ratio - 1)", ">=", 0.7, "x"),
    "L5": Target("layers", "the controller's reward minus the best fixed action's, low end", ">", 0, "reward"),
    "P1": Target(
        "profile", "peak memory of reading 32,768 tokens over that of 4,096, `erecap`", "<=", 1.3, "x", row="algorithm"
    ),
    "X1": Target("exits", "early exit, verified: (decode speed-up - 1) over (the oracle's bound - 1)", ">=", 0.7, "x"),
    "H1": Target(
        "habitat", "success in generated houses, automatic budget minus unpruned", ">=", -2, "points", n=100
    ),
}  # fmt: skip
