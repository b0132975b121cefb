"""Wrapped callables are what they wrap: signature, attributes, kind, copies, pickles; and are measured to their end."""

from __future__ import annotations

import asyncio
import collections.abc
import copy
import functools
import inspect
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import erecap
from erecap.errors import ConfigError
from tests.wrapping.chats import chat, rows

CHAT = chat(9)


def plain(messages: list, temperature: float = 0.5) -> str:
    """Plan."""
    return f"{len(messages)} messages"


async def later(messages: list) -> str:
    return f"{len(messages)} messages"


def words(messages: list) -> Any:
    yield from ("go ", "to ", "shelf 1")
    return len(messages)


async def words_later(messages: list) -> Any:
    for word in ("go ", "to ", "shelf 1"):
        yield word


class Model:
    name = "lm"

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, messages: list, stop: str | None = None) -> str:
        self.seen.append(len(messages))
        return "look"

    def plan(self, messages: list) -> str:
        return f"{self.name}: {len(messages)} messages"


def compare(model: str, messages: list) -> str:
    return f"{model}: {len(messages)} messages"


def instruct(system: str, dialogue: list) -> str:
    return f"{system}: {len(dialogue)} messages"


@pytest.mark.parametrize("target", [plain, later, words, words_later, Model(), Model().plan, functools.partial(plain)])
def test_inspect_takes_it_for_what_it_wraps(target: Any) -> None:
    wrapped = erecap.wrap(target, keep_tokens=60)
    assert inspect.signature(wrapped) == inspect.signature(target)
    for question in (
        inspect.isfunction, inspect.ismethod, inspect.iscoroutinefunction, inspect.isgeneratorfunction,
        inspect.isasyncgenfunction, callable,
    ):  # fmt: skip
        assert question(wrapped) == question(target), question.__name__
    for name in ("__name__", "__doc__", "__module__", "__qualname__"):
        assert getattr(wrapped, name, None) == getattr(target, name, None)
    assert isinstance(wrapped, type(target)) and isinstance(wrapped, collections.abc.Callable)


@pytest.mark.parametrize(
    ("target", "args", "kwargs"),
    [
        (plain, (), {"messages": CHAT}),
        (plain, (CHAT, 0.1), {}),
        (compare, ("m", CHAT), {}),
        (compare, (), {"model": "m", "messages": CHAT}),
        (compare, ("m",), {"messages": CHAT}),
        (instruct, ("Plan.", CHAT), {}),
        (instruct, (), {"dialogue": CHAT, "system": "Plan."}),
        (lambda **given: f"{len(given['messages'])} messages", (), {"model": "m", "messages": CHAT}),
        (lambda *given: f"{len(given[1])} messages", ("m", CHAT), {}),
    ],
)
def test_the_history_is_found_wherever_it_stands(target: Any, args: tuple, kwargs: dict) -> None:
    said = erecap.wrap(target, keep_tokens=60)(*args, **kwargs)
    assert said.endswith(" messages") and said != target(*args, **kwargs)


