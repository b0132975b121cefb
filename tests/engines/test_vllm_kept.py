"""Requests for kept tokens are those that the connector takes; vLLM's own cache never mixes them up. Without vLLM."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Thread

import numpy as np
import pytest

from erecap.engines.vllm.index import StoreIndex, refusal
from erecap.engines.vllm.kept import Answer, Ask, KeptTokens, all_of
from erecap.engines.vllm.server import VllmServer
from erecap.engines.vllm.wire import Asked, Told
from erecap.errors import RunError

BLOCK = 4


class Store:
    """The scheduler's part of the connector, on numbers instead of keys: each token read gets one of its own."""

    vocabulary, why_fixed = 100, None

    def __init__(self, most: int = 10_000) -> None:
        self.index, self.unused = StoreIndex(most, 1), []
        self.read: dict[str, list[int]] = {}  # by entry, the number of each row
        self.cache: dict[tuple[str, tuple[int, ...]], tuple[tuple[int, int], ...]] = {}
        self.fresh, self.hits = count(), 0

    def holds(self, name: str) -> bool:
        return self.index.get(name) is not None

    def answer(self, ask: Ask) -> Answer:
        asked = Asked.of(ask.asked.dropping(tuple(self.unused.pop() for _ in range(len(self.unused)))).params())
        assert asked is not None
        entry, ids = self.index.get(asked.source), np.array(ask.ids)
        assert refusal(asked, entry, ids, ask.salt, None) is None
        kept = [] if asked.source is None else [self.read[asked.source][row] for row in asked.rows()]
        made = [(number * 7 + len(ids)) % 100 for number in range(ask.most)]
        whole, end = [*ask.ids, *made], len(ids) + ask.most - 1
        # A token is known by its number and by the place that its key stands at.
        tokens = [(number, int(place)) for number, place in zip(kept, asked.places(), strict=True)]
        found = 0
        for at in range(BLOCK, end + 1, BLOCK):
            key = (ask.salt, tuple(whole[:at]))
            if key not in self.cache:
                break
            found, hit = at, self.cache[key]
            assert hit[: len(tokens)] == tuple(tokens[:at]), "vLLM would find other keys than those that are kept"
            tokens += list(hit[len(tokens) :])
        self.hits += found > 0
        tokens += [(next(self.fresh), place) for place in range(len(tokens), end)]
        for at in range(BLOCK, end + 1, BLOCK):
            self.cache[ask.salt, tuple(whole[:at])] = tuple(tokens[:at])
        places = np.array([*asked.places(), *range(asked.kept, end)])
        name = self.index.add(np.array(whole[:end]), places, ask.salt, instead=asked.drop)
        if name is not None:
            self.read[name] = [number for number, _ in tokens]
        return Answer(tuple(made), Told(name, end if name else 0, asked.kept, None), found, 0)


@pytest.mark.parametrize("seed", range(8))
def test_any_sequence_of_edits_asks_for_what_it_keeps(seed: int) -> None:
    draw, store = random.Random(seed), Store()
    live: list[tuple[KeptTokens, list[tuple[int, int]]]] = [(KeptTokens(store), [])]  # with (id, position) as they are
    for _ in range(120):
        at = draw.randrange(len(live))
        one, mirror = live[at]
        step = draw.choice(("read", "read", "read", "evict", "roll back", "skip", "move", "fork", "drop"))
        if step == "read":
            ids = [draw.randrange(3) for _ in range(draw.randint(1, 9))]  # few ids, so that prefixes are alike
            ask, start, most = one.ask(ids, draw.randint(1, 4)), one.next_position, 0
            assert [*ask.ids] == [token for token, _ in mirror] + ids
            ahead = start - len(mirror)
            assert ask.asked.places().tolist() == [position - ahead for _, position in mirror]
            answer = store.answer(ask)
            one.took(ask, answer)
            most = len(answer.ids) - 1
            mirror += [(token, start + number) for number, token in enumerate([*ids, *answer.ids[:most]])]
        elif step == "evict" and mirror:
            rows = sorted(draw.sample(range(len(mirror)), draw.randint(1, len(mirror))))
            assert one.evict([one.indices[rows]]) == len(rows)
            live[at] = one, [token for row, token in enumerate(mirror) if row not in rows]
        elif step == "roll back" and mirror:
            stay = draw.randrange(len(mirror))
            one.rollback(int(one.indices[stay]))
            live[at] = one, mirror[:stay]
        elif step == "skip":
            one.skip(draw.randint(1, 3), draw.random() < 0.5)
        elif step == "move":
            one.reposition()
            live[at] = one, [(token, row) for row, (token, _) in enumerate(mirror)]
        elif step == "fork" and len(live) < 5:
            twin = KeptTokens(store)
            one.share(twin)
            live.append((twin, list(mirror)))
        elif step == "drop" and len(live) > 1:
            del live[at]
        for other, tokens in live:
            assert len(other.indices) == len(tokens) and other.tokens >= len(tokens)
    assert store.hits > 5, "requests that only go on find vLLM's blocks"
    one = other = twin = None  # type: ignore[assignment]
    live.clear()
    store.answer(KeptTokens(store).ask([1]))
    assert len(store.index) == 1, "entries that nobody has are dropped"


