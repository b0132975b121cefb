"""Chat models of LangChain, wrapped: every way to ask goes through the same four methods, which are shown less."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_openai")

import pydantic
from langchain.agents import create_agent
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, Runnable
from langchain_openai import AzureChatOpenAI, ChatOpenAI

import erecap
from erecap.errors import ConfigError
from erecap.wrapping.langchain import CompactEdit
from tests.wrapping.chats import chat, rows
from tests.wrapping.scripted_server import Script, scripted

CHAT = [(message["role"], message["content"]) for message in chat(12)]


class Place(pydantic.BaseModel):
    """Where the mug is."""

    shelf: int


def look(shelf: int) -> str:
    """Look at a shelf."""
    return f"A plate {shelf}, and nothing else but dust and a note. " * 5


@pytest.fixture
def script() -> Iterator[Script]:
    with scripted(Script(turns=0, text='{"shelf": 11}')) as running:
        yield running


def model(script: Script) -> ChatOpenAI:
    return ChatOpenAI(model="m", api_key="k", base_url=script.url, max_retries=0)  # type: ignore[arg-type]


async def streamed(llm: Any) -> list[Any]:
    return [part async for part in llm.astream(CHAT)]


def in_a_chain(llm: Any) -> Any:
    return (ChatPromptTemplate.from_messages([("placeholder", "{history}")]) | llm).invoke({"history": CHAT})


WAYS: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda llm: llm.invoke(CHAT),
    "ainvoke": lambda llm: asyncio.run(llm.ainvoke(CHAT)),
    "stream": lambda llm: list(llm.stream(CHAT)),
    "astream": lambda llm: asyncio.run(streamed(llm)),
    "batch": lambda llm: llm.batch([CHAT]),
    "generate": lambda llm: llm.generate([[HumanMessage("Find."), *_objects(12)]]),
    "bind": lambda llm: llm.bind(stop=["\n"]).invoke(CHAT),
    "bind_tools": lambda llm: llm.bind_tools([look]).invoke(CHAT),
    "with_structured_output": lambda llm: llm.with_structured_output(Place).invoke(CHAT),
    "with_structured_output, stream": lambda llm: list(llm.with_structured_output(Place).stream(CHAT)),
    "with_retry": lambda llm: llm.with_retry().invoke(CHAT),
    "in a chain": in_a_chain,
    "model_copy": lambda llm: llm.model_copy(update={"temperature": 0.5}).invoke(CHAT),
    "copy": lambda llm: copy.copy(llm).invoke(CHAT),
}


def _objects(turns: int) -> list[Any]:
    """Messages with a tool's call and its result."""
    found: list[Any] = []
    for turn in range(turns):
        call = {"name": "look", "args": {"shelf": turn}, "id": f"c{turn}"}
        found += [AIMessage("", tool_calls=[call]), ToolMessage(look(turn), tool_call_id=f"c{turn}")]
    return found


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_ask_is_shortened_once(way: str, script: Script, tmp_path: Path) -> None:
    bare = model(script)
    WAYS[way](bare)
    WAYS[way](erecap.wrap(bare, keep_tokens=100_000))
    wrapped = erecap.wrap(bare, keep_tokens=80, log=tmp_path)
    WAYS[way](wrapped)
    asked, whole, less = script.seen
    assert whole == asked and len(json.dumps(less["messages"])) < 0.6 * len(json.dumps(asked["messages"]))
    assert {key for key in less if key != "messages"} == {key for key in asked if key != "messages"}
    [row] = rows(tmp_path)
    assert row["decision"] == "pruned" and row["plan_tokens"] > 0
    assert isinstance(wrapped, ChatOpenAI) and isinstance(wrapped, BaseChatModel) and isinstance(wrapped, Runnable)


def test_a_model_with_tools_bound_and_an_azure_model(script: Script) -> None:
    erecap.wrap(model(script).bind_tools([look]), keep_tokens=80).invoke(CHAT)
    azure = AzureChatOpenAI(
        azure_endpoint=script.url, api_key="k", api_version="2024-10-21", azure_deployment="m", max_retries=0
    )  # type: ignore[call-arg, arg-type]
    wrapped = erecap.wrap(azure, keep_tokens=80)
    wrapped.invoke(CHAT)
    assert all(len(body["messages"]) < len(CHAT) for body in script.seen)
    assert "tools" in script.seen[0] and isinstance(wrapped, AzureChatOpenAI)


def with_fallback(llm: Any) -> Any:
    broken = ChatOpenAI(model="m", api_key="k", base_url="http://127.0.0.1:9/v1", max_retries=0)  # type: ignore[arg-type]
    return broken.with_fallbacks([llm])


RUNNABLES: dict[str, Callable[[Any], Any]] = {
    "fallbacks": with_fallback,
    "fallbacks of a binding": lambda llm: with_fallback(llm.bind(stop=["x"])),
    "fields": lambda llm: llm.configurable_fields(temperature=ConfigurableField(id="t")),
    "alternatives": lambda llm: llm.configurable_alternatives(ConfigurableField(id="m"), other=llm.bind(stop=["x"])),
    "retry of fallbacks": lambda llm: with_fallback(llm).with_retry(),
}


