"""Planners that are shown text: prompt strings, conversations that take turns, the switch, and errors."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import erecap
from erecap.context.lines import PATTERNS
from erecap.errors import ConfigError
from erecap.wrapping.prompts import PromptTalk, join_prompt
from erecap.wrapping.switch import SWITCH
from tests.tokens.models import prompt as model_prompt
from tests.tokens.models import tiny

HEAD = "Here is an example.\n> go to fridge 9\nThe fridge 9 is closed.\n\nYour task: cool a pan, please.\n>"
LLAMA = (
    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
)
WORDS = st.lists(st.sampled_from(["go", "shelf 1", "\n", "is closed.", "<|im_end|>", ">", "é"]), max_size=6).map(
    " ".join
)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "replans.jsonl").read_text().splitlines()]


@settings(max_examples=150, deadline=None)
@given(WORDS, st.lists(st.tuples(WORDS, WORDS, st.booleans()), max_size=8), st.sampled_from([None, *sorted(PATTERNS)]))
def test_a_string_is_its_messages(head: str, calls: list[tuple[str, str, bool]], name: str | None) -> None:
    talk = PromptTalk(head, PATTERNS[name] if name else None)
    prompt = head
    assert join_prompt(talk.read(prompt)) == prompt
    for answer, below, told in calls:
        talk.answer = answer if told else ""
        prompt += f" {answer}\n{below}\n>"
        assert talk.continues(prompt)
        messages = talk.read(prompt)
        assert join_prompt(messages) == prompt
        for message in messages[1:]:
            for start, end in message["observations"]:
                text = message["content"][start:end]
                # Neither a tag nor the words that ask for the next answer.
                assert text and (name or "<|" not in text) and end < len(message["content"])


def play(llm, steps: int, tags: tuple[str, str] | None = None) -> list[str]:  # type: ignore[no-untyped-def]
    """The loop of a ReAct agent: what it sends, call by call."""
    prompt, sent = HEAD, []
    for number in range(steps):
        sent.append(prompt)
        action = llm(prompt, stop=["\n"]).strip()
        seen = f"On the shelf {number}, you see a mug {number}, and a plate {number}."
        prompt += f"{action}{tags[0]}{seen}\n{tags[1]}" if tags else f" {action}\n{seen}\n>"
    return sent


@pytest.mark.parametrize(("tags", "most"), [(None, 260), (LLAMA, 620)], ids=["lines", "llama"])
def test_a_growing_string_stays_within_its_budget_and_keeps_its_front(tags, most, tmp_path) -> None:  # type: ignore[no-untyped-def]
    seen: list[str] = []

    def llm(prompt: str, stop: list[str] | None = None) -> str:
        assert stop == ["\n"]
        seen.append(prompt)
        return f" go to shelf {len(seen) - 1}"

    wrapped = erecap.wrap(llm, keep_tokens=most, log=tmp_path, patterns=None if tags else "alfworld")
    sent = play(wrapped, 40, tags)
    assert len(seen) == 40 and seen[0] == HEAD and seen[3] == sent[3]
    assert max(len(prompt) for prompt in seen) <= most * 4 < len(sent[-1])
    kept_front = 0
    for before, prompt, whole in zip(seen, seen[1:], sent[1:], strict=False):
        assert prompt.startswith(HEAD) and prompt.endswith(tags[1] if tags else "\n>")
        # The newest exchange is there to the letter, and no tag was cut.
        assert prompt[-60:] == whole[-60:]
        assert prompt.count("<|") == prompt.count("|>") and "||" not in prompt
        kept_front += prompt.startswith(before)
    assert kept_front >= 25  # most calls only append
    noted = rows(tmp_path)
    assert noted[-1]["decision"] == "pruned" and noted[0]["decision"] == "passed"
    assert noted[-1]["prompt_tokens"] > most >= noted[-1]["kept_tokens"] and any(row["reused_tokens"] for row in noted)


def test_conversations_that_take_turns_are_told_apart() -> None:
    shown: dict[str, list[str]] = {"a": [], "b": []}
    prompts = {name: f"Agent {name}.\n>" for name in "ab"}

    def llm(prompt: str) -> str:
        shown[prompt[6]].append(prompt)
        return "look"

    wrapped = erecap.wrap(llm, keep_tokens=90)
    chats = {name: [{"role": "user", "content": f"Agent {name}, find the mug."}] for name in "ab"}
    wrapped_chat = erecap.wrap(lambda messages: messages[0]["content"], keep_tokens=90)
    for number in range(20):
        for name in "ab":
            wrapped(prompts[name])
            prompts[name] += f" look\nAgent {name} sees a thing {number} over there.\n>"
            assert wrapped_chat(chats[name]) == chats[name][0]["content"]
            seen = {"role": "user", "content": f"You, {name}, see a thing {number} over there."}
            chats[name] += [{"role": "assistant", "content": "look"}, seen]
    for name in "ab":
        assert all(f"Agent {'b' if name == 'a' else 'a'}" not in prompt for prompt in shown[name])
        assert sum(later.startswith(one) for one, later in zip(shown[name], shown[name][1:], strict=False)) >= 12


def test_the_switch_turns_it_off(monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    messages = [{"role": "user", "content": "x" * 400}] + [
        {"role": role, "content": "y" * 80} for role in ("assistant", "user") * 6
    ]
    wrapped = erecap.wrap(lambda m: m, keep_tokens=100, log=tmp_path)
    assert len(wrapped(messages)) < len(messages)
    monkeypatch.setenv(SWITCH, "full")
    assert wrapped(messages) is messages
    assert [(row["decision"], row["reason"]) for row in rows(tmp_path)][1] == ("passed", "ERECAP_MODE=full")
    model = erecap.wrap(tiny("llama"), keep=0.5, log=tmp_path / "model")
    model.generate(**model_prompt(), max_new_tokens=2)
    assert rows(tmp_path / "model")[0]["reason"] == "ERECAP_MODE=full"
    monkeypatch.setenv(SWITCH, "ful")
    for wrong in (lambda: wrapped(messages), lambda: model.generate(**model_prompt(), max_new_tokens=2)):
        with pytest.raises(ConfigError, match="ERECAP_MODE: got 'ful'; allowed: full"):
            wrong()


def test_what_is_protected_beyond_the_budget_is_said(tmp_path) -> None:  # type: ignore[no-untyped-def]
    wrapped = erecap.wrap(lambda m: m, keep_tokens=3, log=tmp_path)
    wrapped([{"role": "user", "content": "Find the mug on one of the shelves."}])
    chat = [{"role": "user", "content": "Find it."}]
    chat += [{"role": role, "content": "There is a plate here."} for role in ("assistant", "user") * 3]
    wrapped(chat)
    first, second = rows(tmp_path)
    assert first["decision"] == "passed" and first["reason"] == "17 tokens are protected, more than the 3 of the budget"
    assert second["decision"] == "pruned" and second["reason"].endswith("are protected, more than the 3 of the budget")


def test_what_an_error_of_the_middleware_does(tmp_path) -> None:  # type: ignore[no-untyped-def]
    counted = []

    def count(text: str) -> int:
        counted.append(text)
        if len(counted) == 1:
            raise OverflowError("no such number")
        return len(text)

    messages = [{"role": "user", "content": "abc"}]
    with pytest.raises(OverflowError):
        erecap.wrap(lambda m: "ok", keep_tokens=2, count_tokens=count)(messages)
    counted.clear()
    wrapped = erecap.wrap(
        lambda m: "ok" if m is messages else "cut", keep_tokens=2, count_tokens=count, on_error="full", log=tmp_path
    )
    assert wrapped(messages) == "ok"
    assert [(row["decision"], row["reason"]) for row in rows(tmp_path)] == [("failed", "OverflowError: no such number")]


def test_tools_keep_their_results_and_spans_stay_inside() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages: list[dict] = [{"role": "system", "content": "Plan."}, {"role": "user", "content": "Find it."}]
    for number in range(8):
        messages.append({"role": "assistant", "content": None, "tool_calls": [{**call, "id": f"c{number}"}]})
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": json.dumps({"seen": ["mug"] * 30})})
    shown = erecap.wrap(lambda m: m, keep_tokens=150)(messages)
    assert [m["tool_call_id"] for m in shown if m["role"] == "tool"] == [
        m["tool_calls"][0]["id"] for m in shown if m.get("tool_calls")
    ]
    assert all(set(m) <= {"role", "content", "tool_calls", "tool_call_id"} for m in shown)
    assert all(json.loads(m["content"]) is not None for m in shown if m["role"] == "tool")


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ([{"content": "x"}], {}, "message 0 must have a role and a text content"),
        (7, {}, "a list of messages or a text that grows, got int"),
        ("a prompt", {"keep": 0.5}, "give keep_tokens"),
    ],
)
def test_what_cannot_be_shortened_is_one_clear_line(given, options, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=words):
        erecap.wrap(lambda m: "x", **options)(given)


def test_without_a_limit_nothing_is_shortened_and_a_warning_says_so(tmp_path) -> None:  # type: ignore[no-untyped-def]
    told: list = []
    with pytest.warns(UserWarning, match=r"^erecap\.wrap shortens nothing .*give keep_tokens") as warned:
        wrapped = erecap.wrap(lambda messages: told.append(messages) or "look", log=tmp_path)
    assert len(warned) == 1 and warned[0].filename == __file__
    chat = [{"role": "system", "content": "You plan."}, {"role": "user", "content": "Find the mug."}]
    for turn in range(20):
        wrapped(chat)
        assert told[-1] is chat
        chat += [{"role": "assistant", "content": "look"}, {"role": "user", "content": f"Shelf {turn} is empty. " * 9}]
    wrapped("a prompt, which passes, too")
    assert told[-1] == "a prompt, which passes, too"
    assert {row["decision"] for row in rows(tmp_path)} == {"passed"}
    assert rows(tmp_path)[19]["prompt_tokens"] > rows(tmp_path)[0]["prompt_tokens"] > 0
    with warnings.catch_warnings():  # whoever asks for everything knows, and a copy has been told
        warnings.simplefilter("error")
        assert erecap.wrap(lambda messages: "look", keep=1.0)(chat) == "look"
        assert copy.deepcopy(wrapped)(chat) == "look"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"on_error": "pass"}, "on_error: got 'pass'; allowed: raise, full"),
        ({"patterns": "none"}, "patterns: got 'none'; allowed: erecap, react"),
    ],
)
def test_options_that_are_none(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        erecap.wrap(lambda m: "x", **options)
