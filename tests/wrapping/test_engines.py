"""Clients and engines by their shapes: every call that takes a history is shortened, or the line that works is said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

import erecap
from erecap.errors import ConfigError
from tests.wrapping.chats import chat, rows

CHAT = chat(12)
TEXT = "Find the mug.\n>" + "".join(f" look\nYou see a plate {turn}, and nothing else.\n>" for turn in range(20))
PARTS = [{"role": m["role"], "content": [{"text": m["content"]}]} for m in CHAT]


class Seen:
    """Remembers what its methods were shown."""

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def _take(self, given: Any, answer: Any = "go to shelf 1") -> Any:
        self.shown.append(given)
        return answer


class LlamaCpp(Seen):
    """As `llama_cpp.Llama`."""

    def create_chat_completion(self, messages: list, stream: bool = False, **options: Any) -> Any:
        if stream:
            return (
                iter([{"choices": [{"index": 0, "delta": {"content": "go "}}]}] * 2) if self._take(messages) else None
            )
        return self._take(messages, {"choices": [{"message": {"role": "assistant", "content": "go on"}}],
                                     "usage": {"prompt_tokens": 9, "completion_tokens": 2}})  # fmt: skip

    def create_completion(self, prompt: str, max_tokens: int = 16) -> Any:
        return self._take(prompt, {"choices": [{"text": "go on"}]})

    def __call__(self, prompt: str, max_tokens: int = 16) -> Any:
        return self.create_completion(prompt, max_tokens)

    def generate(self, tokens: list[int]) -> Any:
        self._take(tokens)
        yield from tokens


class Vllm(Seen):
    """As `vllm.LLM`."""

    def generate(self, prompts: Any, sampling_params: Any = None) -> list[Any]:
        several = prompts if isinstance(prompts, list) else [prompts]
        return self._take(prompts, [SimpleNamespace(outputs=[SimpleNamespace(text="go on")])] * len(several))

    def chat(self, messages: Any, sampling_params: Any = None) -> list[Any]:
        several = messages if isinstance(messages[0], list) else [messages]
        return self._take(messages, [SimpleNamespace(outputs=[SimpleNamespace(text="go on")])] * len(several))


class Ollama(Seen):
    """As `ollama.Client`."""

    def chat(self, model: str = "", messages: list | None = None, *, stream: bool = False) -> Any:
        answer = SimpleNamespace(message=SimpleNamespace(content="go on", tool_calls=None))
        return self._take(messages, iter([answer, answer]) if stream else answer)

    def generate(self, model: str = "", prompt: str = "", *, stream: bool = False) -> Any:
        return self._take(prompt, SimpleNamespace(response="go on"))


class AsyncOllama(Seen):
    """As `ollama.AsyncClient`: a coroutine gives the answer, or an asynchronous iterator of its parts."""

    async def chat(self, model: str = "", messages: list | None = None, *, stream: bool = False) -> Any:
        self._take(messages)

        async def parts() -> Any:
            for word in ("go ", "on"):
                yield {"message": {"content": word}}

        return parts() if stream else {"message": {"content": "go on"}}


class Inference(Seen):
    """As huggingface_hub's `InferenceClient`: its own methods, and the ways of the package `openai`."""

    def chat_completion(self, messages: list, *, model: str | None = None, stream: bool = False) -> Any:
        return self._take(messages, SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content="go"))]))

    def text_generation(self, prompt: str, *, details: bool = False) -> str:
        return self._take(prompt)

    @property
    def chat(self) -> Any:
        return SimpleNamespace(completions=SimpleNamespace(create=self.chat_completion))


class Streaming(Seen):
    """As a model of smolagents: `generate`, and `generate_stream` beside it."""

    def generate(self, messages: list, stop_sequences: list | None = None) -> Any:
        return self._take(messages)

    def generate_stream(self, messages: list, stop_sequences: list | None = None) -> Any:
        self._take(messages)
        yield from (SimpleNamespace(content=word) for word in ("go ", "on"))


class Mistral(Seen):
    """As the client of Mistral."""

    @property
    def chat(self) -> Any:
        return SimpleNamespace(complete=self._complete, stream=self._complete)

    def _complete(self, *, model: str, messages: list) -> Any:
        return self._take(messages)


class Google(Seen):
    """As the client of google-genai, whose messages have parts."""

    @property
    def models(self) -> Any:
        return SimpleNamespace(generate_content=self._generate)

    def _generate(self, *, model: str, contents: Any) -> Any:
        return self._take(contents, SimpleNamespace(text="go on"))


class Bedrock(Seen):
    """As the client of boto3, whose methods tell no parameters."""

    def converse(self, **given: Any) -> Any:
        return self._take(given["messages"], {"output": {"message": {"content": [{"text": "go on"}]}}})


class Router(Seen):
    """As LiteLLM's Router."""

    def completion(self, model: str, messages: list, **given: Any) -> Any:
        return self._take(messages)

    async def acompletion(self, model: str, messages: list, **given: Any) -> Any:
        return self._take(messages)


