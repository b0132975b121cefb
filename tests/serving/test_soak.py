"""Thousands of requests, with eviction: nothing is lost, and nothing piles up.

`make test-engines` asks other engines, with few arenas of the C library and a small cache of oneDNN's kernels: both
grow for thousands of requests before they are full, and would hide a leak.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from tests.serving.conftest import ENGINE, Server

REQUESTS, CLIENTS = (10_000, 8) if ENGINE == "transformers" else (2_000, 16)
TURNS = 4


def resident_mb() -> float:
    """Memory of this process that is in use, in MiB, without what the C library holds back of memory that was freed."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell what is in use")
def test_thousands_of_requests(serve: Callable[..., Server]) -> None:
    server = serve(kv_tokens=80, sessions=2 * CLIENTS)
    memory, evicted = list[float](), list[int]()

    def talk(number: int) -> int:
        """One conversation of a few turns; every tenth is also left in the middle of a stream. How many answers."""
        client = clients[number % CLIENTS]
        messages = [{"role": "user", "content": f"You are robot {number}. Find the mug {number % 7}."}]
        for turn in range(TURNS):
            answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4, temperature=0)
            said = answer.choices[0].message.content
            assert said and answer.usage.completion_tokens > 0
            evicted.append(answer.usage.prompt_tokens_details.model_extra["evicted_tokens"])
            # Under so few clients no conversation is pushed out between two of its turns.
            assert bool(answer.usage.prompt_tokens_details.cached_tokens) == (turn > 0)
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": f"Shelf {turn} is empty."}]
        if number % 10 == 0:
            with client.chat.completions.create(model="tiny", messages=messages, max_tokens=64, stream=True) as stream:
                next(iter(stream))
        return TURNS

    clients = [server.client() for _ in range(CLIENTS)]
    answers = 0
    with ThreadPoolExecutor(CLIENTS) as pool:
        for part in range(10):
            first = part * REQUESTS // TURNS // 10
            answers += sum(pool.map(talk, range(first, first + REQUESTS // TURNS // 10)))
            memory.append(resident_mb())
            threads = threading.active_count()
            if part == 0:
                threads_early = threads
    assert answers == REQUESTS and sum(map(bool, evicted)) >= REQUESTS // TURNS
    text = httpx.get(f"{server.url}/metrics").text
    done = [line for line in text.splitlines() if line.startswith("erecap_requests_total") and '"200"' in line]
    assert sum(float(line.split()[-1]) for line in done) >= REQUESTS
    assert server.engine.running == 0 and server.engine.waiting == 0 and len(server.engine.store) <= 2 * CLIENTS
    assert threads <= threads_early + 2
    print("MiB after each tenth:", [round(mb, 1) for mb in memory])
    # What grows in the first tenth are pools and caches; after it a leak of one kilobyte a request would be 9 MiB.
    assert memory[-1] - memory[1] < 8, memory
    with pytest.raises(openai.NotFoundError):
        clients[0].chat.completions.create(model="other", messages=[{"role": "user", "content": "?"}])
