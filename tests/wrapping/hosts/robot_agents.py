"""The loops of RAI and DimOS, rebuilt from their sources with the real objects of LangChain and LangGraph."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from queue import Queue
from threading import Event, RLock, Thread
from types import SimpleNamespace
from typing import Any, TypedDict

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.graph import START, StateGraph
from langgraph.prebuilt.tool_node import tools_condition
from pydantic import Field

PICTURE = "iVBORw0KGgo" * 40
SEEN = (
    "The scan of place {0} shows a table {0}, a chair {0}, a closed door and nothing else that a robot could take. " * 3
)


class Planner(BaseChatModel):
    """A chat model that plays a script: for each order of the user it calls the tools three times, then answers."""

    looked: int = 0
    shown: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[tool.name for tool in tools])

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self.shown.append(list(messages))
        number, asked, newest = len(self.shown) - 1, kwargs["tools"], messages[-1]
        if isinstance(newest, HumanMessage) and isinstance(newest.content, str):
            self.looked = 0
        # DimOS sends a picture as a message of its own, after the answer.
        if self.looked < 3:
            call = {"name": asked[self.looked % len(asked)], "args": {"place": number}, "id": f"c{number}"}
            answer = AIMessage("", tool_calls=[call])
            self.looked += 1
        else:
            answer = AIMessage(f"Done, {number}.")
        return ChatResult(generations=[ChatGeneration(message=answer)])


# RAI ------------------------------------------------------------------------------------------------------


class MultimodalTool(ToolMessage):
    """As RAI's `ToolMultimodalMessage`: its text is a list of one part."""

    def __init__(self, text: str, **fields: Any) -> None:
        super().__init__(content=[{"type": "text", "text": text}], **fields)


class MultimodalHuman(HumanMessage):
    """As RAI's `HumanMultimodalMessage`, which brings the pictures of a tool."""

    images: list[str] = Field(default_factory=list)
    tool_call_id: str = ""

    def __init__(self, text: str = "", **fields: Any) -> None:
        urls = [f"data:image/png;base64,{image}" for image in fields.get("images", [])]
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        super().__init__(**{"content": [{"type": "text", "text": text}, *parts], **fields})


class State(TypedDict):
    """One list of messages, without a reducer: the nodes change it in place."""

    messages: list[BaseMessage]


def create_react_runnable(llm: Any, tools: list[BaseTool], system_prompt: str) -> Any:
    """As RAI's function of that name; a tool that returns an artifact has pictures."""
    bound = llm.bind_tools(tools)
    by_name = {tool.name: tool for tool in tools}

    def think(state: State, config: RunnableConfig) -> None:
        if not isinstance(state["messages"][0], SystemMessage):
            state["messages"].insert(0, SystemMessage(system_prompt))
        state["messages"].append(bound.invoke(state["messages"], config=config))

    def run_tools(state: State) -> State:
        outputs: list[BaseMessage] = []
        for call in state["messages"][-1].tool_calls:  # type: ignore[attr-defined]
            output = by_name[call["name"]].invoke(call)
            if output.artifact is None:
                outputs.append(output)
                continue
            told = f"Image returned by a tool call {call['id']}"
            outputs += [
                MultimodalTool(output.content, tool_call_id=call["id"], name=call["name"]),
                MultimodalHuman(told, images=output.artifact["images"], tool_call_id=call["id"]),
            ]
        outputs.sort(key=lambda message: isinstance(message, HumanMessage))
        state["messages"].extend(outputs)
        return state

    graph = StateGraph(State)
    graph.add_node("llm", think)
    graph.add_node("tools", run_tools)
    graph.add_edge(START, "llm")
    graph.add_conditional_edges("llm", tools_condition)
    graph.add_edge("tools", "llm")
    return graph.compile()


class RaiAgent:
    """As RAI's `LangChainAgent`: one state for all messages; it may be interrupted between two nodes."""

    def __init__(self, runnable: Any) -> None:
        self.agent, self.state = runnable, State(messages=[])

    def run(self, text: str, most_nodes: int | None = None) -> None:
        self.state["messages"].append(HumanMessage(text))
        for number, _ in enumerate(self.agent.stream(self.state, {"recursion_limit": 100})):
            if number + 1 == most_nodes:
                break


def look(place: int) -> str:
    """Look at a place."""
    return SEEN.format(place)


def picture(place: int) -> tuple[str, dict[str, list[str]]]:
    """Take a picture of a place."""
    return f"Picture of place {place}.", {"images": [PICTURE]}


def rai_tools() -> list[BaseTool]:
    return [
        StructuredTool.from_function(look),
        StructuredTool.from_function(picture, response_format="content_and_artifact"),
    ]


def rai_modules(model: Callable[..., Any]) -> dict[str, Any]:
    """The modules that the recipe imports; `model` is what `get_llm_model` returns."""
    return {
        "rai.agents.langchain.core": SimpleNamespace(create_react_runnable=create_react_runnable),
        "rai.initialization": SimpleNamespace(get_llm_model=model),
    }


# DimOS ----------------------------------------------------------------------------------------------------


class McpClient:
    """As DimOS's module of that name: a queue of messages, one history, and a graph of `create_agent`."""

    def __init__(self, model: Any, system_prompt: str, create_agent: Callable[..., Any]) -> None:
        self.config = SimpleNamespace(model=model, system_prompt=system_prompt)
        self._create_agent = create_agent
        self._lock, self._queue, self._history = RLock(), Queue(), []  # type: ignore[var-annotated]
        self._state_graph: Any = None
        self._stop_event = Event()
        self._thread = Thread(target=self._stop_event.wait, daemon=True)  # it would take messages from the queue

    def _fetch_tools(self) -> list[StructuredTool]:
        def take_picture(**given: Any) -> str:
            name = str(uuid.uuid4())
            item = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
            told = {"type": "text", "text": f"This is the artefact for the 'picture' tool with UUID:={name}."}
            self._queue.put(HumanMessage([told, item]))
            return f"Tool call started with UUID: {name}. You will be updated with the result soon."

        schema = {"type": "object", "properties": {"place": {"type": "integer"}}}
        seen = StructuredTool(
            name="look", description="Look at a place.", func=lambda **given: look(given["place"]), args_schema=schema
        )
        return [
            seen,
            StructuredTool(name="picture", description="A picture.", func=take_picture, args_schema=schema),
        ]

    def on_system_modules(self, _modules: Any) -> None:
        self._state_graph = self._create_agent(
            model=self.config.model, tools=self._fetch_tools(), system_prompt=self.config.system_prompt
        )

    def say(self, text: str) -> None:
        """Handle a message, and all that come of it."""
        self._queue.put(HumanMessage(text))
        while not self._queue.empty():
            self._history.append(self._queue.get())
            options = {"recursion_limit": 100}
            for update in self._state_graph.stream({"messages": self._history}, options, stream_mode="updates"):
                for output in update.values():
                    self._history += output.get("messages", [])


def dimos_modules(init_model: Callable[[Any], Any]) -> dict[str, Any]:
    """The modules that the recipe imports; `init_model` makes a model of its name."""
    return {
        "dimos.agents.mcp.mcp_client": SimpleNamespace(McpClient=McpClient, _init_model=init_model),
        "dimos.core.core": SimpleNamespace(rpc=lambda method: method),
    }
