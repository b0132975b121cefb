"""Servers on tiny models, on real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import uvicorn

from erecap.budget import Budget
from erecap.serving.app import create_app
from erecap.serving.engine import Engine
from erecap.session.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model


class Server:
    """A server in a thread."""

    def __init__(self, kv_tokens: int | None = None, key: str | None = None, most_bytes: int = 1 << 20, **options: Any):
        made, tokenizer = model(window=options.pop("window", 4096)), byte_level()
        budget = None if kv_tokens is None else Budget(kv_tokens)
        self.engine = Engine(made, tokenizer, lambda: ReplanSession(made, tokenizer, budget=budget), **options)
        app = create_app(self.engine, "tiny", key=key, most_bytes=most_bytes)
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(api_key=key, base_url=f"{self.url}/v1", max_retries=0, **options)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(**options: Any) -> Server:
        servers.append(Server(**options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
