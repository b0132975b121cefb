"""Objects with a `generate`, calls that are made once more beside the others, and the report of both."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

import erecap
from erecap.errors import ConfigError
from erecap.wrapping.shadow import WAITING, Shadow


def chat(turns: int) -> list[dict]:
    messages = [{"role": "user", "content": "Find the mug."}]
    for turn in range(turns):
        messages += [{"role": "assistant", "content": f"go to shelf {turn}"}]
        messages += [{"role": "user", "content": f"You see that there is a plate {turn} on the shelf {turn}."}]
    return messages


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class PartnrModel:
    """As PARTNR's `BaseLLM`: a growing prompt, or a list of parts; options by name."""

    def __init__(self) -> None:
        self.seen: list = []
        self.calls = 0

    def generate(self, prompt, stop=None, max_length=None, generation_args=None):  # type: ignore[no-untyped-def]
        self.seen.append((prompt, stop, max_length))
        self.calls += 1
        return "Explore[kitchen]"


def test_partnr(tmp_path) -> None:  # type: ignore[no-untyped-def]
    bare = PartnrModel()
    wrapped = erecap.wrap(bare, keep_tokens=90, log=tmp_path)
    assert isinstance(wrapped, PartnrModel)
    user, assistant = (f"<|eot_id|><|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("user", "assistant"))
    head = f"You plan.{assistant}"
    prompt = head
    for number in range(20):
        assert wrapped.generate(prompt, stop="Assigned!", max_length=9) == "Explore[kitchen]"
        seen = f"Result: done\nObjects: mug_{number} is on table_{number}"
        prompt += f"Explore[kitchen]\nAssigned!{user}{seen}{assistant}"
    assert all(
        len(text) <= 360 and text.startswith(head) and text.endswith("<|end_header_id|>\n\n")
        for text, _, _ in bare.seen
    )
    assert {(stop, length) for _, stop, length in bare.seen} == {("Assigned!", 9)} and wrapped.calls == 20
    wrapped.calls = 5
    assert bare.calls == 5
    assert erecap.wrap(bare, keep_tokens=90).generate([("text", "Plan.")]) and bare.seen[-1][0] == [("text", "Plan.")]
    with pytest.raises(ConfigError, match="a prompt of parts text, image; only one text"):
        wrapped.generate([("text", "Plan."), ("image", object())])


@dataclass
class ChatMessage:
    role: str
    content: list


class SmolModel:
    """As smolagents' `Model`: messages with parts in, a message out; calling it is `generate`."""

    model_id = "m"

    def generate(self, messages, stop_sequences=None, **kwargs):  # type: ignore[no-untyped-def]
        self.sizes = len(messages)
        return ChatMessage("assistant", f"go on, {len(messages)}")  # type: ignore[arg-type]

    __call__ = generate


def test_smolagents(tmp_path) -> None:  # type: ignore[no-untyped-def]
    messages = [ChatMessage(m["role"], [{"type": "text", "text": m["content"]}]) for m in chat(30)]
    wrapped = erecap.wrap(SmolModel(), keep_tokens=80, log=tmp_path)
    assert wrapped.generate(messages, stop_sequences=["x"]).content == f"go on, {wrapped.sizes}"
    assert wrapped(messages).content == f"go on, {wrapped.sizes}" and wrapped.sizes < 61 and wrapped.model_id == "m"
    assert [row["plan_tokens"] for row in lines(tmp_path / "replans.jsonl")] == [4, 4]


def test_a_share_of_the_calls_is_made_bare_as_well(tmp_path) -> None:  # type: ignore[no-untyped-def]
    threads = []

    def planner(messages) -> str:  # type: ignore[no-untyped-def]
        threads.append((threading.current_thread() is threading.main_thread(), len(messages)))
        return "long" if len(messages) > 20 else "short"

    wrapped = erecap.wrap(planner, keep_tokens=60, shadow=0.25, log=tmp_path)
    for turns in range(0, 40, 2):
        messages = chat(turns)
        wrapped(messages)
        messages.append({"role": "assistant", "content": "what the host appends to its own list"})
    wrapped.shadow.wait()
    rows = lines(tmp_path / "shadow.jsonl")
    assert [row["replan"] for row in rows] == [3, 7, 11, 15, 19]
    assert [row["agrees"] for row in rows] == [True, False, False, False, False]
    assert [size for main, size in threads if not main] == [2 * turns + 1 for turns in (6, 14, 22, 30, 38)]
    assert sum(main for main, _ in threads) == 20


def test_async_planners_and_errors_of_the_bare_one(tmp_path) -> None:  # type: ignore[no-untyped-def]
    replayed = asyncio.Event()
    calls = 0

    async def planner(messages) -> str:  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls == 4:  # the second replay, which the loop makes last
            asyncio.get_running_loop().call_soon(replayed.set)
        if len(messages) > 30:
            raise TimeoutError("too much")
        return "ok"

    async def talk() -> None:
        wrapped = erecap.wrap(planner, keep_tokens=60, shadow=1.0, log=tmp_path)
        assert [await wrapped(chat(turns)) for turns in (2, 20)] == ["ok", "ok"]
        await replayed.wait()

    asyncio.run(asyncio.wait_for(talk(), 60))
    rows = lines(tmp_path / "shadow.jsonl")
    assert [(row["agrees"], row["problem"]) for row in rows] == [(True, None), (None, "TimeoutError: too much")]


def test_the_report_of_a_log(erecap, tmp_path) -> None:  # type: ignore[no-untyped-def]
    import erecap as package

    for name, keep in (("mine", 60), ("base", 10_000)):
        wrapped = package.wrap(lambda m: "x", keep_tokens=keep, shadow=0.5, log=tmp_path / name)
        for turns in range(0, 30, 2):
            wrapped(chat(turns))
        wrapped.shadow.wait()
    code, out, err = erecap("report", "mine", "--against", "base")
    assert code == 0, err
    assert out.splitlines()[0].split() == ["mine", "base"] and "the same answer" in out and "100%" in out
    figures = json.loads((tmp_path / "mine" / "summary.json").read_text())
    assert figures["calls"] == 15 and 0.5 < figures["pruned"] < 1 and figures["shadow"]["calls"] == 7
    assert figures["shown"]["max"] <= 60 < figures["given"]["p50"]
    # A last line that is being written does not count, a damaged one is told.
    with (tmp_path / "mine" / "replans.jsonl").open("a") as file:
        file.write('{"mode"')
    assert erecap("report", "mine")[0] == 0
    with (tmp_path / "mine" / "replans.jsonl").open("a") as file:
        file.write("\n")
    assert "replans.jsonl:16: no JSON" in erecap("report", "mine")[2]
    package.wrap(lambda m: "x", log=tmp_path / "empty")
    assert "no calls; the planner that was wrapped has not been asked yet" in erecap("report", "empty")[2]


def test_every_tenth_call_is_the_tenth() -> None:
    shadow = Shadow(0.1, None)  # type: ignore[arg-type]
    assert [number for number in range(1, 101) if shadow.is_due()] == list(range(10, 101, 10))


def test_shares_that_are_none() -> None:
    with pytest.raises(ConfigError, match=r"shadow: got 1\.5; allowed: from 0 to 1"):
        erecap.wrap(lambda m: "x", shadow=1.5)
    assert Shadow(0.0, None).thread is None  # type: ignore[arg-type]


def test_what_is_due_beyond_those_that_wait_is_skipped_and_counted(erecap, tmp_path) -> None:  # type: ignore[no-untyped-def]
    import erecap as package

    go, replays = threading.Event(), []

    def planner(messages) -> str:  # type: ignore[no-untyped-def]
        if threading.current_thread() is not threading.main_thread():
            replays.append(len(messages))
            begun.set()
            assert go.wait(60)
        return "x"

    begun = threading.Event()
    wrapped = package.wrap(planner, keep_tokens=60, shadow=1.0, log=tmp_path / "mine")
    wrapped(chat(1))
    assert begun.wait(60)  # one is running, so those that follow wait
    for turns in range(2, WAITING + 5):
        wrapped(chat(turns))
    go.set()
    wrapped.shadow.wait()
    rows = lines(tmp_path / "mine" / "shadow.jsonl")
    assert len(replays) == WAITING + 1 and len(rows) == WAITING + 4
    skipped = [row for row in rows if "skipped" in row]
    assert [row["replan"] for row in skipped] == list(range(WAITING + 1, WAITING + 4))
    assert {row["skipped"] for row in skipped} == {f"{WAITING} replays are waiting already"}
    code, out, err = erecap("report", "mine")
    assert code == 0 and "bare calls skipped" in out, err
    figures = json.loads((tmp_path / "mine" / "summary.json").read_text())["shadow"]
    assert (figures["calls"], figures["skipped"], figures["failed"]) == (WAITING + 1, 3, 0)


def test_async_replays_are_bounded_and_end_with_their_loop(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async def planner(messages) -> str:  # type: ignore[no-untyped-def]
        if asyncio.current_task() is not talking:
            await asyncio.Event().wait()  # a replay that never ends by itself
        return "x"

    talking = None

    async def talk() -> None:
        nonlocal talking
        talking = asyncio.current_task()
        wrapped = erecap.wrap(planner, keep_tokens=60, shadow=1.0, log=tmp_path)
        for turns in range(WAITING + 2):
            await wrapped(chat(turns))
            await asyncio.sleep(0)  # lets the replays begin

    asyncio.run(talk())
    reasons = [row["skipped"] for row in lines(tmp_path / "shadow.jsonl")]
    assert reasons[:2] == [f"{WAITING} replays are waiting already"] * 2
    assert reasons[2:] == ["the event loop ended"] * WAITING


def test_the_end_of_the_process_does_not_wait_for_replays(tmp_path) -> None:  # type: ignore[no-untyped-def]
    code = """
import threading, erecap
def planner(messages):
    if threading.current_thread() is not threading.main_thread():
        threading.Event().wait()  # a bare call that never ends
    return "x"
wrapped = erecap.wrap(planner, keep_tokens=60, shadow=1.0, log="log")
for _ in range(3):
    wrapped([{"role": "user", "content": "Find the mug."}])
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    assert {row["skipped"] for row in lines(tmp_path / "log" / "shadow.jsonl")} == {"the process is ending"}
