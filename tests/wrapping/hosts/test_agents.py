"""Agents of frameworks that plan with a wrapped model or a wrapped client, in the real frameworks.

Each looks at a dozen shelves by a tool. What it sends stays within the budget; the framework notices nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest

import erecap
from tests.wrapping.scripted_server import Script, scripted

LONG = "There is a plate, and nothing else but dust and a note on it. " * 4
BUDGET = 400


@pytest.fixture
def script() -> Iterator[Script]:
    with scripted(Script()) as running:
        yield running


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")


def look(shelf: int) -> str:
    """Look at a shelf."""
    return f"Shelf {shelf}. {LONG}"


def client(script: Script) -> Any:
    bare = openai.AsyncOpenAI(api_key="none", base_url=script.url, max_retries=0)
    return erecap.wrap(bare, keep_tokens=BUDGET)


def check(script: Script, wrapped: Any, calls: int = 13) -> None:
    """All calls came, each was noted, and the chat stopped growing."""
    sizes = script.sizes()
    assert len(sizes) == calls and wrapped.log.rows == calls
    growth = sizes[1] - sizes[0]
    assert max(sizes) < sizes[0] + 0.7 * (calls - 1) * growth


def test_openai_agents_with_a_wrapped_client(script: Script) -> None:
    agents = pytest.importorskip("agents")
    wrapped = client(script)
    model = agents.OpenAIChatCompletionsModel(model="m", openai_client=wrapped)
    agent = agents.Agent(name="a", instructions="Plan.", tools=[agents.function_tool(look)], model=model)
    result = agents.Runner.run_sync(agent, "Find the mug.", max_turns=20)
    assert result.final_output == script.text
    check(script, wrapped)
    with pytest.raises(erecap.errors.ConfigError, match=r"agent\.model = erecap\.wrap\(agent\.model"):
        erecap.wrap(agent, keep_tokens=BUDGET)


def test_openai_agents_by_the_responses_api(script: Script) -> None:
    agents = pytest.importorskip("agents")
    wrapped = client(script)
    model = agents.OpenAIResponsesModel(model="m", openai_client=wrapped)
    agent = agents.Agent(name="a", instructions="Plan.", tools=[agents.function_tool(look)], model=model)
    result = agents.Runner.run_sync(agent, "Find the mug.", max_turns=20)
    assert result.final_output == script.text and set(script.paths) == {"/v1/responses"}
    check(script, wrapped)


def test_openai_agents_with_a_wrapped_model(script: Script) -> None:
    agents = pytest.importorskip("agents")
    bare = openai.AsyncOpenAI(api_key="none", base_url=script.url, max_retries=0)
    wrapped = erecap.wrap(agents.OpenAIChatCompletionsModel(model="m", openai_client=bare), keep_tokens=BUDGET)
    assert isinstance(wrapped, agents.Model)
    agent = agents.Agent(name="a", instructions="Plan.", tools=[agents.function_tool(look)], model=wrapped)
    assert agents.Runner.run_sync(agent, "Find the mug.", max_turns=20).final_output == script.text
    check(script, wrapped)


def test_pydantic_ai_with_a_wrapped_client(script: Script) -> None:
    pydantic_ai = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    wrapped = client(script)
    model = OpenAIChatModel("m", provider=OpenAIProvider(openai_client=wrapped))
    agent = pydantic_ai.Agent(model, instructions="Plan.", tools=[look])
    assert asyncio.run(agent.run("Find the mug.")).output == script.text
    check(script, wrapped)
    for whole in (agent, model):
        with pytest.raises(erecap.errors.ConfigError, match=r"OpenAIProvider\(openai_client=erecap\.wrap\("):
            erecap.wrap(whole, keep_tokens=BUDGET)


def test_autogen_with_a_wrapped_model_client(script: Script) -> None:
    pytest.importorskip("autogen_agentchat")
    from autogen_agentchat.agents import AssistantAgent
    from autogen_core.models import ChatCompletionClient
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    info: Any = {"vision": False, "function_calling": True, "json_output": False, "family": "unknown",
                 "structured_output": False}  # fmt: skip
    bare = OpenAIChatCompletionClient(model="m", base_url=script.url, api_key="none", model_info=info)
    wrapped = erecap.wrap(bare, keep_tokens=BUDGET)
    assert isinstance(wrapped, ChatCompletionClient)
    agent = AssistantAgent("a", model_client=wrapped, tools=[look], max_tool_iterations=20)
    result = asyncio.run(agent.run(task="Find the mug."))
    assert result.messages[-1].content == script.text  # type: ignore[union-attr]
    check(script, wrapped)
    with pytest.raises(erecap.errors.ConfigError, match=r"_model_client = erecap\.wrap\("):
        erecap.wrap(agent, keep_tokens=BUDGET)


def test_llama_index_with_a_wrapped_model(script: Script) -> None:
    pytest.importorskip("llama_index.llms.openai_like")
    from llama_index.core.agent.workflow import FunctionAgent
    from llama_index.core.llms import LLM, ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    bare = OpenAILike(model="m", api_base=script.url, api_key="none", is_chat_model=True,
                      is_function_calling_model=True, max_retries=0)  # fmt: skip
    wrapped = erecap.wrap(bare, keep_tokens=BUDGET)
    assert isinstance(wrapped, LLM)
    agent = FunctionAgent(tools=[look], llm=wrapped, system_prompt="Plan.")

    async def run() -> str:
        return str(await agent.run("Find the mug.", max_iterations=30))

    assert asyncio.run(run()) == script.text
    check(script, wrapped)
    messages = [ChatMessage(role="user", content="Find the mug.")]
    for turn in range(9):
        messages += [ChatMessage(role="assistant", content=f"look {turn}"), ChatMessage(role="user", content=LONG)]
    for answer in (wrapped.chat(messages), list(wrapped.stream_chat(messages))[-1]):
        assert answer.message.content == script.text and len(script.seen[-1]["messages"]) <= 19
        assert script.sizes()[-1] < 4.5 * BUDGET


def test_dspy_with_a_wrapped_lm(script: Script) -> None:
    dspy = pytest.importorskip("dspy")
    script.text = "[[ ## answer ## ]]\nshelf 11\n\n[[ ## completed ## ]]"
    bare = dspy.LM("openai/m", api_base=script.url, api_key="none", cache=False, num_retries=0)
    wrapped = erecap.wrap(bare, keep_tokens=BUDGET)
    assert isinstance(wrapped, dspy.LM)

    fields = {"history": (dspy.History, dspy.InputField()), "seen": (str, dspy.InputField()),
              "answer": (str, dspy.OutputField())}  # fmt: skip
    signature = dspy.Signature(fields, "Plan.")
    past = [{"seen": LONG, "answer": f"shelf {turn}"} for turn in range(20)]
    with dspy.context(lm=wrapped):
        predict = dspy.Predict(signature)
        for turn in range(13):
            assert predict(history=dspy.History(messages=past[:turn]), seen=LONG).answer == "shelf 11"
    check(script, wrapped)
    with pytest.raises(erecap.errors.ConfigError, match=r"dspy\.configure\(lm=erecap\.wrap\(lm"):
        erecap.wrap(predict, keep_tokens=BUDGET)


def test_smolagents_with_a_wrapped_model(script: Script) -> None:
    smolagents = pytest.importorskip("smolagents")
    bare = smolagents.OpenAIModel(model_id="m", api_base=script.url, api_key="none")
    wrapped = erecap.wrap(bare, keep_tokens=BUDGET)
    assert isinstance(wrapped, smolagents.Model)
    messages = [smolagents.ChatMessage(role="user", content=[{"type": "text", "text": "Find the mug."}])]
    for turn in range(9):
        for role, text in (("assistant", f"look {turn}"), ("user", LONG)):
            messages.append(smolagents.ChatMessage(role=role, content=[{"type": "text", "text": text}]))
    assert "".join(part.content or "" for part in wrapped.generate_stream(messages)) == script.text
    assert wrapped(messages).content == wrapped.generate(messages).content == script.text
    assert max(script.sizes()) < 4.5 * BUDGET and wrapped.log.rows == 3
    agent = smolagents.ToolCallingAgent([], wrapped, max_steps=1, verbosity_level=0)
    with pytest.raises(erecap.errors.ConfigError, match=r"agent\.model = erecap\.wrap\(agent\.model"):
        erecap.wrap(smolagents.ToolCallingAgent([], bare), keep_tokens=BUDGET)
    with pytest.raises(erecap.errors.ConfigError, match=r"agent\.model = erecap\.wrap|already wrapped"):
        erecap.wrap(agent, keep_tokens=BUDGET)


def test_litellm_by_its_functions_and_its_router(script: Script) -> None:
    litellm = pytest.importorskip("litellm")
    messages = [{"role": "user", "content": "Find the mug."}]
    for turn in range(9):
        messages += [{"role": "assistant", "content": f"look {turn}"}, {"role": "user", "content": LONG}]
    given: dict[str, Any] = {"api_base": script.url, "api_key": "none", "messages": messages}
    completion = erecap.wrap(litellm.completion, keep_tokens=BUDGET)
    assert completion(model="openai/m", **given).choices[0].message.content == script.text
    parts = [part.choices[0].delta.content or "" for part in completion(model="openai/m", stream=True, **given)]
    assert "".join(parts) == script.text and completion.log.rows == 2

    async def talk() -> str:
        acompletion = erecap.wrap(litellm.acompletion, keep_tokens=BUDGET)
        stream = await acompletion(model="openai/m", stream=True, **given)
        return "".join([part.choices[0].delta.content or "" async for part in stream])

    assert asyncio.run(talk()) == script.text
    entry = {"model_name": "m", "litellm_params": {"model": "openai/m", "api_base": script.url, "api_key": "none"}}
    router = erecap.wrap(litellm.Router(model_list=[entry]), keep_tokens=BUDGET)
    assert router.completion(model="m", messages=messages).choices[0].message.content == script.text
    assert len(script.seen) == 4 and max(script.sizes()) < 4.5 * BUDGET