@pytest.mark.parametrize("kind", RUNNABLES)
@pytest.mark.parametrize("chosen", [{}, {"t": 0.5, "m": "other"}], ids=["default", "chosen"])
def test_a_runnable_that_holds_models_is_wrapped_in_each(kind: str, chosen: dict, script: Script) -> None:
    runnable = RUNNABLES[kind](model(script))
    wrapped = erecap.wrap(runnable, keep_tokens=80)
    assert type(wrapped) is type(runnable)
    for _ in range(2):
        wrapped.invoke(CHAT, config={"configurable": chosen})
    RUNNABLES[kind](erecap.wrap(model(script), keep_tokens=80)).invoke(CHAT, config={"configurable": chosen})
    assert len(script.seen) == 3 and all(len(body["messages"]) < len(CHAT) for body in script.seen)
    assert ("temperature" in script.seen[0]) == (kind == "fields" and bool(chosen))


@pytest.mark.parametrize("way", ["a function", "a chain"])
def test_a_part_that_is_no_model_is_refused_with_the_line_that_works(way: str, script: Script) -> None:
    llm = model(script)
    if way == "a function":
        runnable: Any = llm.configurable_alternatives(ConfigurableField(id="m"), other=lambda: llm)
    else:
        runnable = llm.with_fallbacks([ChatPromptTemplate.from_messages([("placeholder", "{history}")]) | llm])
    with pytest.raises(ConfigError, match=r"which is no chat model; wrap each model before: erecap\.wrap\(llm, keep_"):
        erecap.wrap(runnable, keep_tokens=80)


def test_a_model_of_another_package_without_a_stream_of_its_own() -> None:
    shown: list = []

    class Model(GenericFakeChatModel):
        def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            shown.append(messages)
            return super()._generate(messages, *args, **kwargs)

    wrapped = erecap.wrap(Model(messages=iter([AIMessage("go")] * 9)), keep_tokens=80)
    assert wrapped.invoke(CHAT).content == asyncio.run(wrapped.ainvoke(CHAT)).content == "go"
    assert [len(messages) for messages in shown] == [len(shown[0])] * 2 and len(shown[0]) < len(CHAT)


def test_an_agent_with_a_wrapped_model(tmp_path: Path) -> None:
    with scripted(Script(turns=12)) as script:
        wrapped = erecap.wrap(model(script), keep_tokens=300, log=tmp_path)
        agent = create_agent(wrapped, [look], system_prompt="Plan.")
        state = agent.invoke({"messages": [HumanMessage("Find the mug.")]}, {"recursion_limit": 60})
        assert state["messages"][-1].content == script.text and len(state["messages"]) == 26
        sizes = script.sizes()
        assert len(sizes) == 13 == len(rows(tmp_path)) and max(sizes) < sizes[0] + 0.7 * 12 * (sizes[1] - sizes[0])
        chain = ChatPromptTemplate.from_messages([("user", "{x}")]) | wrapped
        for whole, line in ((agent, "create_agent(erecap.wrap(llm"), (chain, "llm = erecap.wrap(llm")):
            with pytest.raises(ConfigError, match=re.escape(f"{line}, keep_tokens=3000)")):
                erecap.wrap(whole, keep_tokens=300)


def test_copies_and_pickles_of_models_stay_wrapped(tmp_path: Path) -> None:
    bare = GenericFakeChatModel(messages=iter([]))
    wrapped = erecap.wrap(bare, keep_tokens=80, log=tmp_path)
    assert type(copy.copy(wrapped)) is not type(bare) and copy.copy(wrapped).log.folder == tmp_path
    kept = Counting(name="a")
    again = pickle.loads(pickle.dumps(erecap.wrap(kept, keep_tokens=80, log=tmp_path)))  # noqa: S301
    assert again.name == "a" and again.invoke(CHAT).content != f"{len(CHAT)} messages"
    with pytest.raises(ConfigError, match="it is already wrapped"):
        erecap.wrap(again, keep_tokens=80)


class Counting(BaseChatModel):
    """Tells how many messages it was shown."""

    @property
    def _llm_type(self) -> str:
        return "counting"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        from langchain_core.outputs import ChatGeneration, ChatResult

        return ChatResult(generations=[ChatGeneration(message=AIMessage(f"{len(messages)} messages"))])


def test_an_edit_takes_messages_of_every_kind() -> None:
    messages = [
        SystemMessage("Plan."),
        HumanMessage("goal"),
        AIMessage([{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "go"}]),
        HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "You see it."}]),
        AIMessage("", additional_kwargs={"refusal": "no"}),
        SystemMessage("A late rule."),
        HumanMessage("next"),
    ]
    given = list(messages)
    CompactEdit(4000).apply(messages)
    assert messages == given
