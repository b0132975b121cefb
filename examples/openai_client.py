"""A planner behind `erecap serve`, asked by the unchanged `openai` package: the history is sent whole, and read once.

erecap serve --model smollm2-135m-instruct --adapter smollm2-135m-planner --kv-tokens 1024
python examples/openai_client.py
"""

from __future__ import annotations

import argparse
import os

from home import Home
from openai import OpenAI


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--suite", default="household-unseen")
    parser.add_argument("--episode", type=int, default=0)
    parser.add_argument("--calls", type=int, default=40, help="give up after so many plans")
    args = parser.parse_args()

    client = OpenAI(base_url=args.url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    model = client.models.list().data[0].id
    home = Home(args.suite, args.episode)
    messages = [{"role": "system", "content": home.instructions}, {"role": "user", "content": home.first}]
    print(f"goal: {home.goal}")
    for _ in range(args.calls):
        answer = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=64)
        plan, usage = answer.choices[0].message.content or "", answer.usage
        cached = usage.prompt_tokens_details.cached_tokens
        print(f"{usage.prompt_tokens:5} tokens, {cached:5} of them read before: {', '.join(plan.splitlines())}")
        messages += [{"role": "assistant", "content": plan}, {"role": "user", "content": home.follow(plan)}]
        if home.over:
            break
    print(f"{'solved' if home.solved else 'not solved'} after {home.steps} steps")


if __name__ == "__main__":
    main()