class Truthless:
    """As arrays and tensors: neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("the truth value is ambiguous")


@pytest.mark.parametrize("beside", [np.zeros((2, 2)), torch.zeros(2, 2), Truthless()], ids=["numpy", "torch", "own"])
def test_what_stands_beside_a_history_need_not_be_true_or_false(beside: Any) -> None:
    whole = f"{len(CHAT)} messages"
    calls: list[Callable[[], str]] = [
        lambda: erecap.wrap(lambda image, past: f"{len(past)} messages", keep_tokens=60)(beside, CHAT),
        lambda: erecap.wrap(lambda past, image: f"{len(past)} messages", keep_tokens=60)(CHAT, image=beside),
        lambda: erecap.wrap(lambda messages, tools: f"{len(messages)} messages", keep_tokens=300)(CHAT, tools=beside),
        lambda: erecap.wrap(lambda past, **more: f"{len(past)} messages", keep_tokens=60)(CHAT, body={"input": beside}),
    ]
    for call in calls:
        assert call().endswith(" messages") and call() != whole


def test_a_growing_prompt_by_its_name_or_as_the_first_argument() -> None:
    def llm(question: str, stop: str | None = None) -> str:
        return question

    wrapped = erecap.wrap(llm, keep_tokens=40)
    prompt = "Find the mug.\n>"
    for turn in range(20):
        by_name = {"question": prompt} if turn % 2 else {}
        shown = wrapped(*([] if by_name else [prompt]), **by_name, stop="\n")
        prompt += f" look\nYou see a plate {turn} on the shelf, and nothing else.\n>"
    assert len(shown) <= 160 < len(prompt)


def test_a_prompt_beside_other_texts_goes_by_its_name() -> None:
    assert erecap.wrap(lambda prompt, stop=None: "x", keep_tokens=9)(prompt="hi") == "x"
    shown = erecap.wrap(lambda engine, prompt: prompt, keep_tokens=9)("gpt", "hi")
    assert shown == "hi"


def test_a_wrapped_function_becomes_a_method_as_functions_do() -> None:
    class Agent:
        def llm(self, messages: list) -> str:
            return f"{type(self).__name__}: {len(messages)} messages"

    bare = Agent().llm(CHAT)
    Agent.llm = erecap.wrap(Agent.llm, keep_tokens=60)  # type: ignore[method-assign]
    assert Agent().llm(CHAT).startswith("Agent: ") and Agent().llm(CHAT) != bare
    assert Agent.llm.log.rows == 2  # type: ignore[attr-defined]


def test_objects_share_their_state_with_the_wrapped_one() -> None:
    bare = Model()
    wrapped = erecap.wrap(bare, keep_tokens=60)
    assert isinstance(wrapped, Model) and wrapped.name == "lm" and type(wrapped).__name__ == "Model"
    wrapped.name = "other"
    assert wrapped(CHAT) == "look" and bare.name == "other" and bare.seen == wrapped.seen and bare.seen[0] < len(CHAT)
    assert bare(CHAT) == "look" and wrapped.seen[-1] == len(CHAT) and wrapped.log.rows == 1


@pytest.mark.parametrize("target", [plain, Model(), Model().plan, functools.partial(plain, temperature=0.0)])
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])  # noqa: S301
def test_copies_and_pickles_are_wrapped_too(target: Any, way: Any, tmp_path: Path) -> None:
    wrapped = erecap.wrap(target, keep_tokens=60, log=tmp_path)
    other = way(wrapped)
    assert wrapped(CHAT) == other(CHAT) and other is not wrapped
    assert [row["decision"] for row in rows(tmp_path)] == ["pruned", "pruned"]
    if isinstance(target, Model):
        other.name = "its own"
        assert wrapped.name == "lm"


class Frozen:
    """No `__dict__`, so that no second object can share its state."""

    __slots__ = ("calls",)

    def __call__(self, messages: list) -> str:
        return f"{len(messages)} messages"


def test_objects_without_a_dict_and_their_methods() -> None:
    wrapped = erecap.wrap(Frozen(), keep_tokens=60)
    assert wrapped(CHAT) != f"{len(CHAT)} messages" and isinstance(wrapped, Frozen)

    class Slotted:
        __slots__ = ()

        def generate(self, messages: list) -> str:
            return f"{len(messages)} messages"

    assert erecap.wrap(Slotted(), keep_tokens=60).generate(CHAT) != f"{len(CHAT)} messages"

    class Both(Slotted):
        __slots__ = ()
        __call__ = Slotted.generate

    with pytest.raises(ConfigError, match=r"erecap\.wrap\(planner\.generate, keep_tokens=3000\)"):
        erecap.wrap(Both(), keep_tokens=60)
    assert erecap.wrap(Both().generate, keep_tokens=60)(CHAT) != f"{len(CHAT)} messages"


class Slow:
    async def __call__(self, messages: list) -> str:
        await asyncio.sleep(0.05)
        return "go to sink 1"

    def coroutine(self, messages: list) -> Any:
        return self(messages)  # a function that returns one


@pytest.mark.parametrize("kind", ["async __call__", "coroutine"])
def test_what_is_awaited_is_measured_to_its_end(kind: str, tmp_path: Path) -> None:
    target: Any = Slow() if kind == "async __call__" else Slow().coroutine
    wrapped = erecap.wrap(target, keep_tokens=60, count_tokens=len, log=tmp_path)

    async def talk() -> str:
        return await wrapped(CHAT)

    assert asyncio.run(talk()) == "go to sink 1"
    [row] = rows(tmp_path)
    assert row["total_ms"] >= 50 and row["plan_tokens"] == len("go to sink 1")


def test_generators_are_measured_to_their_end(tmp_path: Path) -> None:
    def slow(messages: list) -> Any:
        for word in words(messages):
            time.sleep(0.02)
            yield word

    stream = erecap.wrap(slow, keep_tokens=60, count_tokens=len, log=tmp_path)(CHAT)
    assert inspect.isgenerator(stream) and next(stream) == "go " and not (tmp_path / "replans.jsonl").exists()
    assert list(stream) == ["to ", "shelf 1"]
    [row] = rows(tmp_path)
    assert row["total_ms"] >= 60 and row["plan_tokens"] == len("go to shelf 1") and row["decision"] == "pruned"


def test_generators_give_back_what_they_return_and_take_what_is_sent() -> None:
    def outer(messages: list) -> Any:
        got = yield "first"
        yield f"got {got}"
        return len(messages)

    wrapped = erecap.wrap(outer, keep_tokens=60)

    def delegate() -> Any:
        return (yield from wrapped(CHAT))

    running = delegate()
    assert next(running) == "first" and running.send("x") == "got x"
    with pytest.raises(StopIteration) as ended:
        next(running)
    assert ended.value.value < len(CHAT) and wrapped.log.rows == 1


def test_a_generator_that_nobody_hears_out_is_noted_once(tmp_path: Path) -> None:
    wrapped = erecap.wrap(words, keep_tokens=60, count_tokens=len, log=tmp_path)
    for _ in wrapped(CHAT):
        break
    wrapped(CHAT).close()
    assert [row["plan_tokens"] for row in rows(tmp_path)] == [len("go "), 0]


def test_asynchronous_generators(tmp_path: Path) -> None:
    wrapped = erecap.wrap(words_later, keep_tokens=60, count_tokens=len, log=tmp_path)

    async def talk() -> list[str]:
        return [word async for word in wrapped(CHAT)]

    assert asyncio.run(talk()) == ["go ", "to ", "shelf 1"]
    assert [row["plan_tokens"] for row in rows(tmp_path)] == [len("go to shelf 1")]


def test_a_generator_that_fails_is_noted_and_its_error_is_the_hosts(tmp_path: Path) -> None:
    def broken(messages: list) -> Any:
        yield "go "
        raise TimeoutError("no more")

    with pytest.raises(TimeoutError, match="no more"):
        list(erecap.wrap(broken, keep_tokens=60, count_tokens=len, log=tmp_path)(CHAT))
    assert [row["plan_tokens"] for row in rows(tmp_path)] == [len("go ")]


class Call:
    """An answer that calls a tool, as clients give it."""

    def __init__(self, name: str, arguments: str, content: str | None = None) -> None:
        self.content = content
        self.tool_calls = [{"id": str(random.random()), "function": {"name": name, "arguments": arguments}}]


@pytest.mark.parametrize(
    ("answers", "agrees"),
    [
        ([{"plan": "a"}, {"plan": "b"}], False),
        ([{"plan": "a", "n": 1}, {"n": 1, "plan": "a"}], True),
        ([Call("look", '{"a": 1}'), Call("look", '{"a":1}')], True),
        ([Call("look", '{"a": 1}'), Call("look", '{"a": 2}')], False),
        ([Call("look", "{}", "x"), Call("look", "{}", "y")], False),
        ([object(), object()], None),
        ([b"a", b"a"], None),
        ([None, None], None),
        (["a", "a"], True),
    ],
)
def test_shadow_compares_only_what_can_be_compared(answers: list, agrees: bool | None, tmp_path: Path) -> None:
    left = list(answers)
    wrapped = erecap.wrap(lambda messages: left.pop(0), keep_tokens=60, shadow=1.0, log=tmp_path)
    wrapped(CHAT)
    wrapped.shadow.wait()
    [row] = rows(tmp_path, "shadow.jsonl")
    assert row["agrees"] is agrees and row["problem"] is None and ("unknown" in row) == (agrees is None)


def test_the_report_says_that_answers_cannot_be_compared(erecap: Any, tmp_path: Path) -> None:
    import erecap as package

    wrapped = package.wrap(lambda messages: object(), keep_tokens=60, shadow=1.0, log=tmp_path / "mine")
    wrapped(CHAT), wrapped(CHAT)
    wrapped.shadow.wait()
    code, out, err = erecap("report", "mine")
    assert code == 0 and "bare answers that cannot be compared" in out and "unknown" in out, err


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (lambda: "x", "takes no argument"),
        (Model, r"Model is a class; wrap an object of it: erecap\.wrap\(Model\(\.\.\.\), keep_tokens=3000\)"),
    ],
)
def test_what_no_history_can_be_given_to(target: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        erecap.wrap(target, keep_tokens=60)


def test_streams_can_do_what_the_targets_can_and_no_more() -> None:
    stream = erecap.wrap(words, keep_tokens=60)(CHAT)
    later_stream = erecap.wrap(words_later, keep_tokens=60)(CHAT)
    for name in ("__next__", "__anext__", "__aiter__", "__enter__", "__aenter__"):
        assert hasattr(stream, name) == hasattr(words(CHAT), name), name
        assert hasattr(later_stream, name) == hasattr(words_later(CHAT), name), name
    assert isinstance(stream, collections.abc.Generator) and not isinstance(stream, collections.abc.AsyncIterable)
    assert isinstance(later_stream, collections.abc.AsyncGenerator)
    assert not isinstance(later_stream, collections.abc.Iterable)


class Layered:
    """A method that asks another one of the same object."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def generate(self, messages: list) -> str:
        return self.chat(messages)

    def chat(self, messages: list) -> str:
        self.sizes.append(len(messages))
        return f"{len(messages)} messages"


def test_a_call_that_is_made_once_more_is_whole_in_all_layers(tmp_path: Path) -> None:
    planner = Layered()
    wrapped = erecap.wrap(planner, keep_tokens=60, shadow=1.0, log=tmp_path)
    wrapped.generate(CHAT)
    wrapped.shadow.wait()
    assert planner.sizes[0] < len(CHAT) == planner.sizes[1]
    assert len(rows(tmp_path)) == 1 and [row["agrees"] for row in rows(tmp_path, "shadow.jsonl")] == [False]


def test_a_coroutine_that_is_made_once_more_is_whole_in_all_layers(tmp_path: Path) -> None:
    class Later(Layered):
        async def agenerate(self, messages: list) -> str:
            return await self.achat(messages)

        async def achat(self, messages: list) -> str:
            return self.chat(messages)

    planner = Later()
    wrapped = erecap.wrap(planner, keep_tokens=60, shadow=1.0, log=tmp_path)

    async def talk() -> None:
        await wrapped.agenerate(CHAT)
        while len(planner.sizes) < 2:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(talk(), 60))
    assert planner.sizes[0] < len(CHAT) == planner.sizes[1] and len(rows(tmp_path)) == 1
