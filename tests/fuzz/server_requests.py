"""Random and hostile requests against the application, in this process, and the books that must balance after them.

    python -m tests.fuzz.server_requests --count 100000 --seed 0

prints one line of figures, and ends with 1 where a request got a 500, a traceback was logged, or something leaked.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

from erecap.budget import Budget
from erecap.serving.app import create_app
from erecap.serving.engine import Engine
from erecap.session.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.fuzz.hostile import Clients, Shot
from tests.session.chats import model

MODEL, AT_ONCE, SESSIONS, BATCH, WINDOW = "tiny", 3, 6, 24, 1024
STATUSES = {200, 400, 404, 405, 413, 415, 421, 503, 504}


@dataclass
class Report:
    """The figures of a run."""

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    hung_up: int = 0
    faults: list[str] = field(default_factory=list)  # what must not be
    sessions: int = 0  # alive at the end
    slots: int = 0  # in the store at the end
    allocated: int = 0  # bytes of all keys and values in this process, at the end
    live: int = 0  # of these, bytes of tokens that sessions of the store keep
    free: int = 0  # room behind those tokens

    def line(self) -> str:
        """The figures, in one line."""
        counts = " ".join(f"{status}:{count}" for status, count in sorted(self.statuses.items()))
        return (
            f"requests {self.requests} ({counts}, hung up {self.hung_up}), faults {len(self.faults)}, sessions live "
            f"{self.sessions} = slots in use {self.slots}, bytes allocated {self.allocated} = live {self.live} + free "
            f"{self.free}"
        )


class Tracebacks(logging.Handler):
    """Collects what is logged with a traceback."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one record."""
        if record.exc_info:
            self.found.append(self.format(record))


