"""The real client of `openai` against a real server: requests, answers, and failures."""

from __future__ import annotations

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from erecap.budget import Budget
from erecap.errors import ModelError
from erecap.serving.engine import Engine
from erecap.session.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.serving.conftest import ENGINE
from tests.serving.conftest import plain as model
from tests.session.chats import start, turn

GREEDY = {"model": "tiny", "temperature": 0.0, "max_tokens": 12}
HOOKS = pytest.mark.skipif(ENGINE != "transformers", reason="hooks into the modules of transformers")


def alone(messages: list[dict], **options: object) -> str:
    session = ReplanSession(model(), byte_level())
    return session.generate(messages, **{"max_new_tokens": 12, **options}).text  # type: ignore[arg-type]


def test_a_plain_call(serve) -> None:  # type: ignore[no-untyped-def]
    client = serve().client()
    answer = client.chat.completions.create(messages=start(), **GREEDY)
    assert answer.choices[0].message.content == alone(start()) and answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12 and answer.usage.prompt_tokens > 50
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert [one.id for one in client.models.list()] == ["tiny"]


def test_a_conversation_that_grows_is_read_once(serve) -> None:  # type: ignore[no-untyped-def]
    client, talk, read = serve().client(), start(), 0
    session = ReplanSession(model(), byte_level(), retokenize=True)
    for number in range(4):
        answer = client.chat.completions.create(messages=talk, **GREEDY)
        own = session.generate(talk, max_new_tokens=12)
        assert answer.choices[0].message.content == own.text
        cached = answer.usage.prompt_tokens_details.cached_tokens
        assert cached == own.usage.reused_tokens and cached >= read, "all of the prompt before"
        read = answer.usage.prompt_tokens
        talk += turn(answer.choices[0].message.content, number)


def test_an_automatic_budget_is_the_plain_model_within_the_window_and_goes_on_beyond(serve) -> None:  # type: ignore[no-untyped-def]
    client, talk = serve(budget=Budget.auto(), window=300).client(), start()
    talk[1]["content"] = "Goal: cool the apple 1."
    within = ReplanSession(model(window=300), byte_level(), retokenize=True)
    sizes = []
    for number in range(9):
        answer = client.chat.completions.create(messages=talk, **GREEDY)
        if answer.usage.prompt_tokens + 12 <= 300:
            assert answer.choices[0].message.content == within.generate(talk, max_new_tokens=12).text
        sizes.append(answer.usage.prompt_tokens)
        talk += turn(answer.choices[0].message.content, number)
    assert sizes[0] < 300 - 12 and sizes[-1] > 300  # a prompt that would have been refused without a budget


