"""In a pool an error ends the call that it belongs to, an interrupt ends all, and every session stays usable."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial

import pytest
import torch

from erecap.session import ReplanPool, ReplanSession
from erecap.tokens import attach
from erecap.tokens.ragged import Part, read_together
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.session.pooling import assert_same_state, chats, close, hooks_of


@pytest.mark.parametrize("flat", [True, False])
def test_a_shared_call_that_fails_leaves_all_caches_as_they_were(flat: bool, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    made = model()
    engines = [ReplanSession(made, byte_level()).engine for _ in range(3)]
    parts = [Part(engine.cache, [5, 6, 7], 0) for engine in engines]

    def fail(*args, **kwargs):  # type: ignore[no-untyped-def]
        raise RuntimeError("broken")

    with attach(made, engines[0].cache, attention=True):
        read = engines[0].short.decoder(3, True).read_together if flat else partial(read_together, made)
        read(parts)
        with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="broken"):
            # The last cache cannot store in the middle of the layers.
            update = engines[2].cache.update
            broken.setattr(engines[2].cache, "update", lambda *a: fail() if a[2] == 4 else update(*a))
            read([Part(engine.cache, [8], 3) for engine in engines])
        for engine in engines:
            assert engine.cache.reading is None and engine.cache.get_seq_length() == 3
            assert [layer.length for layer in engine.cache.layers] == [3] * 8
        alone = [engine.forward_alone([8], 0, True) for engine in engines]
        for engine in engines:
            engine.rollback(3)
        assert all(close(a, b) for a, b in zip(read([Part(r.cache, [8], 3) for r in engines]), alone, strict=True))


@pytest.fixture
def fragile(monkeypatch):  # type: ignore[no-untyped-def]
    """A model that fails when it is to embed the token of `~`; the list holds what it raises."""
    monkeypatch.setattr("erecap.decoding.short.FUSED_TOKENS", 0)
    made, errors = model("qwen3"), [MemoryError("no room")]
    [bad] = byte_level()("~", add_special_tokens=False)["input_ids"]

    def check(module, args, output):  # type: ignore[no-untyped-def]
        if bool((args[0] == bad).any()):
            raise errors[0]

    # In the middle of the layers, after some of them have stored.
    ids: list[torch.Tensor] = []
    first = made.model.embed_tokens.register_forward_pre_hook(lambda module, args: ids.append(args[0]))
    handle = made.model.layers[4].register_forward_hook(lambda module, args, output: check(module, (ids[-1],), output))
    yield made, errors
    handle.remove()
    first.remove()


def test_a_failing_session_harms_no_other(fragile) -> None:  # type: ignore[no-untyped-def]
    made, _ = fragile
    pool = ReplanPool(made, byte_level())
    sessions = [pool.session() for _ in range(3)]
    given = {"max_new_tokens": 6}
    first = pool.generate([(s, m, given) for s, m in zip(sessions, chats(), strict=False)])
    talks = [[*m, *turn(g.text, 1)] for m, g in zip(chats(), first, strict=False)]
    bad = [*talks[1][:-1], {"role": "user", "content": "What is ~?"}]
    got = pool.generate([(s, m, given) for s, m in zip(sessions, [talks[0], bad, talks[2]], strict=True)],
                        return_exceptions=True)  # fmt: skip
    assert isinstance(got[1], MemoryError) and pool.counts.retries == 1
    twins = [ReplanSession(made, byte_level()) for _ in range(3)]
    for number, twin in enumerate(twins):
        twin.generate(chats()[number], **given)
    assert [got[n].text for n in (0, 2)] == [twins[n].generate(talks[n], **given).text for n in (0, 2)]
    # The one that failed goes on as if the call had not been.
    assert pool.generate([(sessions[1], talks[1], given)])[0].text == twins[1].generate(talks[1], **given).text
    for session, twin in zip(sessions, twins, strict=True):
        assert_same_state(session, twin)


def test_the_first_error_is_raised_when_the_others_have_ended(fragile) -> None:  # type: ignore[no-untyped-def]
    made, _ = fragile
    pool = ReplanPool(made, byte_level())
    good, bad = pool.session(), pool.session()
    with pytest.raises(MemoryError) as caught:
        pool.generate(
            [(bad, [{"role": "user", "content": "~"}], {"max_new_tokens": 5}), (good, start(), {"max_new_tokens": 5})]
        )
    assert caught.value.__notes__ == ["in call 0 of 2 of a ReplanPool"]
    assert good.token_ids and not bad.token_ids


@pytest.mark.parametrize("where", ["model", "callback", "signal"])
def test_an_interrupt_ends_all_and_leaves_them_usable(where: str, fragile) -> None:  # type: ignore[no-untyped-def]
    made, errors = fragile
    if where == "signal":  # a shell starts what runs in the background with SIGINT ignored
        kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupt(where, made, errors)
    finally:
        if where == "signal":
            signal.signal(signal.SIGINT, kept)


def interrupt(where: str, made, errors: list) -> None:  # type: ignore[no-untyped-def]
    errors[0] = KeyboardInterrupt()
    before, threads = hooks_of(made), threading.active_count()
    pool = ReplanPool(made, byte_level())
    sessions, twins = [pool.session() for _ in range(3)], [ReplanSession(made, byte_level()) for _ in range(3)]
    given = {"max_new_tokens": 6}
    talks = []
    for session, twin, messages in zip(sessions, twins, chats(), strict=False):
        twin.generate(messages, **given)
        talks.append([*messages, *turn(session.generate(messages, **given).text, 1)])
    calls = [(session, messages, dict(given)) for session, messages in zip(sessions, talks, strict=True)]
    if where == "model":
        calls[2][1][-1]["content"] += "~"
    else:
        asked = []

        def cancel() -> bool:
            asked.append(1)
            if len(asked) == 3 and where == "callback":
                raise KeyboardInterrupt
            if len(asked) == 3:
                os.kill(os.getpid(), signal.SIGINT)  # as a person at the keyboard
            return False

        calls[1][2]["cancel"] = cancel
    with pytest.raises(KeyboardInterrupt):
        pool.generate(calls)
    assert threading.active_count() == threads and hooks_of(made) == before
    talks[2][-1]["content"] = talks[2][-1]["content"].removesuffix("~")
    for session, twin, messages in zip(sessions, twins, talks, strict=True):
        assert session.generate(messages, **given).text == twin.generate(messages, **given).text
        assert_same_state(session, twin)


def test_two_functions_with_one_engine_both_fail() -> None:
    pool = ReplanPool(model(), byte_level())
    session, other = pool.session(), pool.session()
    jobs = [lambda s=s: len(s.engine.read([5, 6, 7])) for s in (session, session, other)]
    one, two, three = pool.run(jobs, return_exceptions=True)
    assert "same session" in str(one) and "same session" in str(two) and three == len(byte_level())


def test_of_two_functions_with_one_session_the_second_is_refused() -> None:
    pool = ReplanPool(model(), byte_level())
    session, other = pool.session(), pool.session()
    jobs = [lambda s=s: s.generate(start(), max_new_tokens=4).text for s in (session, session, other)]
    one, two, three = pool.run(jobs, return_exceptions=True)
    assert isinstance(two, RuntimeError) and "one call at a time" in str(two)
    assert one == three == ReplanSession(model(), byte_level()).generate(start(), max_new_tokens=4).text
    assert session.generate(start(), max_new_tokens=4).text == one


def test_what_is_refused() -> None:
    pool = ReplanPool(model(), byte_level())
    session, other = pool.session(), ReplanSession(model("qwen2"), byte_level())
    with pytest.raises(ValueError, match="call 1 is for a session that has a call already"):
        pool.generate([(session, start(), {"max_new_tokens": 3})] * 2)
    with pytest.raises(ValueError, match="call 0 is on another model"):
        pool.generate([(other, start(), {"max_new_tokens": 3})])
    with pytest.raises(ValueError, match="at least 1"):
        ReplanPool(model(), byte_level(), max_tokens=0)
    with pytest.raises(TypeError, match="no_such_option"):
        pool.generate([(session, start(), {"no_such_option": 3})])
    before = model().config._attn_implementation
    model().config._attn_implementation = "flex_attention"
    try:
        with pytest.raises(ValueError, match="flex_attention"):
            ReplanPool(model(), byte_level())
    finally:
        model().config._attn_implementation = before
