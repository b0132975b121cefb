"""The loop of ReAct (Yao et al., arXiv:2210.03629) on household, of which only the function `llm` is wrapped.

The prompt is one string that grows by a command and what was seen, for ever. Wrapped, `llm` is shown a shorter one: the
first part and the newest exchanges stay, what was seen longest ago goes.

    python examples/react_household.py              # the embedded model, which was not trained for this prompt
    python examples/react_household.py --bare       # without the wrapper
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from home import Home

import erecap
from erecap.models import load

SHOWN = """Interact with a household to solve a task. Answer with one command after each >.

Your task is to: put a mug in desk 1.
You are in the middle of a room. Looking quickly around you, you see a desk 1, a shelf 2, and a shelf 1.
> go to shelf 1
You arrive at shelf 1. On the shelf 1, you see a book 1.
> go to shelf 2
You arrive at shelf 2. On the shelf 2, you see a mug 1.
> take mug 1 from shelf 2
You pick up the mug 1 from the shelf 2.
> go to desk 1
You arrive at desk 1. On the desk 1, you see nothing.
> move mug 1 to desk 1
You move the mug 1 to the desk 1.

"""


def local_model(model: Any, tokenizer: Any) -> Callable[..., str]:
    """`llm(prompt, stop) -> str` on a model of transformers."""

    def llm(prompt: str, stop: list[str]) -> str:
        ids = tokenizer(prompt, return_tensors="pt")
        made = model.generate(**ids, max_new_tokens=24, do_sample=False, stop_strings=stop, tokenizer=tokenizer)
        text = tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        for word in stop:
            text = text.split(word)[0]
        print(f"{ids['input_ids'].shape[1]:5} tokens:{text}")
        return text

    return llm


def play(llm: Callable[..., str], home: Home, steps: int) -> bool:
    """The loop as its authors wrote it: the model types, the home answers, and both are appended."""
    goal, seen = home.first.split("\n", 1)
    prompt = f"{SHOWN}Your task is to: {goal.removeprefix('Goal: ')}.\n{seen}\n>"
    for _ in range(steps):
        command = llm(prompt, stop=["\n"]).strip()
        prompt += f" {command}\n{home.act(command)}\n>"
        if home.over:
            break
    return home.solved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--suite", default="household-unseen")
    parser.add_argument("--episode", type=int, default=0)
    parser.add_argument("--steps", type=int, default=49)
    parser.add_argument("--keep-tokens", type=int, default=600)
    parser.add_argument("--log", help="folder for one row a call; then: erecap report FOLDER")
    parser.add_argument("--bare", action="store_true")
    args = parser.parse_args()

    model, tokenizer = load(args.model)
    llm = local_model(model, tokenizer)
    if not args.bare:
        llm = erecap.wrap(
            llm,
            keep_tokens=args.keep_tokens,
            count_tokens=lambda text: len(tokenizer(text)["input_ids"]),
            patterns="alfworld",
            log=args.log,
        )
    home = Home(args.suite, args.episode)
    print(f"goal: {home.goal}")
    print(f"{'solved' if play(llm, home, args.steps) else 'not solved'} after {home.steps} steps")


if __name__ == "__main__":
    main()
