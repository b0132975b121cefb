"""Kinds of planners that take text: which methods of theirs are asked, and what to wrap where these cannot be."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from erecap.wrapping.histories import is_named, is_opaque, takes_nothing
from erecap.wrapping.langchain_runnables import holds_models, is_a, is_langchain_model
from erecap.wrapping.probing import attribute

# Methods of clients, by their path from the client: of openai (and Groq, Together, ...), anthropic, Mistral, Google.
PATHS = frozenset(
    f"{front}{name}"
    for front, names in {
        "chat.completions.": ("create", "parse", "stream"),
        "beta.chat.completions.": ("create", "parse", "stream"),
        "completions.": ("create",),
        "responses.": ("create", "parse", "stream"),
        "messages.": ("create", "parse", "stream"),
        "beta.messages.": ("create", "parse", "stream"),
        "chat.": ("complete", "complete_async", "stream", "stream_async", "parse", "parse_async"),
        "models.": ("generate_content", "generate_content_stream"),
        "aio.models.": ("generate_content", "generate_content_stream"),
    }.items()
    for name in names
)
_CLIENTS = ("chat.completions", "responses.create", "messages.create", "chat.complete", "models.generate_content")

# Methods of models and of local engines. They are asked where a parameter has a name of `histories.NAMES`.
METHODS = (
    "generate", "agenerate", "generate_stream", "stream_generate",  # PARTNR, BALROG, smolagents, vLLM, Ollama
    "chat", "achat", "stream_chat", "astream_chat", "chat_stream",  # LlamaIndex, vLLM, Ollama, Cohere
    "complete", "acomplete", "stream_complete", "astream_complete",
    "chat_completion", "text_generation",  # InferenceClient
    "create_chat_completion", "create_completion",  # llama.cpp
    "completion", "acompletion",  # LiteLLM's Router
    "create", "create_stream",  # AutoGen
    "get_response", "stream_response",  # the models of openai-agents
    "forward", "aforward", "acall",  # DSPy
    "call", "respond", "query", "llm",  # crewAI, EmbodiedBench, ProAgent, LLM-Planner
    "converse", "converse_stream", "create_chat_completion_openai_v1", "__call__",
)  # fmt: skip
# Asked whatever their parameters are called. Others, such as a `create` of a factory, are left alone.
_ALWAYS = frozenset({"generate", "respond", "query", "llm", "converse", "converse_stream", "__call__"})
_LANGCHAIN = ("_generate", "_agenerate", "_stream", "_astream")  # through these go invoke, stream, batch and tools

# Where a client or a model lies in an object that is none.
_HELD = ("client", "model", "llm", "lm", "model_client", "chat_model", "_client", "_llm", "_model", "_model_client")
_AGENT = ("run", "step", "act", "run_async", "run_sync", "on_messages", "get_next_action")
_HOW = "erecap.wrap({}, keep_tokens=3000)"
_LINES = {
    "pydantic_ai.": "OpenAIProvider(openai_client=" + _HOW.format("AsyncOpenAI()") + ")",
    "agents.agent": "OpenAIChatCompletionsModel(model, openai_client=" + _HOW.format("AsyncOpenAI()") + ")",
    "autogen_agentchat.": "AssistantAgent(..., model_client=" + _HOW.format("model_client") + ")",
    "dspy.": "dspy.configure(lm=" + _HOW.format("lm") + ")",
    "langgraph.": "create_agent(" + _HOW.format("llm") + ", tools)",
    "langchain_core.": "llm = " + _HOW.format("llm"),
    "llama_index.": "FunctionAgent(llm=" + _HOW.format("llm") + ", tools=tools)",
}


def is_client(target: Any) -> bool:
    """Return True for a client with resources such as `chat.completions`."""
    known = any(_reach(target, path) is not None for path in _CLIENTS)
    return known or hasattr(attribute(target, "chat"), "completions")


def methods_of(target: Any) -> list[str]:
    """Names of the methods of an object that plan."""
    if is_langchain_model(target):
        return list(_LANGCHAIN)
    found = []
    for name in METHODS:
        method = attribute(target, name) if name != "__call__" else _called(target)
        if callable(method) and asks(name, method):
            found.append(name)
    return found


def asks(name: str, method: Any) -> bool:
    """Return True if a method of this name takes a history."""
    if name == "forward" and "messages" not in _parameters(method):  # of a torch module
        return False
    return name in METHODS and (name in _ALWAYS or is_named(method) or is_opaque(method))


def is_function(target: Any) -> bool:
    """Return True for what is called, and has no state of its own that a host would look at."""
    return inspect.isroutine(target) or isinstance(target, functools.partial)


def why_not(target: Any) -> str | None:
    """One sentence with the line that works, for what cannot be wrapped itself; None for what can be."""
    if isinstance(target, type):
        return f"{target.__name__} is a class; wrap an object of it: " + _HOW.format(f"{target.__name__}(...)")
    if takes_nothing(target) if is_function(target) else False:
        return f"{_name(target)} takes no argument, so nobody can show it a shorter history; wrap the function below it"
    if is_langchain_model(target) or holds_models(target) or is_client(target):
        return None
    held = next((name for name in _HELD if _plans(_attribute(target, name))), None)
    agent = any(callable(getattr(type(target), name, None)) for name in _AGENT)
    asked = [] if is_function(target) else methods_of(target)
    if held is not None and not asked and _is_resource(target, _attribute(target, held)):
        how = f"client = {_HOW.format('client')}"
        return f"{_name(target)} is a part of a client; wrap the client, and take the part from that: {how}"
    if held is not None and (agent or not asked) and "generate" not in asked:
        return f"{_name(target)} holds its planner in `{held}`; wrap that: agent.{held} = " + _HOW.format(
            f"agent.{held}"
        )
    named = [name for name in asked if name != "__call__" and is_named(getattr(target, name))]
    modules = [kind.__module__ + "." for kind in type(target).__mro__]
    for prefix, line in _LINES.items():
        if any(module.startswith(prefix) for module in modules) and not named:
            return f"{_name(target)} keeps its own messages; wrap the model or client below it: {line}"
    if is_a(target, "pydantic_ai.models", "Model"):
        return f"{_name(target)} has messages of its own; wrap its client: {_LINES['pydantic_ai.']}"
    return None


def _plans(held: Any) -> bool:
    """An attribute that could be wrapped itself."""
    if held is None or isinstance(held, (str, bytes, int, float, dict, list, tuple, type)) or is_function(held):
        return False
    return is_client(held) or is_langchain_model(held) or bool(set(methods_of(held)) - {"__call__"})


def _is_resource(target: Any, held: Any) -> bool:
    """A part of the client that it holds, such as `client.chat`."""
    fronts = {path.rpartition(".")[0] for path in PATHS} | {path.partition(".")[0] for path in PATHS}
    return is_client(held) and any(type(_reach(held, front)) is type(target) for front in fronts)


def _called(target: Any) -> Any:
    return target if callable(target) else None


def _parameters(method: Any) -> list[str]:
    try:
        return list(inspect.signature(method).parameters)
    except (TypeError, ValueError):
        return []


def _attribute(target: Any, name: str) -> Any:
    """An attribute of the object itself; properties are not run for it."""
    return getattr(target, "__dict__", {}).get(name)


def _reach(target: Any, path: str) -> Any:
    for name in path.split("."):
        target = attribute(target, name)
    return target


def _name(target: Any) -> str:
    return getattr(target, "__name__", None) or type(target).__name__