class Target:
    """The application on a tiny model.

    Args:
        kv_tokens: budget of a conversation.
    """

    def __init__(self, kv_tokens: int | None = 160) -> None:
        made, tokenizer = model(window=WINDOW), byte_level()
        limits = {"at_once": AT_ONCE, "most_waiting": 64, "sessions": SESSIONS, "session_bytes": 1 << 20}
        self.engine = Engine(
            made, tokenizer, lambda: ReplanSession(made, tokenizer, budget=Budget(kv_tokens)), **limits
        )
        self.app = create_app(self.engine, MODEL, most_bytes=64 << 10)
        config = made.config
        self._heads, self._dim = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
        gc.collect()
        gc.freeze()  # what is there already belongs to others, and is not looked at by the books

    def close(self) -> None:
        """End the engine, and give back what was set aside."""
        self.engine.close()
        gc.unfreeze()

    async def ask(self, shot: Shot) -> tuple[int, bytes]:
        """Status and body of the response to one request; status 0 where the client was gone before."""
        status, parts, sent, bodies = 0, [], 0, [shot.body]
        gone, ended = asyncio.Event(), asyncio.Event()
        if shot.hang_up == 0:
            gone.set()

        async def receive() -> dict[str, Any]:
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            if gone.is_set() or ended.is_set():
                return {"type": "http.disconnect"}
            waits = [asyncio.ensure_future(event.wait()) for event in (gone, ended)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status, sent
            sent += 1
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    ended.set()
            if shot.hang_up is not None and sent >= shot.hang_up:
                gone.set()

        path = shot.path.encode()
        headers = {"host": "127.0.0.1", "content-length": str(len(shot.body)), **shot.headers}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": shot.method,
            "scheme": "http",
            "path": shot.path,
            "raw_path": path,
            "query_string": b"",
            "root_path": "",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        await asyncio.wait_for(self.app(scope, receive, send), 60)
        return status, b"".join(parts)

    async def settled(self) -> None:
        """Wait until the model has noticed that every client has its answer, or has gone."""
        while self.engine.running or self.engine.waiting:
            await asyncio.sleep(0.005)

    def books(self, report: Report) -> None:
        """Enter sessions and bytes into `report`, and what does not balance as a fault."""
        gc.collect()
        store = self.engine.store
        held = {id(one.session) for one in store.held}
        live = [session for session in self._sessions() if session.cache.get_seq_length()]
        report.sessions, report.slots = len(live), len(store)
        stray = [session for session in live if id(session) not in held]
        storages = {}
        for layer in (layer for one in store.held for layer in one.session.cache.layers):
            for tensor, _ in layer.held():
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        report.allocated, report.live = self._allocated(), store.kv_bytes()
        report.free = sum(storages.values()) - report.live
        for wrong, words in (
            (stray, f"{len(stray)} sessions that no slot holds store tokens"),
            (report.sessions != report.slots, f"{report.sessions} sessions live, {report.slots} slots in use"),
            (store.busy, f"{store.busy} slots are busy though nobody is answered"),
            (len(store) > SESSIONS, f"{len(store)} slots are in use of {SESSIONS}"),
            (report.allocated != report.live + report.free, "bytes: " + report.line()),
        ):
            if wrong:
                report.faults.append(words)

    def _sessions(self) -> list[ReplanSession]:
        return [thing for thing in gc.get_objects() if type(thing) is ReplanSession]

    def _tensors(self) -> list[torch.Tensor]:
        """Everything in this process that has the form of keys and values."""
        found = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor and thing.ndim == 4]
        return [tensor for tensor in found if tensor.shape[1::2] == (self._heads, self._dim)]

    def _allocated(self) -> int:
        """Bytes of all memory of that form."""
        storages = [tensor.untyped_storage() for tensor in self._tensors()]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def check(shot: Shot, status: int, body: bytes, report: Report) -> None:
    """Count a response, and enter what must not be."""
    report.requests += 1
    report.statuses[status] += 1
    if shot.hang_up is not None:
        report.hung_up += 1
        return
    words = f"{shot.method} {shot.path} {shot.body[:300]!r} -> {status} {body[:300]!r}"
    if status not in STATUSES or b"Traceback" in body or b'"code": "internal"' in body or b'"code":"internal"' in body:
        report.faults.append(words)
    elif status >= 400 and shot.method != "HEAD":
        error = json.loads(body)["error"]
        if not error["message"] or "\n" in error["message"]:
            report.faults.append(words)


async def fire(target: Target, clients: Clients, count: int, report: Report) -> None:
    """Send `count` requests, some at once; the books are looked at after each batch."""
    while report.requests < count:
        shots = [clients.shot() for _ in range(min(BATCH, count - report.requests))]
        gate = asyncio.Semaphore(AT_ONCE + 2)

        async def one(shot: Shot, gate: asyncio.Semaphore = gate) -> None:
            async with gate:
                status, body = await target.ask(shot)
            check(shot, status, body, report)
            if shot.talk is not None and status == 200 and body.startswith(b"{"):
                message = json.loads(body)["choices"][0]["message"]
                clients.answered(shot.talk, message["content"] or "")

        await asyncio.gather(*(one(shot) for shot in shots))
        await target.settled()
        target.books(report)


def run(count: int, seed: int) -> Report:
    """Send `count` random requests; the figures."""
    torch.set_num_threads(1)
    tracebacks, report, target = Tracebacks(), Report(), Target()
    logging.getLogger().addHandler(tracebacks)
    try:
        asyncio.run(fire(target, Clients(seed, MODEL), count, report))
    finally:
        logging.getLogger().removeHandler(tracebacks)
        target.close()
    report.faults += tracebacks.found
    return report


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 where something must not be."""
    parser = argparse.ArgumentParser(description="Random and hostile requests against the server.")
    parser.add_argument("--count", type=int, default=1000, help="requests")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    report = run(given.count, given.seed)
    print(report.line())
    for fault in report.faults[:20]:
        print(fault, file=sys.stderr)
    return bool(report.faults)


if __name__ == "__main__":
    sys.exit(main())
