"""Agents that decode together answer, store and rank as they do alone."""

from __future__ import annotations

import copy

import pytest
import torch

from erecap.budget import Budget
from erecap.decoding.short import short_reads
from erecap.session import ReplanPool, ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.session.pooling import AGENTS, assert_same_state, chats, close, hooks_of, options, recorded
from tests.tokens.models import ARCHITECTURES

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator"))


@pytest.mark.parametrize("way", ["flat", "model", "padded", CUDA])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_together_is_as_alone(name: str, way: str, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    if way == "model":
        monkeypatch.setattr("erecap.decoding.short.FUSED_TOKENS", 0)
    if way == "padded":  # as on an accelerator
        monkeypatch.setattr(short_reads(model(name)).same, "pads", True)
    shared = copy.deepcopy(model(name)).to("cuda") if way == "cuda" else model(name)
    before = hooks_of(shared)
    pool = ReplanPool(shared, byte_level())
    alone = [ReplanSession(model(name), byte_level(), **agent["session"]) for agent in AGENTS]
    together = [pool.session(**agent["session"]) for agent in AGENTS]
    rows = [(recorded(one), recorded(two)) for one, two in zip(together, alone, strict=True)]
    talks = chats()
    for number in range(2):
        wanted = [s.generate(m, **options(a)) for s, m, a in zip(alone, talks, AGENTS, strict=True)]
        got = pool.generate([(s, m, options(a)) for s, m, a in zip(together, talks, AGENTS, strict=True)])
        assert [g.text for g in got] == [w.text for w in wanted]
        assert [g.usage for g in got] == [w.usage for w in wanted]
        for one, two in zip(together, alone, strict=True):
            assert_same_state(one, two)
        talks = [[*m, *turn(g.text, number)] for m, g in zip(talks, got, strict=True)]
    for one, two in rows:
        assert len(one) == len(two) and all(close(a, b) for a, b in zip(one, two, strict=True))
    # Most of the forward calls were shared, and none was tried in vain.
    assert pool.counts.requests == sum(len(one) for one, _ in rows)
    assert pool.counts.forwards < 0.45 * pool.counts.requests and pool.counts.retries == 0
    assert hooks_of(shared) == before


def test_eager_attention(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("erecap.decoding.short.FUSED_TOKENS", 0)
    monkeypatch.setattr(model("mistral").config, "_attn_implementation", "eager")
    pool = ReplanPool(model("mistral"), byte_level())
    calls = [(pool.session(**a["session"]), m, options(a)) for a, m in zip(AGENTS, chats(), strict=True)]
    wanted = [ReplanSession(model("mistral"), byte_level(), **a["session"]) for a in AGENTS]
    for got, alone, (session, messages, given) in zip(pool.generate(calls), wanted, calls, strict=True):
        assert got.text == alone.generate(messages, **given).text
        assert_same_state(session, alone)
    assert model("mistral").config._attn_implementation == "eager"


def test_long_reads_are_split_over_forward_calls() -> None:
    pool = ReplanPool(model(), byte_level(), max_tokens=130)
    long = [{"role": "user", "content": "Look at the shelf. " * n} for n in (30, 2, 3, 40)]
    given = {"max_new_tokens": 4}
    got = pool.generate([(pool.session(prefill_chunk=100), [m], given) for m in long])
    wanted = [ReplanSession(model(), byte_level(), prefill_chunk=100).generate([m], **given) for m in long]
    assert [g.text for g in got] == [w.text for w in wanted]


def test_packed_weights_keep_to_themselves() -> None:
    pool = ReplanPool(model(), byte_level())
    kinds = ["int8", "same", "int8", "same", "int8"]
    given = {"max_new_tokens": 12, "draft": "go to shelf 1"}
    sessions = [pool.session(decode_weights=kind) for kind in kinds]
    rows = [recorded(session) for session in sessions]
    got = pool.generate([(s, m, given) for s, m in zip(sessions, chats(), strict=False)])
    for kind, messages, answer, own in zip(kinds, chats(), got, rows, strict=False):
        alone = ReplanSession(model(), byte_level(), decode_weights=kind)
        wanted = recorded(alone)
        assert alone.generate(messages, **given).text == answer.text
        if kind == "int8":  # to the bit: rounded to bfloat16 on the way, a small difference would be a large one
            assert all(torch.equal(a, b) for a, b in zip(own, wanted, strict=True))


def test_planners_around_sessions_share_as_well() -> None:
    """Functions that call a session somewhere inside, several times, and read, and check plans."""
    pool = ReplanPool(model(), byte_level())

    def work(session: ReplanSession, messages: list[dict]) -> list:
        text = session.generate(messages, max_new_tokens=6).text
        after = [*messages, *turn(text, 3)]
        return [text, session.read(after), session.still_valid("go to shelf 1", after), session.fork().token_ids]

    jobs = [lambda m=m: work(pool.session(budget=Budget(kv_tokens=100)), m) for m in chats()]
    wanted = [work(ReplanSession(model(), byte_level(), budget=Budget(kv_tokens=100)), m) for m in chats()]
    assert pool.run(jobs) == wanted and pool.counts.forwards < pool.counts.requests / 2


def test_sessions_on_another_model_are_served_inside_run() -> None:
    pool = ReplanPool(model(), byte_level())
    other = ReplanSession(model("gemma3"), byte_level())
    jobs = [lambda s=s: s.generate(start(), max_new_tokens=4).text for s in (pool.session(), other, pool.session())]
    twins = [ReplanSession(model(name), byte_level()) for name in ("llama", "gemma3", "llama")]
    assert pool.run(jobs) == [twin.generate(start(), max_new_tokens=4).text for twin in twins]


def test_callers_modes_hold_in_the_jobs() -> None:
    pool = ReplanPool(model(), byte_level())

    def work(session: ReplanSession, messages: list[dict]) -> str:
        session.read(messages)
        session.splice((10, 10))  # writes over stored keys, which is not allowed outside of that mode
        return session.generate(messages, max_new_tokens=6).text

    with torch.inference_mode():
        got = pool.run([lambda m=m: work(pool.session(), m) for m in chats()[:3]])
    assert got == [work(ReplanSession(model(), byte_level()), m) for m in chats()[:3]]


@pytest.mark.integration
def test_together_is_as_alone_on_the_embedded_model(embedded_model) -> None:  # type: ignore[no-untyped-def]
    made, tokenizer = embedded_model
    pool = ReplanPool(made, tokenizer)
    goals = ["cool the apple 1", "put the mug 2 on the shelf 3, then look", "heat the egg 1"]
    talks = [[{"role": "user", "content": f"You plan for a robot. Goal: {goal}. What next?"}] for goal in goals]
    budget = Budget(kv_tokens=48)
    together, alone = ([ReplanSession(made, tokenizer, budget=budget) for _ in goals] for _ in range(2))
    for number in range(2):
        got = pool.generate([(s, m, {"max_new_tokens": 12}) for s, m in zip(together, talks, strict=True)])
        assert [g.text for g in got] == [
            s.generate(m, max_new_tokens=12).text for s, m in zip(alone, talks, strict=True)
        ]
        talks = [[*m, *turn(g.text, number)] for m, g in zip(talks, got, strict=True)]
    for one, two in zip(together, alone, strict=True):
        assert_same_state(one, two)
    assert pool.counts.forwards < pool.counts.requests / 2


def test_no_jobs_and_no_places() -> None:
    pool = ReplanPool(model(), byte_level())
    assert pool.run([]) == [] and pool.generate([]) == [] and list(pool.stream([], at_once=2)) == []
    with pytest.raises(ValueError, match="at_once must be at least 1"):
        list(pool.stream([lambda: 1], at_once=0))


def test_a_stream_of_jobs_never_has_more_begun_than_it_may() -> None:
    pool = ReplanPool(model(), byte_level())
    begun, ended, most = [], [], [0]

    def work(number: int) -> tuple[int, str]:
        begun.append(number)
        most[0] = max(most[0], len(begun) - len(ended))
        text = pool.session().generate(chats()[number % 3], max_new_tokens=2 + number % 4).text
        ended.append(number)
        return number, text

    jobs = (lambda n=n: work(n) for n in range(9))
    got = dict(pool.stream(jobs, at_once=3))
    assert most == [3] and begun == list(range(9)) and sorted(got) == begun and ended != begun
    assert pool.counts.forwards < 0.7 * pool.counts.requests
    for number, text in got.items():
        alone = ReplanSession(model(), byte_level())
        assert text == alone.generate(chats()[number % 3], max_new_tokens=2 + number % 4).text
    assert list(pool.stream([], at_once=3)) == []


def test_a_stream_that_is_closed_or_fails_ends_what_has_begun() -> None:
    pool = ReplanPool(model(), byte_level())
    before = hooks_of(model())
    cleaned: list[int] = []

    def work(number: int, fails: bool) -> int:
        try:
            pool.session().generate(chats()[0], max_new_tokens=2 + 4 * number)
            if fails:
                raise OSError("no more")
            return number
        finally:
            cleaned.append(number)

    stream = pool.stream([lambda n=n: work(n, False) for n in range(6)], at_once=3)
    assert next(stream) == 0
    stream.close()
    assert sorted(cleaned) == [0, 1, 2] and hooks_of(model()) == before
    cleaned.clear()
    with pytest.raises(OSError, match="no more"):
        list(pool.stream([lambda n=n: work(n, n == 1) for n in range(6)], at_once=3))
    # 0 made room for 3, which had begun when 1 failed.
    assert sorted(cleaned) == [0, 1, 2, 3] and hooks_of(model()) == before
