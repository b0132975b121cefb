"""A LangGraph agent on a local server: one node plans, one acts, and the graph's state holds the whole history.

Nothing of this package is imported by the agent. Its model is whatever serves the OpenAI protocol at --url; behind
`erecap serve` each call reads only what is new of the history.

    pip install langgraph langchain-openai
    erecap serve --model smollm2-135m-instruct --adapter smollm2-135m-planner
    python examples/langgraph_agent.py
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from home import Home
from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.graph import END, START, MessagesState, StateGraph


def build(model: Any, home: Home, calls: int) -> Any:
    """The graph plan -> act -> plan -> ..., until the home is done or `calls` plans were made.

    Args:
        model: a chat model of LangChain.
    """

    def plan(state: MessagesState) -> dict[str, Any]:
        answer = model.invoke([SystemMessage(home.instructions), *state["messages"]])
        usage = answer.usage_metadata or {}
        cached = usage.get("input_token_details", {}).get("cache_read", 0)
        commands = ", ".join(answer.text.splitlines())
        print(f"{usage.get('input_tokens', 0):5} tokens, {cached:5} of them read before: {commands}")
        return {"messages": [answer]}

    def act(state: MessagesState) -> dict[str, Any]:
        return {"messages": [HumanMessage(home.follow(state["messages"][-1].text))]}

    def after(state: MessagesState) -> str:
        plans = sum(message.type == "ai" for message in state["messages"])
        return END if home.over or plans >= calls else "plan"

    graph = StateGraph(MessagesState)
    graph.add_node("plan", plan)
    graph.add_node("act", act)
    graph.add_edge(START, "plan")
    graph.add_edge("plan", "act")
    graph.add_conditional_edges("act", after, ["plan", END])
    return graph.compile()


def main() -> None:
    from langchain_openai import ChatOpenAI

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="of any server with the OpenAI protocol")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--suite", default="household-unseen")
    parser.add_argument("--episode", type=int, default=0)
    parser.add_argument("--calls", type=int, default=40, help="give up after so many plans")
    args = parser.parse_args()

    key = os.environ.get("OPENAI_API_KEY", "none")
    model = ChatOpenAI(base_url=args.url, api_key=key, model=args.model, temperature=0, max_tokens=64)
    home = Home(args.suite, args.episode)
    print(f"goal: {home.goal}")
    # A plan and what came of it are two steps of the graph.
    agent = build(model, home, args.calls)
    state = agent.invoke({"messages": [HumanMessage(home.first)]}, {"recursion_limit": 2 * args.calls + 2})
    print(f"{len(state['messages'])} messages in the state")
    print(f"{'solved' if home.solved else 'not solved'} after {home.steps} steps")


if __name__ == "__main__":
    main()
