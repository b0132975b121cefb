"""Three replans of one agent: the first reads the whole prompt, the others only what is new.

python examples/hello_replan.py
"""

import erecap
from erecap.models import load

model, tokenizer = load("smollm2-135m-instruct", adapter="smollm2-135m-planner")  # or any causal model of transformers
session = erecap.ReplanSession(model, tokenizer)
chat = [{"role": "system", "content": "You plan for a household robot. Answer with the next commands, one a line."}]
for news in (
    "Goal: put a mug in desk 1.\nYou see a desk 1, a shelf 1, a shelf 2 and a fridge 1.",
    "> go to shelf 1\nYou arrive at shelf 1. On the shelf 1, you see a book 1.",
    "> go to shelf 2\nYou arrive at shelf 2. On the shelf 2, you see a mug 1.",
):
    chat.append({"role": "user", "content": news})
    answer = session.generate(chat, max_new_tokens=24)
    chat.append({"role": "assistant", "content": answer.text})
    read, plan = answer.usage.new_tokens, ", ".join(answer.text.split("\n"))
    print(f"{answer.usage.prompt_tokens:3} tokens in the prompt, {read:3} of them read now: {plan}")
