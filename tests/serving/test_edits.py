"""Edits of a chat in a request: the real client of `openai` against the same edits made in the process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import openai
import pytest

from erecap.session.chat_edits import ChatEdits
from erecap.session.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.serving.conftest import Server
from tests.session.chats import turn
from tests.session.sharp import WINDOW, sharp
from tests.session.test_chat_edits import chat, masked

GREEDY: dict[str, Any] = {"model": "tiny", "temperature": 0.0, "max_tokens": 8}
DROP = {"drop_message": {"5": [2, 3], "7": [4]}}


@pytest.fixture
def serve(serve: Callable[..., Server]) -> Callable[..., Server]:
    """Servers of a model whose answers depend on what it sees."""
    sharp()
    return partial(serve, window=WINDOW)


def asked(client: openai.OpenAI, messages: list[dict], **fields: Any) -> Any:
    return client.chat.completions.create(messages=messages, extra_body=fields, **GREEDY)  # type: ignore[call-overload]


def in_process(messages: list[dict], edits: ChatEdits) -> Any:
    session = ReplanSession(sharp(), byte_level(), retokenize=True)
    return session.generate(messages, max_new_tokens=8, edits=edits)


def details(answer: Any) -> dict[str, int]:
    found: dict[str, int] = answer.usage.prompt_tokens_details.model_dump(exclude_none=True)
    return found


def test_the_answer_is_that_of_the_same_edit_in_the_process(serve: Callable[..., Server]) -> None:
    client, talk = serve().client(), chat()
    answer = asked(client, talk, **DROP)
    assert answer.choices[0].message.content == in_process(talk, ChatEdits({5: [2, 3], 7: [4]})).text
    assert answer.choices[0].message.content == masked(talk, {5: [2, 3], 7: [4]})
    counts = details(answer)
    dropped = counts["evicted_tokens"]
    assert dropped > 80 and counts == {
        "cached_tokens": 0, "evicted_tokens": dropped, "drop_skipped_tokens": 0, "repos_tokens": 0
    }  # fmt: skip
    again = asked(client, talk, **DROP)  # an edit list twice is the list once
    assert again.choices[0].message.content == answer.choices[0].message.content
    read = again.usage.prompt_tokens - 1
    assert details(again) == {
        "cached_tokens": read - dropped, "evicted_tokens": dropped, "drop_skipped_tokens": dropped, "repos_tokens": 0
    }  # fmt: skip
    rule = {"drop_rule": {"type": "message_drop", "drop_messages": DROP["drop_message"]}}
    assert details(asked(client, talk, **rule)) == details(again)  # another name of the same list
    plain = asked(client, talk)
    assert plain.choices[0].message.content == in_process(talk, ChatEdits()).text != again.choices[0].message.content
    assert details(plain)["evicted_tokens"] == 0 and "drop_skipped_tokens" not in details(plain)


def test_a_rule_drops_as_the_conversation_grows(serve: Callable[..., Server]) -> None:
    client, talk, rule = serve().client(), chat(1), {"drop_rule": {"type": "thinking_drop"}}
    evicted = []
    for number in range(3):
        answer = asked(client, talk, **rule)
        assert answer.choices[0].message.content == in_process(talk, ChatEdits(thinking=True)).text
        evicted.append(details(answer)["evicted_tokens"])
        if number:
            assert details(answer)["cached_tokens"] > 0.5 * answer.usage.prompt_tokens
        talk += turn(f"<think>now the shelf {number}</think>look", number)
    assert 0 < evicted[0] < evicted[1] < evicted[2]
    assert details(asked(client, talk[:2], **rule))["evicted_tokens"] == 0  # no thinking yet, and nothing to refuse


def test_positions_close_up_and_are_counted(serve: Callable[..., Server]) -> None:
    client, talk = serve().client(), chat()
    asked(client, talk[:8], drop_message={"5": [2, 3]})
    fields = {"drop_message": {"5": [2, 3]}, "reposition": [8]}
    answer = asked(client, talk, **fields)
    assert answer.choices[0].message.content == in_process(talk, ChatEdits({5: [2, 3]}, [8])).text
    counts = details(answer)
    assert counts["repos_tokens"] > 50 and counts["drop_skipped_tokens"] > 50
    assert details(asked(client, talk, **fields))["repos_tokens"] == 0  # they have moved already


def test_a_stream_ends_with_the_counts(serve: Callable[..., Server]) -> None:
    client, talk = serve().client(), chat()
    whole = asked(client, talk, **DROP)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(messages=talk, extra_body=DROP, **options, **GREEDY))  # type: ignore[call-overload]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content and details(chunks[-1])["drop_skipped_tokens"] > 80


def test_numbers_are_those_of_the_request_where_tools_put_a_message_before_it(serve: Callable[..., Server]) -> None:
    client, talk = serve().client(), chat()[1:]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    bare, with_tools = (
        details(asked(client, talk, drop_message={"4": [1, 2]}, **more))["evicted_tokens"]
        for more in ({}, {"tools": tools})
    )
    assert bare == with_tools > 40


def test_two_clients_with_one_chat_keep_their_own_edits(serve: Callable[..., Server]) -> None:
    server, talk = serve(), chat()
    client = server.client()
    lists: list[dict[str, Any]] = [DROP, {}, {"drop_message": {"7": [4]}}]
    said: list[str] = []
    for round_ in range(2):
        for fields in lists:
            answer = asked(client, talk, **fields)
            said.append(answer.choices[0].message.content)
            if round_:
                counts = details(answer)
                found = counts["cached_tokens"] + counts.get("drop_skipped_tokens", 0)
                assert found == answer.usage.prompt_tokens - 1  # nobody has undone it
    assert said[:3] == said[3:] and len(set(said)) == 3
    assert len(server.engine.store) == 3


def test_edits_hold_beside_a_budget_and_after_a_changed_past(serve: Callable[..., Server]) -> None:
    client, talk = serve(kv_tokens=170).client(), chat(9)
    for fields in (DROP, DROP, {}):
        assert asked(client, talk, **fields).choices[0].message.content
    free = serve().client()
    asked(free, talk, **DROP)
    changed = [*talk[:4], {"role": "assistant", "content": "open it"}, *talk[5:]]
    answer = asked(free, changed, **DROP)
    assert answer.choices[0].message.content == in_process(changed, ChatEdits({5: [2, 3], 7: [4]})).text
    shorter = asked(free, talk[:6], **DROP)  # the client goes back: what was dropped behind message 7 is there again
    assert shorter.choices[0].message.content == in_process(talk[:6], ChatEdits({5: [2, 3]})).text


WRONG = [
    ({"drop_message": [1]}, "drop_message", r"got \[1\]; wanted an object"),
    ({"drop_message": {"x": [1]}}, "drop_message.x", "wanted the number of a message"),
    ({"drop_message": {"03": [1]}}, "drop_message.03", "wanted the number of a message"),
    ({"drop_message": {"3": 1}}, "drop_message.3", "got 1; wanted a list"),
    ({"drop_message": {"3": [1, True]}}, r"drop_message.3\[1\]", "got True; wanted the number"),
    ({"drop_message": {"3": [-1]}}, r"drop_message.3\[0\]", "got -1; wanted the number"),
    ({"drop_message": {"3": [4]}}, r"drop_message.3\[0\]", "behind message 3 only messages 0 to 3"),
    ({"reposition": 3}, "reposition", "wanted a list"),
    ({"reposition": ["1"]}, r"reposition\[0\]", "got '1'; wanted the number"),
    ({"reposition": [2, 2]}, r"reposition\[1\]", "wanted rising numbers of the 10 messages"),
    ({"reposition": [10]}, r"reposition\[0\]", "got 10; wanted rising numbers"),
    ({"drop_rule": "thinking_drop"}, "drop_rule.type", "this server knows: message_drop, thinking_drop"),
    ({"drop_rule": {"type": "text_drop"}}, "drop_rule.type", "got 'text_drop'"),
    ({"drop_rule": {"type": "thinking_drop", "keep": 1}}, "drop_rule.keep", "does not have that"),
    ({"drop_rule": {"type": "message_drop"}}, "drop_rule.drop_messages", "missing"),
    ({"drop_rule": {"type": "message_drop", "drop_messages": {"1": [2]}}}, "drop_rule.drop_messages.1", "behind"),
    ({"drop_rule": {"type": "thinking_drop"}, "drop_message": {}}, "drop_rule", "beside drop_message"),
]


def test_what_is_no_edit_is_refused_with_its_place(serve: Callable[..., Server]) -> None:
    server = serve()
    url = f"{server.url}/v1/chat/completions"
    for fields, place, words in WRONG:
        answer = httpx.post(url, json={**GREEDY, "messages": chat(), **fields}, timeout=60)
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["param"].startswith(place.replace("\\", ""))
        with pytest.raises(openai.BadRequestError, match=f"{place}.*: .*{words}"):
            asked(server.client(), chat(), **fields)
    odd = [*chat(), {"role": "assistant", "content": "<think>hm"}, {"role": "user", "content": "x"}]
    with pytest.raises(openai.BadRequestError, match=r"messages\[10\].content: a <think> at character 0 without"):
        asked(server.client(), odd, drop_rule={"type": "thinking_drop"})
    later = asked(server.client(), chat(), drop_message={"99": [1, 50]}, drop_rule=None)
    assert details(later)["evicted_tokens"] == 0  # an edit behind a message that is still to come
    with pytest.raises(openai.BadRequestError, match=r"drop_message: got .*; this server does not do that"):
        server.client().responses.create(model="tiny", input="x", extra_body=DROP)
    assert len(server.engine.store) == 1 and server.engine.store.busy == 0
