"""Modules for agent frameworks, in the real frameworks."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from erecap.errors import ConfigError


def test_langchain_shows_the_model_less_and_keeps_the_state_whole(tmp_path) -> None:  # type: ignore[no-untyped-def]
    langchain = pytest.importorskip("langchain.agents")
    from langchain.agents.middleware import ContextEditingMiddleware
    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_core.tools import tool

    from erecap.wrapping.langchain import CompactEdit

    seen: list[list] = []

    class Model(BaseChatModel):
        """Looks at one shelf after the other, by a tool."""

        @property
        def _llm_type(self) -> str:
            return "scripted"

        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            seen.append(list(messages))
            number = len(seen)
            calls = [{"name": "look", "args": {"shelf": number}, "id": f"c{number}"}] if number < 15 else []
            message = AIMessage(content="" if calls else "The mug is there.", tool_calls=calls)
            return ChatResult(generations=[ChatGeneration(message=message)])

    @tool
    def look(shelf: int) -> str:
        """Look at a shelf."""
        return f"You see that there is a plate {shelf}, and nothing else on the shelf {shelf}."

    edit = CompactEdit(max_tokens=120, log=tmp_path)
    agent = langchain.create_agent(Model(), [look], middleware=[ContextEditingMiddleware(edits=[edit])])
    state = agent.invoke({"messages": [{"role": "user", "content": "Find the mug."}]}, {"recursion_limit": 100})
    assert len(state["messages"]) == 30 and state["messages"][-1].content == "The mug is there."
    assert all("You see that there is a plate" in m.content for m in state["messages"] if m.type == "tool")
    assert len(seen) == 15 and len(seen[-1]) <= 29
    assert max(sum(len(m.content) for m in messages) for messages in seen) <= 120 * 4
    for messages in seen:
        called = [call["id"] for m in messages if m.type == "ai" for call in m.tool_calls]
        assert called == [m.tool_call_id for m in messages if m.type == "tool"]
    assert edit.log.rows == 15
    with pytest.raises(ConfigError, match="keep_tokens must be 1"):
        CompactEdit(0)


def test_langchains_tools_and_system_message_count(tmp_path) -> None:  # type: ignore[no-untyped-def]
    langchain = pytest.importorskip("langchain.agents")
    import json

    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_core.tools import tool

    from erecap.wrapping.langchain_agents import CompactMiddleware

    class Model(BaseChatModel):
        """Looks twelve times."""

        shown: ClassVar[list[int]] = []

        @property
        def _llm_type(self) -> str:
            return "scripted"

        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            Model.shown.append(len(messages))
            number = sum(message.type == "ai" for message in messages) and len(Model.shown)
            calls = [{"name": "look", "args": {"shelf": number}, "id": f"c{number}"}] if len(Model.shown) < 12 else []
            return ChatResult(generations=[ChatGeneration(message=AIMessage(content="There.", tool_calls=calls))])

    @tool
    def look(shelf: int) -> str:
        """Look at a shelf."""
        return f"You see a plate {shelf}, and nothing else on the shelf."

    def played(rules: str) -> list[dict]:
        Model.shown.clear()
        folder = tmp_path / str(len(rules))
        middleware = CompactMiddleware(max_tokens=810, log=folder)
        agent = langchain.create_agent(Model(), [look], system_prompt=rules, middleware=[middleware])
        agent.invoke({"messages": [{"role": "user", "content": "Find the mug."}]}, {"recursion_limit": 100})
        assert middleware.log.rows == len(Model.shown) == 12
        return [json.loads(line) for line in (folder / "replans.jsonl").read_text().splitlines()]

    short = played("Rules.")
    shown = Model.shown[-1]
    long = played("Rules of the house. " * 60)
    assert long[0]["prompt_tokens"] - short[0]["prompt_tokens"] > 250 and short[0]["prompt_tokens"] > 60
    assert max(row["kept_tokens"] for row in [*short, *long]) <= 810 and Model.shown[-1] < shown
    assert all(row["plan_tokens"] for row in long)


@pytest.mark.parametrize("kind", ["none", "small", "large"])
@pytest.mark.parametrize("rules", [None, "You are a robot."])
def test_langchains_middleware_counts_as_its_wrapped_model_does(kind: str, rules: str | None, tmp_path) -> None:  # type: ignore[no-untyped-def]
    langchain = pytest.importorskip("langchain.agents")
    import json

    from langchain_core.language_models.chat_models import BaseChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_core.tools import tool
    from langchain_core.utils.function_calling import convert_to_openai_tool

    import erecap
    from erecap.wrapping.langchain_agents import CompactMiddleware

    asked: list = []

    class Model(BaseChatModel):
        """Sends its tools as clients of the OpenAI protocol do."""

        @property
        def _llm_type(self) -> str:
            return "scripted"

        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self.bind(tools=[convert_to_openai_tool(one) for one in tools])

        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
            asked.append([message.type for message in messages])
            return ChatResult(generations=[ChatGeneration(message=AIMessage(content="There."))])

    @tool
    def look(place: str) -> str:
        """Look at a place."""
        return "nothing"

    if kind == "large":
        look.description = "word " * 800
    tools = [] if kind == "none" else [look]
    limit = 9000
    agents = {
        "wrap": (erecap.wrap(Model(), keep_tokens=limit, log=tmp_path / "wrap"), []),
        "middleware": (Model(), [CompactMiddleware(max_tokens=limit, log=tmp_path / "middleware")]),
    }
    counted = []
    for name, (model, middleware) in agents.items():
        agent = langchain.create_agent(model, tools, system_prompt=rules, middleware=middleware)
        agent.invoke({"messages": [("user", "hello there")]})
        counted.append(json.loads((tmp_path / name / "replans.jsonl").read_text())["prompt_tokens"])
    assert counted[0] == counted[1]
    # The call with the small tool takes 127 tokens on this package's server, 21 of them without it.
    least, most = {"none": (10, 40), "small": (127, 260), "large": (900, 1600)}[kind]
    assert least <= counted[0] < most
    assert asked == [[*(["system"] if rules else []), "human"]] * 2


def test_litellm_shortens_chats_and_nothing_else(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    pytest.importorskip("litellm")
    from erecap.wrapping.litellm import CompactHook

    hook = CompactHook(60)
    messages = [{"role": "user", "content": "Find the mug."}]
    for number in range(12):
        messages += [
            {"role": "assistant", "content": "look"},
            {"role": "user", "content": f"You see a plate {number}."},
        ]
    data = {"model": "m", "messages": messages, "temperature": 0}

    def asked(data: dict, kind: str) -> dict:
        return asyncio.run(hook.async_pre_call_hook(None, None, data, kind))

    shown = asked(data, "acompletion")
    assert len(shown["messages"]) < 25 and shown["temperature"] == 0 and len(data["messages"]) == 25
    assert asked(data, "embedding") is data and asked({"input": "x"}, "acompletion") == {"input": "x"}


def test_smolagents_agents_plan_with_a_wrapped_model(tmp_path) -> None:  # type: ignore[no-untyped-def]
    smolagents = pytest.importorskip("smolagents")
    from smolagents.models import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction, MessageRole

    import erecap

    class Planner(smolagents.Model):
        """Looks at one shelf after the other, then answers; by how often it was asked, whatever it was shown."""

        def __init__(self) -> None:
            super().__init__(model_id="scripted")
            self.shown: list[int] = []

        def generate(self, messages, **options) -> ChatMessage:  # type: ignore[no-untyped-def]
            self.shown.append(sum(len(str(message.content)) for message in messages))
            number = len(self.shown)
            name, given = ("look", {"shelf": number}) if number < 12 else ("final_answer", {"answer": "shelf 11"})
            call = ChatMessageToolCall(ChatMessageToolCallFunction(given, name), f"c{number}", "function")
            return ChatMessage(MessageRole.ASSISTANT, f"Step {number}.", tool_calls=[call])

    class Look(smolagents.Tool):
        name, description, output_type = "look", "Look at a shelf.", "string"
        inputs: ClassVar = {"shelf": {"type": "integer", "description": "its number"}}

        def forward(self, shelf: int) -> str:
            return f"There is a plate {shelf}, and nothing else on the shelf {shelf}. " * 4

    def played(model: Any) -> Any:
        agent = smolagents.ToolCallingAgent([Look()], model, max_steps=14, verbosity_level=0)
        return agent.run("Find the mug.")

    bare, whole, less = Planner(), Planner(), Planner()
    assert played(bare) == "shelf 11"
    assert played(erecap.wrap(whole, keep_tokens=100_000)) == "shelf 11" and whole.shown == bare.shown
    wrapped = erecap.wrap(less, keep_tokens=int(bare.shown[4] / 2.25), log=tmp_path)
    assert played(wrapped) == "shelf 11" and wrapped.log.rows == 12
    assert less.shown[:3] == bare.shown[:3] and max(less.shown) < bare.shown[-1] // 1.3
