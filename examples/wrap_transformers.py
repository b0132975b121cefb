"""An agent's loop on a model of transformers, with one line added: the wrapped `generate` prefills only what is new.

The loop renders its whole chat at every call, as such loops do.

    python examples/wrap_transformers.py            # of each prompt, most was read before
    python examples/wrap_transformers.py --bare     # without the wrapper, for its times
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from home import Home

import erecap
from erecap.models import load


def play(model: Any, tokenizer: Any, home: Home, calls: int, stored: Callable[[], int]) -> None:
    """The loop: render the chat, generate a plan, follow it, tell what came of it.

    Args:
        stored: tokens of the conversation that the model holds already.
    """
    chat = [{"role": "system", "content": home.instructions}, {"role": "user", "content": home.first}]
    for _ in range(calls):
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        length, known, started = prompt["input_ids"].shape[1], stored(), time.perf_counter()
        made = model.generate(**prompt, max_new_tokens=64, do_sample=False)
        seconds = time.perf_counter() - started
        plan = tokenizer.decode(made[0, length:], skip_special_tokens=True)
        print(f"{length:5} tokens, {known:5} of them stored, {seconds:5.2f} s: {', '.join(plan.splitlines())}")
        chat += [{"role": "assistant", "content": plan}, {"role": "user", "content": home.follow(plan)}]
        if home.over:
            break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--adapter", default="smollm2-135m-planner")
    parser.add_argument("--suite", default="household-unseen")
    parser.add_argument("--episode", type=int, default=0)
    parser.add_argument("--calls", type=int, default=40, help="give up after so many plans")
    parser.add_argument("--bare", action="store_true")
    args = parser.parse_args()

    model, tokenizer = load(args.model, adapter=args.adapter or None)
    home = Home(args.suite, args.episode)
    print(f"goal: {home.goal}")
    if args.bare:
        play(model, tokenizer, home, args.calls, lambda: 0)
    else:
        planner = erecap.wrap(model)  # the line that is added
        play(planner, tokenizer, home, args.calls, lambda: planner.conversations.stored_tokens)
    print(f"{'solved' if home.solved else 'not solved'} after {home.steps} steps")


if __name__ == "__main__":
    main()
