"""A LangChain agent whose state keeps the whole history, while its model is shown what fits.

pip install langchain-openai
erecap serve --model smollm2-135m-instruct --adapter smollm2-135m-planner
python examples/langchain_agent.py
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from home import Home
from langchain.agents import create_agent
from langchain.agents.middleware import ContextEditingMiddleware
from langgraph.checkpoint.memory import InMemorySaver

from erecap.wrapping.langchain import CompactEdit


def play(model: Any, home: Home, keep_tokens: int, calls: int, log: str | None = None) -> list[Any]:
    """Let `model`, a chat model of LangChain, plan until the home is done.

    Returns:
        The agent's messages: all of them, though the model was shown fewer.
    """
    edit = CompactEdit(keep_tokens, patterns="erecap", log=log)
    agent = create_agent(
        model,
        tools=[],
        system_prompt=home.instructions,
        middleware=[ContextEditingMiddleware(edits=[edit])],
        checkpointer=InMemorySaver(),
    )
    thread, news, messages = {"configurable": {"thread_id": "home"}}, home.first, []
    for _ in range(calls):
        messages = agent.invoke({"messages": [{"role": "user", "content": news}]}, thread)["messages"]
        plan = messages[-1].text
        shown = (messages[-1].usage_metadata or {}).get("input_tokens", "?")
        print(f"{len(messages):4} messages in the state, {shown} tokens shown: {', '.join(plan.splitlines())}")
        news = home.follow(plan)
        if home.over:
            break
    return messages


def main() -> None:
    from langchain_openai import ChatOpenAI

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--suite", default="household-unseen")
    parser.add_argument("--episode", type=int, default=0)
    parser.add_argument("--keep-tokens", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=40, help="give up after so many plans")
    parser.add_argument("--log", help="folder for one row a call; then: erecap report FOLDER")
    args = parser.parse_args()

    key = os.environ.get("OPENAI_API_KEY", "none")
    model = ChatOpenAI(base_url=args.url, api_key=key, model=args.model, temperature=0, max_tokens=64)
    home = Home(args.suite, args.episode)
    print(f"goal: {home.goal}")
    play(model, home, args.keep_tokens, args.calls, args.log)
    print(f"{'solved' if home.solved else 'not solved'} after {home.steps} steps")


if __name__ == "__main__":
    main()
