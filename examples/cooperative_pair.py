"""Two robots that share one context: what one has seen the other need not look for, nor read again.

Red and Blue relieve each other in one home: one works on a goal, the other on the next. Both plan with one session, so
each token of what happened is read once, whoever's turn it is, and the budget holds for both together.

    python examples/cooperative_pair.py
"""

from __future__ import annotations

import argparse
from itertools import cycle

from home import Home

import erecap
from erecap.models import load
from erecap.planners.llm import LLMPlanner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--adapter", default="smollm2-135m-planner")
    parser.add_argument("--suite", default="household-chain-demo", help="several goals, one after the other")
    parser.add_argument("--episode", type=int, default=2)
    parser.add_argument("--kv-tokens", type=int, default=1024)
    parser.add_argument("--evict-by", default="smollm2-135m-pruner", help="a trained pruner, or recency")
    parser.add_argument("--calls", type=int, default=120, help="give up after so many plans")
    args = parser.parse_args()

    model, tokenizer = load(args.model, adapter=args.adapter or None)
    budget = erecap.Budget(kv_tokens=args.kv_tokens)
    shared = erecap.ReplanSession(model, tokenizer, budget=budget, evict_by=args.evict_by)
    home, robots = Home(args.suite, args.episode), cycle(["Red", "Blue"])
    planner = LLMPlanner(shared, stuck_after=1)
    robot, goal = next(robots), home.goal
    print(f"{robot} begins: {goal}")
    for _ in range(args.calls):
        plan = planner.plan(home.context)
        read, stored = plan.generation.usage.new_tokens, max(shared.cache.kept_lengths())
        print(f"  {read:4} tokens read, {stored:5} stored: {', '.join(plan.steps)}")
        home.follow(plan.text)
        if home.over:
            break
        if home.goal != goal:
            robot, goal = next(robots), home.goal
            print(f"{robot} takes over: {goal}")
    print(f"{'solved' if home.solved else 'not solved'} after {home.steps} steps")


if __name__ == "__main__":
    main()
