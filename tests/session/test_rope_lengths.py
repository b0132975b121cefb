"""Sessions on models whose rotary embeddings follow the length of the sequence: the bare model's answers."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import erecap
from erecap.engines.protocol import EngineSettings
from erecap.engines.rope_lengths import RopeLengths, drops_cache, follows_length
from erecap.engines.transformers import TransformersEngine
from erecap.errors import BudgetError, RunError
from erecap.generation import Usage
from erecap.serving.engine import Engine
from erecap.session.pool.pool import ReplanPool
from erecap.session.session import ReplanSession
from tests.engines.changing_ropes import MODELS, SWITCH, bare_answer, changing
from tests.serving.asking import answer
from tests.tokens.families import ids_of
from tests.tokens.models import tiny
from tools.architectures.tokenizer import chat_tokenizer

NAMES = pytest.mark.parametrize("name", MODELS)


def session(name: str, **options: Any) -> ReplanSession:
    return ReplanSession(changing(name), chat_tokenizer(), retokenize=True, **options)


def rendered(chat: list[dict]) -> torch.Tensor:
    given = chat_tokenizer().apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    return given["input_ids"]


def wanted(name: str, chat: list[dict], new: int = 6) -> str:
    ids = bare_answer(changing(name), rendered(chat), new)
    return chat_tokenizer().decode(ids, skip_special_tokens=True)


def grown(chat: list[dict], text: str) -> list[dict]:
    turn = len(chat)
    return [*chat, {"role": "assistant", "content": text}, {"role": "user", "content": f"Mug {turn}, drawer."}]


def chat_of(tokens: int) -> list[dict]:
    """A chat whose prompt has about that many tokens, and at least that many."""
    chat = [{"role": "user", "content": "You see a mug."}]
    while rendered(chat).shape[1] < tokens:
        chat = grown(chat, "go to shelf")
    return chat


def engine(name: str, **settings: Any) -> TransformersEngine:
    return TransformersEngine(changing(name), EngineSettings(prefill_chunk=16, evicts=False, **settings))


def choice(on: TransformersEngine, ids: list[int], new: int) -> list[int]:
    """Greedy ids behind `ids`, one at a time."""
    token = int(on.read(ids).argmax())
    out = [token]
    with on.attached():
        while len(out) < new:
            out.append(int(on.verify([out[-1]])[-1].argmax()))
    return out


def test_which_models_these_are() -> None:
    assert [follows_length(changing(name)) for name in MODELS] == [True] * 6
    assert [drops_cache(changing(name)) for name in MODELS] == [True, True, False, False, False, False]
    assert not follows_length(tiny("llama"))


@NAMES
def test_a_chat_that_grows_past_the_switch_gets_the_bare_models_answers(name: str) -> None:
    on, chat, lengths, reused = session(name), [{"role": "user", "content": "You see a mug."}], [], []
    for _ in range(9):
        got = on.generate(chat, max_new_tokens=6)
        lengths.append(rendered(chat).shape[1])
        reused.append(got.usage.reused_tokens)
        assert got.text == wanted(name, chat) and got.usage.overflow_messages == 0
        assert got.usage.prompt_tokens == lengths[-1] and on.engine.stored().most == on.engine.tokens
        chat = grown(chat, got.text)
    assert lengths[0] < SWITCH < lengths[-2]
    first = next(turn for turn, length in enumerate(lengths) if length > SWITCH)
    assert all(reused[1:first]) and not reused[first]
    # Longrope changes once; dynamic NTK at every length, so that nothing can be reused.
    assert [bool(count) for count in reused[first + 1 :]] == [not name.startswith("dynamic")] * (8 - first)


@NAMES
@pytest.mark.parametrize("draft", [False, True])
def test_an_answer_that_crosses_the_switch(name: str, draft: bool) -> None:
    chat = chat_of(SWITCH - 30)
    assert rendered(chat).shape[1] <= SWITCH
    on = session(name, draft=draft)
    assert on.generate(chat, max_new_tokens=60).text == wanted(name, chat, 60)
    after = grown(chat, "go")
    assert on.generate(after, max_new_tokens=6).text == wanted(name, after)


@NAMES
def test_plain_ids_in_chunks_are_read_as_in_one_call(name: str) -> None:
    for tokens in (100, SWITCH - 1, SWITCH, SWITCH + 1, 200, 300):
        ids = ids_of(tokens)
        on = engine(name)
        assert choice(on, ids[0].tolist(), 12) == bare_answer(changing(name), ids, 12), tokens


@NAMES
def test_shorter_again(name: str) -> None:
    on, ids = engine(name), ids_of(200)[0].tolist()
    on.read(ids)
    on.rollback(90)
    assert choice(on, ids[90:110], 30) == bare_answer(changing(name), torch.tensor([ids[:110]]), 30)
    on.rollback(70)
    assert choice(on, ids[70:190], 5) == bare_answer(changing(name), torch.tensor([ids[:190]]), 5)


@pytest.mark.parametrize("name", ["phi3", "llama", "dynamic"])
def test_rejected_drafts_across_the_switch_leave_no_trace(name: str) -> None:
    on, ids = engine(name), ids_of(SWITCH - 3)[0].tolist()
    answer = [int(on.read(ids).argmax())]
    with on.attached():
        while len(answer) < 12:
            rows = on.verify([answer[-1], 5, 6, 7, 8, 9, 10])  # drafts that are hardly ever right
            on.rollback(on.tokens - 6)
            answer.append(int(rows[0].argmax()))
    assert answer == bare_answer(changing(name), torch.tensor([ids]), 12)


@pytest.mark.parametrize("name", ["phi3", "qwen2", "dynamic"])
def test_forks_on_both_sides_of_the_switch(name: str) -> None:
    short = chat_of(80)
    on = session(name)
    on.generate(short, max_new_tokens=4)
    long = grown(grown(grown(grown(short, "go"), "take it"), "open it"), "look around")
    assert rendered(long).shape[1] > SWITCH
    twin = on.fork()
    for one, chat in ((twin, long), (on, grown(short, "go")), (twin.fork(short), short), (on, long), (twin, long)):
        assert one.generate(chat, max_new_tokens=6).text == wanted(name, chat)


@pytest.mark.parametrize("name", ["phi3", "qwen2", "dynamic"])
@pytest.mark.parametrize("tokens", [80, 150])
def test_saved_and_restored(name: str, tokens: int, tmp_path: Path) -> None:
    on, chat = session(name), chat_of(tokens)
    on.generate(chat, max_new_tokens=6)
    on.save(tmp_path / "s")
    back = session(name)
    back.restore(tmp_path / "s")
    for _ in range(3):
        chat = grown(chat, "go")
        got, again = on.generate(chat, max_new_tokens=6), back.generate(chat, max_new_tokens=6)
        assert got.text == again.text == wanted(name, chat)
        assert undrafted(got.usage) == undrafted(again.usage)


def undrafted(usage: Usage) -> Usage:
    """All but how the answer was drafted: a restored session has to learn anew which drafts are worth a pass."""
    return replace(usage, drafted_tokens=0, accepted_tokens=0, decode_passes=0)


@pytest.mark.filterwarnings("ignore:.*changes its rotary embeddings")
def test_a_session_that_was_long_is_not_restored_under_a_budget(tmp_path: Path) -> None:
    on, chat = session("phi3"), chat_of(150)
    on.read(chat)
    on.save(tmp_path / "long")
    with pytest.raises(RunError, match="next position"):
        session("phi3", budget=64).restore(tmp_path / "long")
    on.engine.rollback(100)
    on.prefill.roll_back(sum(mark.tokens <= 100 for mark in on.conversation.transcript.marks))
    on.save(tmp_path / "rolled back")
    with pytest.raises(RunError, match="beyond 128 tokens"):
        session("phi3", budget=64).restore(tmp_path / "rolled back")


@pytest.mark.parametrize(
    "runs",
    [None, "x", [], [[0, [1]], [0, [1]]], [[0, [1, 2]]], [[3, [1]]], [[0, 1]], [[0, ["1"]]], [[0, [1]], [150, [0]]]],
)
def test_damaged_notes_of_angles_are_refused(runs: Any) -> None:
    lengths = RopeLengths(changing("phi3"))
    with pytest.raises(ValueError, match="angles"):
        lengths.restore(np.arange(150), runs, 150, 320)
    for ids in (np.arange(149), np.arange(150.0), np.arange(150) + 300, np.arange(150) - 1):
        with pytest.raises(ValueError, match="read_ids are not 150 token ids below 320"):
            lengths.restore(ids, [[0, [1]]], 150, 320)
    lengths.restore(np.arange(150), [[0, [0]], [128, [1]]], 150, 320)
    assert lengths.ids == list(range(150)) and not lengths.fit(150)


@pytest.mark.parametrize("name", ["phi3", "llama", "dynamic"])
def test_sessions_of_a_pool(name: str) -> None:
    pool = ReplanPool(changing(name), chat_tokenizer())
    chats = [chat_of(tokens) for tokens in (60, 120, 160)]
    ons = [pool.session(retokenize=True) for _ in chats]
    for _ in range(3):
        calls = [(on, chat, {"max_new_tokens": 6}) for on, chat in zip(ons, chats, strict=True)]
        found = [generation.text for generation in pool.generate(calls)]
        assert found == [wanted(name, chat) for chat in chats]
        chats = [grown(chat, text) for chat, text in zip(chats, found, strict=True)]


@pytest.mark.parametrize("name", ["phi3", "dynamic"])
def test_the_server(name: str) -> None:
    made = changing(name)
    on = Engine(made, chat_tokenizer(), lambda: ReplanSession(made, chat_tokenizer()))
    try:
        chat = chat_of(90)
        for _ in range(4):
            assert answer(on, chat, max_new_tokens=6).text == wanted(name, chat)
            chat = grown(chat, "go to shelf")
        assert rendered(chat).shape[1] > SWITCH
    finally:
        on.close()


def test_a_reading_again_that_is_cancelled_changes_nothing() -> None:
    asked, on, chat = [], session("phi3", prefill_chunk=16), chat_of(110)
    on.generate(chat, max_new_tokens=4)
    stored, chat = on.engine.tokens, chat_of(170)
    ended = on.generate(chat, max_new_tokens=4, cancel=lambda: asked.append(1) or len(asked) > 3)
    assert ended.finish_reason == "cancelled" and len(asked) == 4 and on.engine.tokens <= stored
    assert on.generate(chat, max_new_tokens=6).text == wanted("phi3", chat)
    assert on.generate(grown(chat, "go"), max_new_tokens=6).usage.reused_tokens > 100


def test_a_failing_reading_again_leaves_the_session_as_it_was() -> None:
    made = copy.deepcopy(changing("phi3"))
    on = ReplanSession(made, chat_tokenizer(), retokenize=True, prefill_chunk=16)
    short, long = chat_of(110), chat_of(170)
    on.generate(short, max_new_tokens=4)
    calls = []

    def fail(module: Any, args: tuple) -> None:
        calls.append(1)
        if len(calls) > 3:
            raise MemoryError("none left")

    on.read(short)
    stored = on.engine.tokens
    ids = on.token_ids
    with pytest.raises(MemoryError):
        engine_read(on, fail, ids_of(100)[0].tolist())
    assert on.engine.tokens == stored and on.token_ids == ids
    assert on.generate(short, max_new_tokens=6).text == wanted("phi3", short)
    assert on.generate(long, max_new_tokens=6).text == wanted("phi3", long)


def engine_read(on: ReplanSession, hook: Any, ids: list[int]) -> None:
    handle = on.model.model.layers[2].mlp.register_forward_pre_hook(hook)
    try:
        on.engine.read(ids)
    finally:
        handle.remove()


@pytest.mark.parametrize("name", ["phi3", "dynamic"])
def test_edits_before_the_switch_and_beyond(name: str) -> None:
    on = session(name)
    on.read(chat_of(60))
    assert on.engine.window > SWITCH
    assert on.evict((5, 15)) == 10 and on.engine.window == SWITCH
    with pytest.raises(BudgetError, match="exceed"):
        on.append([{"role": "user", "content": "a mug " * 40}])
    on = session(name)
    on.read(chat_of(150))
    with pytest.raises(ValueError, match=r"beyond 128 tokens, and more were read; .* in a session with a budget"):
        on.evict((5, 15))
    on.correct("the mug is gone")
    chat = chat_of(150)
    assert on.generate(chat, max_new_tokens=6).usage.completion_tokens == 6


@pytest.mark.filterwarnings("ignore:.*changes its rotary embeddings")
@pytest.mark.parametrize("name", ["phi3", "llama", "dynamic"])
def test_budgets(name: str) -> None:
    with pytest.raises(ValueError, match="beyond 128 tokens, where evicted tokens cannot be read again; give a budget"):
        session(name, budget=SWITCH)
    assert session(name, budget=SWITCH - 1).engine.window == SWITCH
    assert session(name, budget=erecap.Budget.auto(memory_bytes=10**6)).engine.window == SWITCH
    on, chat = session(name, budget="auto"), chat_of(150)
    assert on.engine.window > SWITCH
    assert on.generate(chat, max_new_tokens=6).text == wanted(name, chat)


def test_what_is_beyond_the_window_is_left_out_and_told() -> None:
    on, chat = session("dynamic"), chat_of(560)
    assert on.generate(chat, max_new_tokens=6).usage.overflow_messages > 0


def test_a_bare_call_beside_a_session_is_not_disturbed() -> None:
    made, ids = copy.deepcopy(changing("dynamic")), ids_of(150)
    expected = bare_answer(made, ids, 8)
    on = ReplanSession(made, chat_tokenizer(), retokenize=True)
    on.generate(chat_of(300), max_new_tokens=4)
    got = made.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, eos_token_id=2
    )
    assert got[0, 150:].tolist() == expected


def test_older_versions_of_transformers_are_refused_where_angles_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erecap.engines.refusals.LENGTHS_FROM", "99.0")
    with pytest.raises(ValueError, match=r"follows from transformers 99\.0 on, got \d.*; give a budget below"):
        ReplanSession(changing("phi3"), chat_tokenizer())
    assert ReplanSession(changing("phi3"), chat_tokenizer(), budget=SWITCH // 2)