def test_streams_give_the_same_text(serve) -> None:  # type: ignore[no-untyped-def]
    client = serve().client()
    for stop in (None, alone(start())[5:7]):
        whole = client.chat.completions.create(messages=start(), stop=stop, **GREEDY)
        chunks = list(
            client.chat.completions.create(
                messages=start(), stop=stop, stream=True, stream_options={"include_usage": True}, **GREEDY
            )
        )
        texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(texts) == whole.choices[0].message.content
        assert stop is not None or sum(bool(text) for text in texts) > 3
        reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        assert reasons[-1] == whole.choices[0].finish_reason == ("length" if stop is None else "stop")
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_sampling_follows_its_seed(serve) -> None:  # type: ignore[no-untyped-def]
    client = serve().client()
    options = {"model": "tiny", "max_tokens": 12, "temperature": 1.5}
    texts = [
        client.chat.completions.create(messages=start(), seed=s, **options).choices[0].message.content
        for s in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_tools_are_told_and_their_calls_found(serve, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    server = serve()
    seen: list[list[dict]] = []
    generate = ReplanSession.generate

    def scripted(self, messages, **options):  # type: ignore[no-untyped-def]
        seen.append(messages)
        made = generate(self, messages, **options)
        text = '<tool_call>\n{"name": "look", "arguments": {"at": "shelf 1"}}\n</tool_call>'
        return type(made)(text, "stop", made.usage, made.timing)

    monkeypatch.setattr(ReplanSession, "generate", scripted)
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    client = server.client()
    answer = client.chat.completions.create(messages=start(), tools=tools, **GREEDY)
    [call] = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls" and answer.choices[0].message.content is None
    assert (call.function.name, json.loads(call.function.arguments)) == ("look", {"at": "shelf 1"})
    assert '"name": "look"' in seen[0][0]["content"]
    # The history with the call and its result goes back as the package's own objects.
    talk = [*start(), answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "a mug"}]
    stream = client.chat.completions.create(messages=talk, tools=tools, stream=True, **GREEDY)
    calls = [c.choices[0].delta.tool_calls for c in stream if c.choices and c.choices[0].delta.tool_calls]
    assert len(calls) == 1 and calls[0][0].function.name == "look"
    assert seen[1][2]["content"].startswith("<tool_call>") and "a mug" in seen[1][3]["content"]
    assert seen[1][:2] == seen[0]


def test_a_key(serve) -> None:  # type: ignore[no-untyped-def]
    server = serve(key="right")
    assert server.client("right").chat.completions.create(messages=start(), **GREEDY).choices
    with pytest.raises(openai.AuthenticationError, match="the API key is missing or wrong"):
        server.client("wrong").chat.completions.create(messages=start(), **GREEDY)
    assert httpx.get(f"{server.url}/v1/models").status_code == 401
    assert httpx.get(f"{server.url}/health").status_code == 200


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model": "other"}, openai.NotFoundError, "no model 'other'; this server has tiny"),
        ({"messages": []}, openai.BadRequestError, "messages: List should have at least 1 item"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens: Input should be greater"),
        ({"n": 2}, openai.BadRequestError, "n: got 2; this server does not do that"),
        ({"logit_bias": {"1": 5}}, openai.BadRequestError, "logit_bias: got"),
        ({"response_format": {"type": "regex"}}, openai.BadRequestError, "response_format: got"),
        ({"temperature": 3}, openai.BadRequestError, "temperature: Input should be less"),
        ({"temperature": 1e-9}, openai.BadRequestError, "temperature: got 1e-09; allowed: 0, or 0.0001 to 2"),
        ({"seed": 1 << 70}, openai.BadRequestError, "seed: Input should be less"),
        (
            {"messages": [*start(), {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]},
            openai.BadRequestError,
            "messages[2].tool_calls[0]: got {'id': '1'}; wanted a function with a name",
        ),
        (
            {"messages": [{"role": "robot", "content": "x"}]},
            openai.BadRequestError,
            "role: got 'robot'; allowed: system",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            openai.BadRequestError,
            "messages[0].content[0]: a part of type 'image_url'; this server reads text only",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_requests_that_are_refused(shared, changes, error, words, stream) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=re.escape(words)):
        shared.client().chat.completions.create(**{"messages": start(), **GREEDY, **changes}, stream=stream)


@pytest.fixture(scope="module")
def shared():  # type: ignore[no-untyped-def]
    from tests.serving.conftest import Server

    server = Server(window=300, most_bytes=5000)
    yield server
    server.stop()


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_too_long(shared, stream) -> None:  # type: ignore[no-untyped-def]
    long = [{"role": "user", "content": "word " * 400}]
    with pytest.raises(openai.BadRequestError, match="together at most 300 fit") as caught:
        shared.client().chat.completions.create(messages=long, stream=stream, **GREEDY)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIStatusError, match="the body is too large; allowed: up to 5000 bytes") as caught_too:
        shared.client().chat.completions.create(messages=[{"role": "user", "content": "x" * 6000}], **GREEDY)
    assert caught_too.value.status_code == 413
    # In chunks, without a length told beforehand.
    body = json.dumps({**GREEDY, "messages": [{"role": "user", "content": "x" * 6000}]}).encode()
    sent = httpx.post(
        f"{shared.url}/v1/chat/completions",
        content=iter([body[:3000], body[3000:]]),
        headers={"Content-Type": "application/json"},
    )
    assert sent.status_code == 413 and sent.json()["error"]["message"].startswith("the body is too large")


def test_other_paths_and_no_json(shared) -> None:  # type: ignore[no-untyped-def]
    assert httpx.get(f"{shared.url}/v2").json()["error"]["message"] == "nothing at /v2"
    sent = httpx.post(f"{shared.url}/v1/chat/completions", content=b"{", headers={"Content-Type": "application/json"})
    assert sent.status_code == 400 and "error" in sent.json()


def long(tokens: int) -> dict[str, Any]:
    """Fields of a request for exactly so many tokens: sampled answers may end early."""
    return {"messages": start(), "model": "tiny", "max_tokens": tokens, "extra_body": {"min_tokens": tokens}}


def test_a_client_that_hangs_up_frees_the_model(serve) -> None:  # type: ignore[no-untyped-def]
    server = serve(at_once=1)
    stream = server.client().chat.completions.create(**long(3000), stream=True)
    next(stream)
    assert server.engine.running == 1
    stream.close()
    # The next client is answered long before those 3,000 tokens could have been.
    answer = server.client(timeout=20).chat.completions.create(messages=start(), **GREEDY)
    assert answer.choices[0].message.content == alone(start())
    with pytest.raises(openai.APITimeoutError):
        server.client(timeout=0.3).chat.completions.create(**long(3900))
    assert server.client(timeout=20).chat.completions.create(messages=start(), **GREEDY).choices


@HOOKS
def test_a_request_may_not_take_for_ever(serve) -> None:  # type: ignore[no-untyped-def]
    server = serve(request_s=3)
    # The first pass through the model lasts until the time is over.
    layer = server.engine.pool.model.get_decoder().layers[0]
    hook = layer.register_forward_pre_hook(lambda *_: time.sleep(3.1))
    with pytest.raises(openai.InternalServerError, match=r"longer than 3 s") as caught:
        server.client().chat.completions.create(messages=start(), model="tiny", max_tokens=2)
    hook.remove()
    assert caught.value.status_code == 504


def test_sixteen_clients_at_once(serve) -> None:  # type: ignore[no-untyped-def]
    server = serve(at_once=6)
    talks = [[*start(), *turn("look", number)] for number in range(16)]
    with ThreadPoolExecutor(16) as clients:
        answers = list(
            clients.map(lambda talk: server.client().chat.completions.create(messages=talk, **GREEDY), talks)
        )
    assert [answer.choices[0].message.content for answer in answers] == [alone(talk) for talk in talks]
    page = httpx.get(f"{server.url}/metrics").text
    assert 'erecap_requests_total{path="/v1/chat/completions",status="200"} 16.0' in page
    assert 'erecap_tokens_total{kind="completion"} 192.0' in page and "erecap_sessions 16.0" in page


def test_too_many_requests_are_turned_away(serve) -> None:  # type: ignore[no-untyped-def]
    server = serve(at_once=1, most_waiting=1)
    streams = [server.client().chat.completions.create(**long(3000), stream=True)]
    next(streams[0])
    waiting = threading.Thread(
        target=lambda: server.client().chat.completions.create(messages=start(), **GREEDY), daemon=True
    )
    waiting.start()
    while not server.engine.waiting:
        time.sleep(0.01)
    with pytest.raises(openai.InternalServerError, match="1 requests are waiting already") as caught:
        server.client().chat.completions.create(messages=start(), **GREEDY)
    assert caught.value.status_code == 503
    streams[0].close()
    waiting.join(20)


def test_a_pool_that_breaks_leaves_nobody_waiting(serve, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    server = serve()

    def broken(requests) -> None:  # type: ignore[no-untyped-def]
        raise SystemError("no more")

    monkeypatch.setattr(server.engine.pool, "_batches", broken)
    with pytest.raises(openai.InternalServerError, match="the server broke while it answered"):
        server.client(timeout=20).chat.completions.create(messages=start(), **GREEDY)
    server.engine.thread.join(10)
    with pytest.raises(openai.InternalServerError, match="cannot answer any more: SystemError: no more"):
        server.client(timeout=20).chat.completions.create(messages=start(), **GREEDY)
    assert httpx.get(f"{server.url}/health").status_code == 503


@HOOKS
@pytest.mark.parametrize("kind", [ValueError, RuntimeError, ModelError])
@pytest.mark.parametrize("stream", [False, True])
def test_errors_inside_the_model_are_the_servers(serve, kind, stream, caplog) -> None:  # type: ignore[no-untyped-def]
    server = serve()
    layer = server.engine.pool.model.get_decoder().layers[1]

    def fails(*arguments: object) -> None:
        raise kind("an inner shape does not fit")

    hook = layer.register_forward_pre_hook(fails)
    with pytest.raises(openai.InternalServerError, match="an inner shape does not fit") as caught:
        server.client().chat.completions.create(messages=start(), **GREEDY, stream=stream)
    assert caught.value.status_code == 500 and caught.value.code == "internal"
    assert "a request failed" in caplog.text and "an inner shape does not fit" in caplog.text
    hook.remove()
    assert server.client().chat.completions.create(messages=start(), **GREEDY).choices  # the next one is answered


def test_messages_that_the_template_refuses_hold_no_session(serve) -> None:  # type: ignore[no-untyped-def]
    server = serve(sessions=2, at_once=2)
    body = json.dumps({"messages": [{"role": "user", "content": "\ud83d"}], **GREEDY})
    url = f"{server.url}/v1/chat/completions"
    for _ in range(3):
        sent = httpx.post(url, content=body, headers={"Content-Type": "application/json"})
        words = "messages[0].content: got half of a surrogate pair at character 0; wanted valid Unicode"
        assert sent.status_code == 400 and sent.json()["error"]["message"] == words
    assert len(server.engine.store) == 0


def test_an_answer_as_long_as_the_window_is_refused_under_a_budget_too(serve) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(openai.BadRequestError, match="the answer may have 400 tokens; allowed: less than the window"):
        serve(window=400, kv_tokens=100).client().chat.completions.create(
            messages=start(), model="tiny", max_tokens=400
        )


def test_fewer_sessions_than_are_answered_at_once() -> None:
    with pytest.raises(ValueError, match="sessions: got 2 with 8 answered at once"):
        Engine(model(), byte_level(), lambda: None, sessions=2)  # type: ignore[arg-type, return-value]


def test_a_shutdown_finishes_what_is_running(serve) -> None:  # type: ignore[no-untyped-def]
    server = serve()
    stream = server.client().chat.completions.create(
        messages=start(), model="tiny", max_tokens=60, temperature=0, stream=True
    )
    next(stream)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    rest = [chunk.choices[0] for chunk in stream if chunk.choices]
    assert rest[-1].finish_reason in ("length", "stop")
    stopping.join(30)
    with pytest.raises(openai.APIConnectionError):
        server.client().chat.completions.create(messages=start(), **GREEDY)
