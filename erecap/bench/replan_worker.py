"""Replanning calls in a process of its own, timed one by one when asked.

python -m erecap.bench.replan_worker reads one JSON object a line. The first says what to load and what to read; it is
answered when the session is warm. Every later line is answered with the time of one call. It ends with its input.
"""

from __future__ import annotations

import json
import os
import sys

from erecap.generation import JsonRow
from erecap.threading_policy import VARIABLES


def main() -> None:
    """The child process."""
    import torch

    from erecap.bench.replan.calls import algorithm_call, steady
    from erecap.bench.replan.replan import ReplanBench
    from erecap.config.modes import parse_mode
    from erecap.models import load

    # Libraries may write to the standard output; the answers must not be among that.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(content: JsonRow) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    request = json.loads(sys.stdin.readline())
    torch.set_num_threads(request["threads"])
    model, tokenizer = load(request["model"], request["dtype"], "cpu")
    settings = ReplanBench(plan_tokens=request["plan_tokens"], kv_tokens=request["kv_tokens"], seed=request["seed"])
    call = algorithm_call(parse_mode("erecap"), settings, model, tokenizer, request["history"], request["new"])
    call()
    with steady() as collect:
        say({"waiting": {name: os.environ[name] for name in VARIABLES if name in os.environ}})
        for _ in sys.stdin:
            collect()
            generation = call()
            say({"total_ms": generation.timing.total_ms, "plan_tokens": generation.usage.completion_tokens})


if __name__ == "__main__":
    main()