def test_a_full_store_is_an_error_and_what_was_lost_is_one() -> None:
    store = Store(most=20)
    one, other = KeptTokens(store), KeptTokens(store)
    for agent in (one, other):
        ask = agent.ask([1] * 12)
        agent.took(ask, store.answer(ask))  # the second one's takes the place of the first one's
    with pytest.raises(RunError, match="its store has lost the tokens before"):
        one.ask([1])
    ask = other.ask([2] * 9)
    with pytest.raises(RunError, match="raise store_mb"):
        other.took(ask, store.answer(ask))
    assert other.tokens == 12
    with pytest.raises(ValueError, match="token id 100 is not in the vocabulary of 100"):
        other.ask([100])


def test_an_address_where_no_vllm_answers_is_named() -> None:
    agent = VllmServer("http://127.0.0.1:9/v1", "tiny", timeout_s=5).conversation()
    with pytest.raises(RunError, match=r"http://127.0.0.1:9/v1: no answer of a vLLM: .*refused"):
        agent.answer([1, 2], 3)
    assert agent.tokens == 0


def test_names_are_taken_while_other_threads_take_them() -> None:
    class Shared(list[str]):
        def __len__(self) -> int:
            return super().__len__() + 1  # another thread has taken one since

    assert all_of(Shared(["a", "b"])) == ("b", "a") and all_of([]) == ()


@contextmanager
def addressed(store: Store, failures: list[int]) -> Iterator[str]:
    """The address of that store; a request fails with the next status of `failures`, 0 being no answer at all."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = failures.pop(0) if failures else 200
            if status == 0:
                self.wfile.write(b"nonsense\r\n\r\n")
                return
            answer = None
            if status == 200:
                asked = Asked.of(body["kv_transfer_params"])
                assert asked is not None
                answer = store.answer(Ask(body["prompt"], asked, body["cache_salt"], body["max_tokens"]))
            told = {} if answer is None else {
                "choices": [{"token_ids": list(answer.ids)}], "kv_transfer_params": answer.told.params()
            }  # fmt: skip
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown(), thread.join(), server.server_close()


def test_a_request_that_did_not_arrive_can_be_repeated_and_one_that_vllm_has_failed_cannot() -> None:
    failures: list[int] = []
    with addressed(Store(), failures) as url:
        agent = VllmServer(url, "tiny").conversation()
        agent.answer([1] * 10, 3)
        for status, words in ((0, "no answer of a vLLM"), (429, "status 429"), (503, "status 503")):
            failures.append(status)
            with pytest.raises(RunError, match=words):
                agent.answer([2], 1)
            assert agent.tokens == 12
        assert agent.answer([2], 1) and agent.tokens == 13
        failures.append(500)
        with pytest.raises(RunError, match="status 500"):
            agent.answer([2], 1)
        with pytest.raises(RunError, match="its store has lost the tokens before"):
            agent.answer([2], 1)


def test_an_address_that_is_none_is_one_line() -> None:
    with pytest.raises(RunError, match="somewhere: no answer of a vLLM: unknown url type"):
        VllmServer("somewhere", "tiny").conversation().answer([1], 1)