class Decorated(Router):
    """As LiteLLM's Router since 1.110: its methods tell no parameters, and it has the ways of the package `openai`."""

    def __init__(self) -> None:
        super().__init__()
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self.completion))

    def completion(self, *args: Any, **given: Any) -> Any:
        return super().completion(*args, **given)


GOOGLE = [{"role": m["role"].replace("assistant", "model"), "parts": [{"text": m["content"]}]} for m in CHAT]
CALLS: dict[str, tuple[Callable[[], Seen], Callable[[Any], Any], Any]] = {
    "llama.cpp chat": (LlamaCpp, lambda c: c.create_chat_completion(CHAT, temperature=0), CHAT),
    "llama.cpp stream": (LlamaCpp, lambda c: list(c.create_chat_completion(messages=CHAT, stream=True)), CHAT),
    "llama.cpp call": (LlamaCpp, lambda c: _grown(lambda text: c(text, max_tokens=4)), TEXT),
    "llama.cpp text": (LlamaCpp, lambda c: _grown(lambda text: c.create_completion(prompt=text)), TEXT),
    "vllm chat": (Vllm, lambda c: c.chat(CHAT, None), CHAT),
    "vllm generate": (Vllm, lambda c: _grown(lambda text: c.generate(text, None)), TEXT),
    "ollama chat": (Ollama, lambda c: c.chat("m", CHAT), CHAT),
    "ollama stream": (Ollama, lambda c: list(c.chat(model="m", messages=CHAT, stream=True)), CHAT),
    "ollama generate": (Ollama, lambda c: _grown(lambda text: c.generate("m", text)), TEXT),
    "ollama async": (AsyncOllama, lambda c: asyncio.run(c.chat(model="m", messages=CHAT)), CHAT),
    "ollama async stream": (AsyncOllama, lambda c: asyncio.run(_all(c)), CHAT),
    "huggingface_hub": (Inference, lambda c: c.chat_completion(CHAT), CHAT),
    "huggingface_hub as openai": (Inference, lambda c: c.chat.completions.create(messages=CHAT), CHAT),
    "huggingface_hub text": (Inference, lambda c: _grown(c.text_generation), TEXT),
    "generate": (Streaming, lambda c: c.generate(CHAT), CHAT),
    "generate_stream": (Streaming, lambda c: list(c.generate_stream(CHAT, stop_sequences=["x"])), CHAT),
    "mistral": (Mistral, lambda c: c.chat.complete(model="m", messages=CHAT), CHAT),
    "google": (Google, lambda c: c.models.generate_content(model="m", contents=GOOGLE), GOOGLE),
    "bedrock": (Bedrock, lambda c: c.converse(modelId="m", messages=PARTS), PARTS),
    "router": (Router, lambda c: c.completion("m", CHAT), CHAT),
    "router, decorated": (Decorated, lambda c: c.completion("m", CHAT), CHAT),
    "router, by name": (Decorated, lambda c: c.completion(model="m", messages=CHAT), CHAT),
    "router as openai": (Decorated, lambda c: c.chat.completions.create(model="m", messages=CHAT), CHAT),
    "router async": (Router, lambda c: asyncio.run(c.acompletion(model="m", messages=CHAT)), CHAT),
}


def _grown(call: Callable[[str], Any]) -> None:
    """Ask with a prompt that grows, as its hosts do."""
    lines = TEXT.split("\n>")
    for number in range(1, len(lines)):
        call("\n>".join(lines[:number]) + "\n>")


async def _all(client: Any) -> list[Any]:
    return [part async for part in await client.chat(model="m", messages=CHAT, stream=True)]


@pytest.mark.parametrize("name", CALLS)
def test_every_way_to_ask_is_shortened_and_noted(name: str, tmp_path: Path) -> None:
    make, call, given = CALLS[name]
    bare, whole, less = make(), make(), make()
    call(bare)
    untouched = erecap.wrap(whole, keep_tokens=100_000)
    call(untouched)
    assert whole.shown == bare.shown
    wrapped = erecap.wrap(less, keep_tokens=80, log=tmp_path)
    call(wrapped)
    assert len(json.dumps(less.shown[-1])) < 0.7 * len(json.dumps(given)) and type(less.shown[-1]) is type(given)
    noted = rows(tmp_path)
    assert len(noted) == len(less.shown) == wrapped.log.rows and noted[-1]["decision"] == "pruned"
    assert noted[-1]["plan_tokens"] > 0 and isinstance(wrapped, make)  # type: ignore[arg-type]


def test_several_prompts_at_once_are_several_conversations(tmp_path: Path) -> None:
    engine = Vllm()
    wrapped = erecap.wrap(engine, keep_tokens=80, log=tmp_path)
    assert len(wrapped.chat([CHAT, chat(1), CHAT])) == 3
    assert [len(one) for one in engine.shown[0]] == [len(engine.shown[0][0]), 4, len(engine.shown[0][0])]
    assert [row["decision"] for row in rows(tmp_path)] == ["pruned", "passed", "pruned"]
    wrapped.generate(["a prompt", "another"])
    assert engine.shown[1] == ["a prompt", "another"] and wrapped.log.rows == 5


