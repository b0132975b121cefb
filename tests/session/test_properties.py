"""Random sequences of everything a session can do keep ids, token indices, positions and storage consistent."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erecap.budget import Budget
from erecap.engines import transformers as transformers_engine
from erecap.session import ReplanSession
from erecap.tokens import PruneConfig
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn

NEW = 5
SPAN = st.tuples(st.floats(0, 1), st.floats(0, 1))
STEPS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                ("grow",),
                ("grow",),
                ("own words",),
                ("rewrite",),
                ("read",),
                ("fork",),
                ("save",),
                ("append",),
                ("append",),
            ]
        ),
        SPAN.map(lambda span: ("evict", span)),
        SPAN.map(lambda span: ("splice", span)),
        SPAN.map(lambda span: ("forget", span)),
        st.just(("correct",)),
        st.just(("fail",)),
    ),
    min_size=3,
    max_size=9,
)


def check(session: ReplanSession, budget: int | None, called: bool) -> None:
    cache = session.cache
    read = cache.get_seq_length()
    transcript = session.conversation.transcript
    assert read == transcript.tokens == transcript.forgotten + len(session.token_ids)
    following = read - session.engine.shift
    places: dict[int, int] = {}
    for number, layer in enumerate(cache.layers):
        layout = cache.layout(number)
        assert layout.width == layer.length == layer.keys.shape[2] == layer.values.shape[2]
        index, positions = layout.index[0].tolist(), layout.positions[0].tolist()
        assert index == sorted(set(index)) and (not index or index[-1] < read)
        # Positions rise with token indices, are the same in every layer, and the next token stands behind them all.
        assert positions == sorted(set(positions)) and (not positions or positions[-1] < following)
        for place, position in zip(index, positions, strict=True):
            assert places.setdefault(place, position) == position
        assert torch.isfinite(layer.keys).all() and torch.isfinite(layer.values).all()
    marks = transcript.marks
    assert [mark.tokens for mark in marks] == sorted(mark.tokens for mark in marks)
    if budget is not None and called:
        assert max(cache.kept_lengths()) <= budget


@pytest.mark.parametrize("name", ["llama", "gemma3"])
@given(steps=STEPS, budget=st.sampled_from([None, 130]), pruned=st.booleans())
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
def test_any_sequence(
    name: str, steps: list, budget: int | None, pruned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers_engine, "CHUNK", 32)
    prune = PruneConfig("random", 0.8, (3, 5)) if pruned else None
    session = ReplanSession(model(name), byte_level(), prune=prune, budget=Budget(kv_tokens=budget))
    messages = start()
    messages[1]["protect"] = [(0, 22)]
    text = session.generate(messages, max_new_tokens=NEW).text
    for number, (step, *rest) in enumerate(steps):
        called = False
        if step == "append":  # the session's own chat, against a fork that is given all of it
            new = turn(text, number)
            messages += new
            whole = session.fork()
            assert session.append(new) == whole.read(messages)
            text, called = session.generate(max_new_tokens=NEW).text, True
            assert text == whole.generate(messages, max_new_tokens=NEW).text
            assert session.token_ids == whole.token_ids
        elif step in ("grow", "own words"):
            messages += turn(text if step == "grow" else f"go to shelf {number}", number)
            text, called = session.generate(messages, max_new_tokens=NEW).text, True
        elif step == "rewrite":
            place = len(messages) // 2 | 1
            messages[place] = {"role": "user", "content": f"Something else, {number}."}
            text, called = session.generate(messages, max_new_tokens=NEW).text, True
        elif step == "read":
            session.read(messages)
            called = True
        elif step == "correct":
            session.correct(f"The mug {number} is gone.")
        elif step in ("evict", "splice", "forget"):
            low, high = sorted(int(share * session.cache.get_seq_length()) for share in rest[0])
            getattr(session, step)((low, high))
        elif step == "fail":
            forward = session.engine.forward
            session.engine.forward = lambda ids, keep: (_ for _ in ()).throw(MemoryError("planted"))
            with pytest.raises(MemoryError):
                session.generate([*messages, *turn(text, 99)], max_new_tokens=NEW)
            session.engine.forward = forward
        elif step == "fork":
            twin = session.fork()
            expected = twin.generate([*messages, *turn(text, 98)], max_new_tokens=NEW).text
            again = session.fork()
            assert again.generate([*messages, *turn(text, 98)], max_new_tokens=NEW).text == expected
        elif step == "save":
            with tempfile.TemporaryDirectory() as folder:
                session.save(Path(folder) / "session.safetensors")
                other = ReplanSession(model(name), byte_level(), prune=prune, budget=Budget(kv_tokens=budget))
                other.restore(Path(folder) / "session.safetensors")
            session = other
        check(session, budget, called)
