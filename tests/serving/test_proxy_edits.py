"""Proxies that edit on the server behind, and hosts that compact by themselves."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from erecap.errors import ConfigError
from erecap.serving.background import running
from erecap.serving.proxy import create_proxy
from erecap.session.chat_edits import ChatEdits
from erecap.wrapping import wrap
from erecap.wrapping.calls import TextCalls
from erecap.wrapping.hosted import hosted
from tests.serving.conftest import Server
from tests.serving.recorded import ASKED, proxied
from tests.serving.test_edits import GREEDY, in_process
from tests.session.sharp import WINDOW, sharp
from tests.session.test_chat_edits import chat

LONG = [
    {"role": "user", "content": "Goal: x"},
    *({"role": r, "content": "word " * 60} for r in ["assistant", "user"] * 9),
]


def test_a_proxy_sends_whole_chats_with_edits_and_the_server_carries_them_out(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    sharp()
    server = serve(window=WINDOW)
    calls = TextCalls.opened("proxy", tmp_path, keep_tokens=220, emit_edits=True)
    with running(create_proxy(f"{server.url}/v1", calls)) as url:
        client, cached = openai.OpenAI(api_key="x", base_url=f"{url}/v1", max_retries=0), []
        for turns in (3, 9, 10, 11):
            answer = client.chat.completions.create(messages=chat(turns), **GREEDY)  # type: ignore[call-overload]
            cached.append(answer.usage.prompt_tokens_details)
    rows = [json.loads(line) for line in (tmp_path / "replans.jsonl").read_text().splitlines()]
    assert [row["decision"] for row in rows] == ["passed", "pruned", "pruned", "pruned"]
    assert all(row["kept_tokens"] <= 220 < row["prompt_tokens"] for row in rows[1:])
    assert "dropped by edits that the server carries out" in rows[-1]["reason"]
    assert cached[0].evicted_tokens == 0 and cached[3].evicted_tokens > 300
    # Only appended to: what the server had read of the chat before, it has not read again.
    assert cached[3].cached_tokens + cached[3].drop_skipped_tokens + cached[3].repos_tokens > 600
    view = calls.apart()
    for turns in (3, 9, 10, 11):
        call = view.prepare(chat(turns))
    assert call.edits is not None
    drop = {int(behind): gone for behind, gone in call.edits["drop_message"].items()}
    assert answer.choices[0].message.content == in_process(chat(11), ChatEdits(drop, call.edits["reposition"])).text


def test_a_server_that_does_not_carry_out_edits_is_sent_none() -> None:
    calls_of_edits = {"emit_edits": True}
    with proxied_edits(calls_of_edits) as (behind, url):
        behind.answers(json.dumps({"choices": [], "usage": {"prompt_tokens": 5, "prompt_tokens_details": {}}}).encode())
        for _ in range(2):
            answer = httpx.post(f"{url}/v1/chat/completions", json={**ASKED, "messages": LONG}, timeout=60)
            assert answer.status_code == 502
            assert "the server behind does not carry out drop_message" in answer.json()["error"]["message"]
        assert json.loads(behind.body)["messages"] == [{"role": "user", "content": "x"}]  # nothing of the chat
        assert httpx.post(f"{url}/v1/chat/completions", json=ASKED, timeout=60).status_code == 200  # it fits
        behind.answers(b'{"error": {"message": "drop_message: unknown"}}', status=b"400 Bad Request")
        other = httpx.post(f"{url}/v1/chat/completions", json={**ASKED, "model": "n", "messages": LONG}, timeout=60)
        assert other.status_code == 502
        behind.answers(b'{"error": {"message": "slow down"}}', status=b"429 Too Many Requests")
        busy = httpx.post(f"{url}/v1/chat/completions", json={**ASKED, "model": "o", "messages": LONG}, timeout=60)
        assert busy.status_code == 429 and "drop_message" in json.loads(behind.body)  # judged by a later answer


def proxied_edits(options: dict[str, Any]) -> Any:
    from contextlib import contextmanager

    from tests.serving.recorded import Behind

    @contextmanager
    def made() -> Any:
        behind = Behind()
        try:
            calls = TextCalls.opened("proxy", None, keep_tokens=500, **options)
            with running(create_proxy(f"{behind.url}/base/v1", calls)) as url:
                yield behind, url
        finally:
            behind.close()

    return made()


HOSTED: list[dict[str, Any]] = [
    {"context_management": [{"type": "compaction", "compact_threshold": 1000}]},
    {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
    {"truncation": "auto"},
    {"drop_message": {"3": [1]}},
    {"drop_rule": {"type": "thinking_drop"}},
    {"reposition": []},
]


def test_a_chat_that_its_host_compacts_passes_byte_for_byte_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.WARNING, "erecap.wrapping.calls"), proxied(log=tmp_path) as (behind, url):
        behind.answers(b'{"choices": [], "context_management": {"applied_edits": []}}')
        for fields in HOSTED:
            body = json.dumps({**ASKED, "messages": LONG, **fields}, indent=1).encode()  # as no writer of ours has it
            for _ in range(2):
                headers = {"content-type": "application/json", "anthropic-beta": "context-management-2025-06-27"}
                answer = httpx.post(f"{url}/v1/chat/completions", content=body, headers=headers, timeout=60)
                assert answer.content == b'{"choices": [], "context_management": {"applied_edits": []}}'
            assert behind.body == body and behind.sent(b"anthropic-beta") == [b"context-management-2025-06-27"]
        for path in ("responses", "responses/compact", "messages"):
            httpx.post(f"{url}/v1/{path}", content=body, headers=headers, timeout=60)
            assert behind.body == body
        httpx.post(f"{url}/v1/chat/completions", json={**ASKED, "messages": LONG, "truncation": "disabled"}, timeout=60)
        assert len(json.loads(behind.body)["messages"]) < len(LONG)  # nobody else does it
    said = [record.message for record in caplog.records if record.name == "erecap.wrapping.calls"]
    assert len(said) == 5 and said[0].startswith("context_management: the host compacts this chat itself")
    rows = [json.loads(line) for line in (tmp_path / "replans.jsonl").read_text().splitlines()]
    assert [row["decision"] for row in rows] == ["passed"] * 12 + ["pruned"]


def test_what_a_host_has_compacted_is_not_compacted_again() -> None:
    item = {"type": "compaction", "encrypted_content": "..."}
    inside = {"role": "assistant", "content": [{"type": "compaction", "content": "So far ..."}]}
    for found in (item, inside):
        assert "message 1 is the host's own compaction" in (hosted([LONG[0], found], {}) or "")
    assert hosted(LONG, {"context_management": None, "truncation": "disabled"}) is None
    assert hosted(LONG, {"context_management": {"edits": []}, "extra_body": {"truncation": "only_first"}}) is None
    assert "context_management" in (hosted(LONG, {"extra_body": {"context_management": [item]}}) or "")
    calls = TextCalls.opened("client", None, keep_tokens=500)
    call = calls.prepare([LONG[0], item, *LONG[1:]])
    assert call.decision == "passed" and call.shown[1] is item
    call = calls.prepare(LONG, {"context_management": {"edits": [{"type": "compact_20260112"}]}})  # Anthropic's client
    assert call.shown is LONG and call.reason == "context_management: the host compacts this chat itself"


def test_a_wrapped_client_sends_edits_and_refuses_a_server_that_ignores_them(serve: Callable[..., Server]) -> None:
    sharp()
    server = serve(window=WINDOW)
    client = wrap(server.client(), keep_tokens=220, emit_edits=True)
    answer = client.chat.completions.create(messages=chat(9), **GREEDY)
    assert answer.usage.prompt_tokens_details.evicted_tokens > 300
    with pytest.raises(ConfigError, match=r"emit_edits: .* wrap a client of openai"):
        wrap(lambda messages: "x", keep_tokens=100, emit_edits=True)(chat(9))
    for options, words in (
        ({"keep": 0.5}, "give keep_tokens"),
        ({"keep_tokens": 9, "thinking_first": True}, "leave out"),
    ):
        with pytest.raises(ConfigError, match=words):
            wrap(lambda messages: "x", emit_edits=True, **options)
    with pytest.raises(ConfigError, match="this planner takes one string"):
        wrap(lambda prompt: "x", keep_tokens=9, emit_edits=True)("a prompt")
    with proxied() as (behind, url):
        behind.answers(json.dumps({"choices": [], "usage": {"prompt_tokens": 9}}).encode())
        deaf = wrap(openai.OpenAI(api_key="x", base_url=f"{url}/v1", max_retries=0), keep_tokens=220, emit_edits=True)
        deaf.chat.completions.create(messages=chat(9), **GREEDY)
        with pytest.raises(ConfigError, match="the server does not carry out drop_message"):
            deaf.chat.completions.create(messages=chat(9), **GREEDY)


def test_a_host_that_sends_messages_alone_is_refused_edits() -> None:
    for kind in ("langchain", "litellm"):
        with pytest.raises(ConfigError, match=f"emit_edits: {kind} sends messages and no fields beside them"):
            TextCalls.opened(kind, None, keep_tokens=100, emit_edits=True)