@pytest.mark.parametrize("tokens", [[1, 2, 3], {"prompt_token_ids": [1, 2]}, [[1, 2], [3]]])
def test_token_ids_pass_and_a_warning_says_so_once(tokens: Any, tmp_path: Path) -> None:
    class Engine(Seen):
        def generate(self, prompts: Any) -> str:
            return self._take(prompts)

    engine = Engine()
    wrapped = erecap.wrap(engine, keep_tokens=80, log=tmp_path)
    with pytest.warns(UserWarning, match="has shortened none of 3 calls") as caught:
        for _ in range(6):
            assert wrapped.generate(tokens) == "go to shelf 1"
    assert len(caught) == 1 and all(shown is tokens for shown in engine.shown)
    assert {(row["decision"], row["whole_messages"]) for row in rows(tmp_path)} == {("passed", 1)}


class Azure:
    """As `AzureOpenAI`."""

    def __init__(self, seen: list) -> None:
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self._create))
        self._seen = seen

    def _create(self, *, model: str, messages: list) -> Any:
        self._seen.append(messages)
        return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content="go on", tool_calls=None))])


class Planner:
    """As PARTNR's `OpenAIChat`: it holds the client, and is asked by `generate`."""

    def __init__(self, seen: list) -> None:
        self.client = Azure(seen)

    def generate(self, prompt: str, stop: str | None = None, max_length: int | None = None) -> str:
        answer = self.client.chat.completions.create(model="m", messages=[{"role": "user", "content": prompt}])
        return answer.choices[0].message.content


class Agent:
    """An agent that holds a client and a history of its own."""

    def __init__(self, seen: list) -> None:
        self.client, self.messages = Azure(seen), list(CHAT)

    def act(self, observation: str) -> str:
        self.messages.append({"role": "user", "content": observation})
        return self.client.chat.completions.create(model="m", messages=self.messages).choices[0].message.content


class CallableAgent(Agent):
    __call__ = Agent.act


def test_a_planner_that_holds_a_client_is_asked_by_its_own_method() -> None:
    seen: list = []
    _grown(erecap.wrap(Planner(seen), keep_tokens=80).generate)
    assert len(seen[-1][0]["content"]) < 0.7 * len(TEXT)


@pytest.mark.parametrize("kind", [Agent, CallableAgent])
def test_an_agent_that_holds_a_client_is_refused_with_the_line_that_works(kind: type[Agent]) -> None:
    seen: list = []
    agent = kind(seen)
    with pytest.raises(
        ConfigError, match=r"agent\.client = erecap\.wrap\(agent\.client, keep_tokens=3000\)$"
    ) as refused:
        erecap.wrap(agent, keep_tokens=80)
    assert "\n" not in str(refused.value)
    agent.client = erecap.wrap(agent.client, keep_tokens=80)  # as it says
    assert agent.act("You see it.") == "go on" and len(seen[0]) < len(CHAT)


class Holder:
    """An agent whose model has methods of its own."""

    tools: ClassVar[list] = []

    def __init__(self) -> None:
        self.llm = Streaming()

    def run(self, task: str) -> str:
        return self.llm.generate(CHAT)


def test_other_agents_name_what_they_hold() -> None:
    with pytest.raises(ConfigError, match=r"Holder holds its planner in `llm`; wrap that: agent\.llm = erecap\.wrap\("):
        erecap.wrap(Holder(), keep_tokens=80)


def test_methods_that_call_each_other_shorten_once(tmp_path: Path) -> None:
    engine = LlamaCpp()
    wrapped = erecap.wrap(engine, keep_tokens=80, log=tmp_path)
    _grown(wrapped)  # `__call__` calls `create_completion`
    assert len(rows(tmp_path)) == len(engine.shown)


def test_a_method_of_the_class_that_asks_another_is_shortened_below() -> None:
    class Helper(Streaming):
        def plan_with(self, tools: list, past: dict) -> Any:
            return self.generate(past["all"])

    helper = Helper()
    erecap.wrap(helper, keep_tokens=80).plan_with([], {"all": CHAT})
    assert len(helper.shown[0]) < len(CHAT)


def test_methods_that_were_set_on_the_object_itself() -> None:
    shown: list = []
    engine = SimpleNamespace(generate=lambda messages: shown.append(messages) or "x", seed=1)
    wrapped = erecap.wrap(engine, keep_tokens=80)
    assert wrapped.generate(CHAT) == "x" and len(shown[0]) < len(CHAT) and wrapped.seed == 1
    wrapped.generate = lambda messages: "other"
    assert engine.generate(CHAT) == "other" == wrapped.generate(CHAT)


def test_a_log_of_the_objects_own_stays() -> None:
    class Logging(Streaming):
        def __init__(self) -> None:
            super().__init__()
            self.log = ["begun"]

    wrapped = erecap.wrap(Logging(), keep_tokens=80)
    assert wrapped.generate(CHAT) == "go to shelf 1" and wrapped.log == ["begun"]
