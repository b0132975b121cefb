"""The lines of docs/robots.md in the loops of RAI and DimOS: less is shown, and the agents keep their histories."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain.agents")
pytest.importorskip("langchain_openai")

from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI

from tests.serving.conftest import Server, serve
from tests.wrapping.chats import rows
from tests.wrapping.hosts.robot_agents import (
    PICTURE,
    McpClient,
    MultimodalHuman,
    Planner,
    RaiAgent,
    create_react_runnable,
    dimos_modules,
    rai_modules,
    rai_tools,
)

__all__ = ["serve"]
PAGE = (Path(__file__).parents[3] / "docs" / "robots.md").read_text()
RULES = "You are a robot with a camera. Answer with what you did."
LIMIT = 6000


def block(kind: str, words: str) -> str:
    """The block of that kind on the page that has these words."""
    [found] = [text for text in re.findall(rf"```{kind}\n(.*?)```", PAGE, flags=re.DOTALL) if words in text]
    return str(found)


def played(code: str, modules: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, **names: Any) -> Any:
    """Run lines of the page, logs in `folder`; their names."""
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(folder)
    exec(code, names)
    return names


def pictures(messages: list[Any]) -> list[str]:
    parts = [part for message in messages if isinstance(message.content, list) for part in message.content]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def check_shown(shown: list[list[Any]], goal: str) -> None:
    """Rules first, the first goal there, the newest message there, calls and results in pairs, pictures whole."""
    for messages in shown:
        assert isinstance(messages[0], SystemMessage) and messages[0].content == RULES
        assert messages[1].content == goal
        calls = [call["id"] for message in messages if isinstance(message, AIMessage) for call in message.tool_calls]
        results = [message.tool_call_id for message in messages if isinstance(message, ToolMessage)]
        assert [one for one in calls if one in results] == results
        assert set(pictures(messages)) <= {f"data:image/png;base64,{PICTURE}"}


def rai_agent(model: Planner, folder: Path, monkeypatch: pytest.MonkeyPatch) -> RaiAgent:
    asked: list[tuple[Any, ...]] = []

    def get_llm_model(*args: Any, **options: Any) -> Planner:
        asked.append((*args, options))
        return model

    given = {"tools": rai_tools(), "system_prompt": RULES}
    names = played(block("python", "from rai."), rai_modules(get_llm_model), folder, monkeypatch, **given)
    assert asked == [("complex_model", {"streaming": True})]
    return RaiAgent(names["agent"])


def test_rai(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare, less = Planner(), Planner()
    agents = (RaiAgent(create_react_runnable(bare, rai_tools(), RULES)), rai_agent(less, tmp_path, monkeypatch))
    for agent in agents:
        for number in range(12):
            agent.run(f"Search room {number}.")
    # Whatever its model was shown, the agent's own history is whole.
    states = [[(type(m), m.content) for m in agent.state["messages"]] for agent in agents]
    assert states[0] == states[1] and len(states[0]) == 1 + 12 * (1 + 2 * 3 + 1) + len(pictures(bare.shown[-1]))
    check_shown(less.shown, "Search room 0.")
    assert [messages[-1].content for messages in less.shown] == [messages[-1].content for messages in bare.shown]
    log = rows(tmp_path / "runs" / "rai")
    assert len(log) == 48 and max(row["kept_tokens"] for row in log) <= LIMIT < max(row["prompt_tokens"] for row in log)
    assert len(bare.shown[-1]) > 1.5 * len(less.shown[-1]) and len(pictures(bare.shown[-1])) == 12
    assert 0 < len(pictures(less.shown[-1])) < 4
    brought = [m for m in less.shown[-1] if isinstance(m, MultimodalHuman)]
    assert brought and all(m.images == [PICTURE] and m.tool_call_id for m in brought)


def test_rai_interrupted_in_a_tools_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Planner()
    agent = rai_agent(model, tmp_path, monkeypatch)
    agent.run("Search room 0.", most_nodes=1)
    assert isinstance(agent.state["messages"][-1], AIMessage) and agent.state["messages"][-1].tool_calls
    agent.run("Come back.")
    shown = model.shown[1]
    assert [type(message) for message in shown] == [SystemMessage, HumanMessage, AIMessage, HumanMessage]
    assert shown == agent.state["messages"][:4]


def test_rai_asks_a_server_that_reads_each_token_once(serve: Callable[..., Server]) -> None:
    settings = tomllib.loads(block("toml", "base_url"))
    assert set(settings["vendor"].values()) == {"openai"}
    server = serve()
    url = settings["openai"]["base_url"].replace("http://127.0.0.1:8000", server.url)
    # As its `get_llm_model` makes it, and with counts; the server of the test has another model.
    options: dict[str, Any] = {"model": "tiny", "base_url": url, "api_key": "none", "max_tokens": 8, "temperature": 0}
    llm = ChatOpenAI(streaming=True, stream_usage=True, **options)
    agent = RaiAgent(create_react_runnable(llm, rai_tools()[:1], RULES))
    for number in range(4):
        agent.run(f"Search room {number}.")
    answers = [message for message in agent.state["messages"] if isinstance(message, AIMessage)]
    counts = [
        (a.usage_metadata["input_tokens"], a.usage_metadata["input_token_details"]["cache_read"]) for a in answers
    ]
    assert len(counts) >= 4 and counts[0][1] == 0
    assert all(cached >= before for (before, _), (_, cached) in pairwise(counts))


def compact_client(model: Planner, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    modules = dimos_modules(lambda name: {"scripted": model}[name])
    names = played(block("python", "from dimos."), modules, folder, monkeypatch)
    client = names["CompactMcpClient"]("scripted", RULES, create_agent)
    client.on_system_modules([])
    assert vars(client)["_thread"].is_alive()  # as DimOS names it
    client.on_system_modules([])  # modules that come later
    client._stop_event.set()
    return client


def test_dimos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare, less = Planner(), Planner()
    plain = McpClient(bare, RULES, create_agent)
    plain.on_system_modules([])
    client = compact_client(less, tmp_path, monkeypatch)
    for one in (plain, client):
        for number in range(8):
            one.say(f"Search room {number}.")

    def told(history: list[Any]) -> list[Any]:
        return [(type(m), re.sub(r"UUID:?=? ?[\w-]{36}", "", str(m.content))) for m in history]

    assert told(plain._history) == told(client._history) and len(client._history) == 8 * (1 + 2 * 3 + 1 + 2)
    assert not any(isinstance(message, RemoveMessage) for message in client._history)
    check_shown(less.shown, "Search room 0.")
    log = rows(tmp_path / "runs" / "dimos")
    assert max(row["kept_tokens"] for row in log) <= LIMIT < max(row["prompt_tokens"] for row in log)
    assert len(bare.shown[-1]) > 1.5 * len(less.shown[-1])
    assert len(pictures(bare.shown[-1])) > len(pictures(less.shown[-1])) > 0
    assert pictures(less.shown[-1][-1:]) == pictures(bare.shown[-1][-1:]) != []


def test_dimos_asks_the_server_that_the_environment_names(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = re.search(r"`export OPENAI_BASE_URL=(\S+) OPENAI_API_KEY=(\S+)`", PAGE)
    prefix = re.search(r'McpClient\.blueprint\(model="(openai:)', PAGE)
    assert line is not None and prefix is not None
    monkeypatch.setenv("OPENAI_BASE_URL", line[1].replace("http://127.0.0.1:8000", serve().url))
    monkeypatch.setenv("OPENAI_API_KEY", line[2])
    client = McpClient(init_chat_model(f"{prefix[1]}tiny", max_tokens=8, temperature=0), RULES, create_agent)
    client._fetch_tools = lambda: rai_tools()[:1]  # type: ignore[assignment, return-value]
    client.on_system_modules([])
    for number in range(4):
        client.say(f"Search room {number}.")
    answers = [message for message in client._history if isinstance(message, AIMessage)]
    cached = [answer.usage_metadata["input_token_details"]["cache_read"] for answer in answers]
    sent = [answer.usage_metadata["input_tokens"] for answer in answers]
    assert (
        len(sent) >= 4 and cached[0] == 0 and all(now >= before for before, now in zip(sent, cached[1:], strict=False))
    )
