"""Servers on tiny models, on real sockets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from erecap.budget import Budget
from erecap.serving.app import create_app
from erecap.serving.background import running
from erecap.serving.engine import Engine
from erecap.session.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.serving.asking import engines as engines
from tests.session.chats import model

# `make test-engines` asks the clients' tests of servers on other engines as well.
ENGINE = os.environ.get("ERECAP_TEST_ENGINE", "transformers")


def plain(window: int = 4096) -> Any:
    """The model of transformers that has the served one's weights."""
    if ENGINE == "vllm":
        from tests.engines.vllm_models import plain_llama

        return plain_llama()
    return model(window=window)


def served(window: int) -> Any:
    """The tiny model as the engine takes it."""
    if ENGINE == "transformers":
        return plain(window=window)
    if ENGINE == "vllm":
        from tests.engines.vllm_models import small_vllm

        if window != 4096:
            pytest.skip("vLLM has one model in a process, with one window")
        return small_vllm()
    from tests.engines.llamacpp_models import small_llama

    return small_llama(window=window)


class Server:
    """A server in a thread."""

    def __init__(
        self,
        kv_tokens: int | None = None,
        key: str | None = None,
        most_bytes: int = 1 << 20,
        budget: Budget | None = None,
        **options: Any,
    ):
        made, tokenizer = served(options.pop("window", 4096)), byte_level()
        budget = budget if kv_tokens is None else Budget(kv_tokens)

        def session() -> ReplanSession:
            return ReplanSession(made, tokenizer, budget=budget, engine=ENGINE)

        self.engine = Engine(made, tokenizer, session, **options)
        app = create_app(self.engine, "tiny", key=key, most_bytes=most_bytes)
        self._running = running(app)
        self.url = self._running.__enter__()

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(api_key=key, base_url=f"{self.url}/v1", max_retries=0, **options)

    def stop(self) -> None:
        self._running.__exit__(None, None, None)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(**options: Any) -> Server:
        servers.append(Server(**options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
