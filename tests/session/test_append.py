"""A session that keeps its own chat does what a session does that gets the whole chat at every call."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import pytest
import torch

from erecap.budget import Budget
from erecap.errors import ConfigError, ModelError, RunError
from erecap.session import ReplanSession
from erecap.session.conversation.incremental_render import ChatEnds, growth_of
from erecap.tokens import PruneConfig
from tests.context.small_tokenizers import INST, MOVING, byte_level, llama_like, metaspace
from tests.session.chats import model, start, turn
from tests.tokens import models

NEW = 6
# Drops reasoning from all answers but the last, and answers to tools look like users: as Qwen3 does.
REASONING = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m['role'] == 'user' and not "
    "m['content'].startswith('<tool_response>') %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' and "
    "'</think>' in m['content'] and loop.index0 < ns.last %}{{ m['content'].split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def observation(number: int, **claims: Any) -> dict:
    return {"role": "user", "content": f"> go to shelf {number}\nYou see a mug {number * 7}.", **claims}


@cache
def large_vocabulary() -> Any:
    """A tiny model for any of the small tokenizers."""
    kind, config = models.tiny_config("llama")
    config.vocab_size, config.max_position_embeddings = 1000, 4096
    torch.manual_seed(5)
    return kind(config).eval()


def with_template(template: str) -> Any:
    """A byte-level tokenizer of its own with this chat template."""
    from transformers import PreTrainedTokenizerFast

    plain = byte_level()
    made = PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    made.chat_template = template
    return made


SETTINGS: dict[str, dict] = {
    "whole": {},
    "budget": {"budget": Budget(kv_tokens=120)},
    "attention": {"budget": Budget(kv_tokens=120), "evict_by": "attention"},
    "pruned": {"budget": Budget(kv_tokens=120), "prune": PruneConfig("recency", 0.8, (3, 5))},
    "forgetful": {"budget": Budget(kv_tokens=120), "rewind_tokens": 30},
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_it_equals_the_whole_chat_at_every_turn(kind: str) -> None:
    own, whole = (ReplanSession(model(), byte_level(), **SETTINGS[kind]) for _ in range(2))
    messages = start()
    assert own.append(messages) == whole.read(messages)
    for number in range(12):
        # An old look at a shelf is superseded by each new one, and a failure stays open for a while.
        claims = {"protect": [(0, 4)]} if number % 3 == 0 else {}
        got, expected = own.generate(max_new_tokens=NEW), whole.generate(messages, max_new_tokens=NEW)
        assert got.text == expected.text and got.usage == expected.usage
        assert own.token_ids == whole.token_ids
        assert own.conversation.transcript.known_marks == whole.conversation.transcript.known_marks
        for layer in range(own.cache.layer_count):
            assert own.cache.layout(layer).index.equal(whole.cache.layout(layer).index)
        new = [observation(number, **claims)]
        stale = [(len(messages) - 1, 2, 9)] if number % 2 else []
        for message, low, high in stale:
            messages[message] = {**messages[message], "stale": [(low, high)]}
            if number % 3 == 1:  # what was protected is no longer, where it is stale
                messages[message]["protect"] = [(0, 2)]
        messages += [{"role": "assistant", "content": got.text}, *new]
        assert own.append(new, stale=stale) == whole.read(messages)
    if kind != "whole":
        assert max(own.cache.kept_lengths()) <= 120


@pytest.mark.parametrize(
    "make",
    [byte_level, metaspace, lambda: llama_like(INST), lambda: llama_like(MOVING), lambda: with_template(REASONING)],
    ids=["byte_level", "metaspace", "strips", "moves", "reasoning"],
)
def test_any_template_reads_the_text_of_the_whole_chat(make) -> None:  # type: ignore[no-untyped-def]
    tokenizer = make()
    session = ReplanSession(large_vocabulary(), tokenizer)
    messages, new = start(), start()
    answers = ["go to shelf 1", "<think>hm</think>\nopen it", " look ", "", "take <|im_end|> mug", "wait"]
    seen: list[str] = []
    enter = session.prefill.enter

    def watched(part, known, answering=False, **more):  # type: ignore[no-untyped-def]
        ids, marks, reused = enter(part, known, answering, **more)
        if answering:
            seen.append(part.text if not part.offset else "")
            whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            assert whole[part.offset :] == part.text, len(messages)
            # What is read is the text: from where reading goes on.
            assert "".join(tokenizer.decode(ids).split()).endswith("".join(part.text[-5:].split()))
        return ids, marks, reused

    session.prefill.enter = watched
    for number, answer in enumerate(answers):
        session.append(new)
        session.generate(max_new_tokens=2)
        new = [{"role": "assistant", "content": answer}, observation(number)]
        messages += new
    # Templates that rewrite are rendered whole; the others only at their end, once the chat is longer than that.
    assert bool(seen[-1]) is growth_of(tokenizer).rewrites


def test_what_templates_are() -> None:
    assert not growth_of(byte_level()).rewrites and not growth_of(byte_level()).triggers
    assert not growth_of(llama_like(INST)).rewrites
    assert growth_of(llama_like(MOVING)).rewrites
    growth = growth_of(with_template(REASONING))
    # Reasoning is cut away before it is read, unless it is only now that a user speaks again who is no tool.
    assert not growth.rewrites and growth.triggers == ("<tool_response>",)
    assert growth.rewritten([{"role": "user", "content": "<tool_response>b"}])
    assert not growth.rewritten([{"role": "assistant", "content": "a</think>b"}])


def test_whole_rendering_is_said_once(caplog) -> None:  # type: ignore[no-untyped-def]
    tokenizer = with_template(MOVING.replace("[INST]", "<|im_start|>"))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            session = ReplanSession(model(), tokenizer)
            session.append(start())
            session.append([observation(1)])
    assert [record.message for record in caplog.records if "rewrites earlier" in record.message][1:] == []
    assert len(caplog.records) == 1


def test_ends_of_a_chat_keep_roles_and_parity() -> None:
    ends = ChatEnds()
    for number in range(40):
        role = "system" if not number else ("user", "assistant")[(number + 1) % 2]
        ends.add({"role": role, "content": str(number)})  # type: ignore[typeddict-item]
        known, left_out = ends.stand_in()
        assert known[-1]["content"] == str(number) and len(known) % 2 == (number + 1) % 2
        assert [m["role"] for m in known[1:]] == ["user", "assistant"] * ((len(known) - 1) // 2) + ["user"] * (
            (len(known) - 1) % 2
        )
        assert left_out in (0, 2) and len(known) <= 5


def test_the_hosts_words_take_the_place_of_the_answer() -> None:
    session = ReplanSession(model(), byte_level())
    session.append(start())
    answer = session.generate(max_new_tokens=NEW)
    twin = session.fork()
    # The same words: nothing is read twice.
    session.append([{"role": "assistant", "content": answer.text}, observation(1)])
    twin.append([observation(1)])
    assert session.token_ids == twin.token_ids
    session.generate(max_new_tokens=NEW)
    messages = [*start(), {"role": "assistant", "content": answer.text}, observation(1)]
    session.append([{"role": "assistant", "content": "go to shelf 9"}])
    assert session.append([observation(2)]) > 0
    messages += [{"role": "assistant", "content": "go to shelf 9"}, observation(2)]
    expected = twin.generate(messages, max_new_tokens=NEW)
    assert session.generate(max_new_tokens=NEW).text == expected.text
    assert "shelf 9" in byte_level().decode(session.token_ids)


def test_asking_again_answers_anew() -> None:
    session = ReplanSession(model(), byte_level())
    session.append(start())
    first = session.generate(max_new_tokens=NEW)
    length = len(session.token_ids)
    again = session.generate(max_new_tokens=NEW)
    assert again.text == first.text and len(session.token_ids) == length
    other = session.generate(max_new_tokens=NEW, temperature=5.0, seed=3)
    assert other.text != first.text
    session.append([observation(1)])
    assert byte_level().decode(session.token_ids).count("assistant") == 1


def test_a_whole_chat_becomes_the_sessions_own_and_back() -> None:
    session, twin = (ReplanSession(model(), byte_level(), budget=Budget(kv_tokens=120)) for _ in range(2))
    messages = start()
    for number in range(9):
        if number % 3 == 1:
            text = session.generate(max_new_tokens=NEW).text
        else:
            text = session.generate(messages, max_new_tokens=NEW).text
        assert text == twin.generate(messages, max_new_tokens=NEW).text
        assert session.token_ids == twin.token_ids
        new = [observation(number)]
        messages += [{"role": "assistant", "content": text}, *new]
        if number % 3 == 0:
            assert session.append(new) == twin.read(messages)
    assert session.cache.kept_lengths() == twin.cache.kept_lengths()


def test_forks_and_files_go_on_with_the_chat(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for tokenizer in (byte_level(), with_template(MOVING.replace("[INST]", "<|im_start|>"))):
        session = ReplanSession(model(), tokenizer, budget=Budget(kv_tokens=120), rewind_tokens=40)
        session.append(start())
        for number in range(6):
            session.generate(max_new_tokens=NEW)
            session.append([observation(number, protect=[(0, 5)], stale=[(6, 9)])])
        session.generate(max_new_tokens=NEW)
        fork = session.fork()
        session.save(tmp_path / "agent.safetensors")
        other = ReplanSession(model(), tokenizer, budget=Budget(kv_tokens=120), rewind_tokens=40)
        other.restore(tmp_path / "agent.safetensors")
        results = []
        for one in (session, fork, other):
            one.append([observation(50)], stale=[(13, 0, 3)])
            results.append((one.generate(max_new_tokens=NEW).text, one.token_ids, one.cache.kept_lengths()))
        assert results[0] == results[1] == results[2]


def test_a_plan_is_checked_against_the_own_chat() -> None:
    session = ReplanSession(model(), byte_level())
    session.append(start())
    plan = session.fork().generate(max_new_tokens=NEW).text
    assert session.still_valid(plan) == session.fork().still_valid(plan, start())
    assert session.generate(max_new_tokens=NEW).text == plan
    session.still_valid(plan)
    session.append([observation(1)])
    assert byte_level().decode(session.token_ids).count(plan) == 1


def test_bad_calls() -> None:
    session = ReplanSession(model(), byte_level())
    with pytest.raises(ValueError, match="nothing to answer; append messages first"):
        session.generate(max_new_tokens=NEW)
    assert session.append([]) == 0
    with pytest.raises(ConfigError, match=r"message 1: protect span \(0, 900\)"):
        session.append([start()[0], {"role": "user", "content": "Go.", "protect": [(0, 900)]}])
    session.append(start())
    with pytest.raises(ValueError, match="trace shows the whole chat"):
        session.generate(max_new_tokens=NEW, trace=True)
    with pytest.raises(ConfigError, match=r"stale span \(7, 0, 2\)"):
        session.append([observation(1)], stale=[(7, 0, 2)])
    with pytest.raises(ModelError, match="not valid Unicode"):
        session.append([{"role": "user", "content": "\ud800"}])
    twin = ReplanSession(model(), byte_level())
    assert session.generate(max_new_tokens=NEW).text == twin.generate(start(), max_new_tokens=NEW).text
    with pytest.raises(ModelError, match="refuses roles"):
        ReplanSession(model(), llama_like(INST)).append([*start(), observation(1)])


@pytest.mark.parametrize("turns", [1, 6])
def test_a_chat_whose_end_was_lost_is_read_again_or_that_is_said(turns: int) -> None:
    session = ReplanSession(model(), byte_level())
    session.append(start())
    messages = start()
    for number in range(turns):
        messages += turn(session.generate(max_new_tokens=NEW).text, number)
        session.append(messages[-1:])
    failing = session.engine.forward
    session.engine.forward = lambda *args, **options: (_ for _ in ()).throw(MemoryError("planted"))
    with pytest.raises(MemoryError):
        session.forget((20, 30))
    session.engine.forward = failing
    assert len(session.token_ids) <= 20
    if turns > 1:
        with pytest.raises(RunError, match="give the whole chat"):
            session.append([observation(50)])
        session.read(messages)
    session.append([observation(50)])
    messages.append(observation(50))
    fresh = ReplanSession(model(), byte_level()).generate(messages, max_new_tokens=NEW)
    assert session.generate(max_new_tokens=NEW).text == fresh.text
