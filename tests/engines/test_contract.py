"""The contract of `SessionEngine`, for every engine that can be named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erecap.engines import ENGINES
from erecap.engines.protocol import Capability, EngineSettings, SessionEngine
from erecap.engines.tiny import TinyModel
from tests.engines.llamacpp_models import NEEDS_LLAMACPP, small_llama
from tests.engines.vllm_models import NEEDS_VLLM, small_vllm
from tests.session.chats import model

IDS = [(7 * n) % 90 + 3 for n in range(40)]
NEEDS = {"llamacpp": NEEDS_LLAMACPP, "vllm": NEEDS_VLLM}
NAMES = [pytest.param(name, marks=NEEDS[name]) if name in NEEDS else name for name in ENGINES]
MODELS = {"tiny": TinyModel, "transformers": model, "llamacpp": small_llama, "vllm": small_vllm}


def made(name: str, **settings: Any) -> SessionEngine:
    """An engine of that name that reads in chunks of 16."""
    engine: SessionEngine = ENGINES[name](MODELS[name](), EngineSettings(prefill_chunk=16, **settings))
    return engine


def logits(engine: SessionEngine, *ids: int) -> np.ndarray:
    """Logits behind `ids`, which are rolled back."""
    before = engine.tokens
    with engine.attached():
        rows = engine.verify(list(ids or (9,)))
    engine.rollback(before)
    assert rows.dtype == np.float32 and rows.shape[0] == len(ids or (9,)) and engine.tokens == before
    return rows[-1]


def close(got: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name: str) -> None:
    engine = made(name)
    assert engine.name == name and engine.supports <= set(Capability.__args__)  # type: ignore[attr-defined]
    assert engine.tokens == engine.next_position == engine.kv_bytes() == engine.stored().most == 0
    assert engine.window > 100 and engine.chunk == 16 and engine.bytes_per_token > 0 and engine.prune_seconds == 0
    assert len(engine.stored().indices) == 0


@pytest.mark.parametrize("name", NAMES)
def test_chunks_may_be_shortened_and_change_nothing(name: str) -> None:
    one, other, calls = made(name), made(name), []

    def between(done: int, following: int) -> int | None:
        calls.append((done, following))
        return 5 if done == 16 else None

    row = one.read(IDS, between)
    assert calls == [(0, 16), (16, 16), (21, 16), (37, 3), (40, 0)]
    assert close(row, other.read(IDS)) and close(logits(one), logits(other))
    assert one.stored().per_layer == other.stored().per_layer and one.stored().most == 40
    assert one.kv_bytes() == 40 * one.bytes_per_token


@pytest.mark.parametrize("name", NAMES)
def test_evicting_rolling_back_and_skipping(name: str) -> None:
    engine = made(name)
    engine.read(IDS)
    whole = logits(engine)
    gone = np.array([4, 5, 6, 20])
    assert engine.evict([gone for _ in engine.stored().groups]) == 4
    stored = sorted(set(range(40)) - set(gone.tolist()))
    assert engine.stored().indices.tolist() == stored and engine.tokens == engine.next_position == 40
    evicted = logits(engine)
    assert not close(evicted, whole)
    engine.read([5, 6, 7])
    engine.rollback(40)
    assert close(logits(engine), evicted) and engine.stored().indices.tolist() == stored
    engine.skip(3, gap=True)
    assert (engine.tokens, engine.next_position) == (43, 43)
    engine.skip(2, gap=False)
    assert (engine.tokens, engine.next_position) == (45, 43)
    engine.read([8])
    assert engine.stored().indices.tolist() == [*stored, 45]
    engine.reset()
    assert engine.tokens == engine.kv_bytes() == engine.stored().most == 0
    assert close(engine.read(IDS), made(name).read(IDS))


@pytest.mark.parametrize("name", NAMES)
def test_repositioning_closes_gaps_and_rolling_back_behind_it_leaves_none(name: str) -> None:
    engine = made(name)
    engine.read(IDS)
    engine.evict([np.arange(10, 20) for _ in engine.stored().groups])
    before = logits(engine)
    assert engine.why_fixed is None
    engine.reposition()
    assert (engine.tokens, engine.next_position) == (40, 30) and not close(logits(engine), before)
    engine.rollback(20)  # the last token that is still stored is 9
    assert (engine.tokens, engine.next_position) == (20, 10)


@pytest.mark.parametrize("name", NAMES)
def test_forks_and_files_go_on_alike_and_alone(name: str, tmp_path: Path) -> None:
    engine = made(name)
    engine.read(IDS)
    engine.evict([np.arange(10, 20) for _ in engine.stored().groups])
    engine.reposition()
    expected = logits(engine)
    known = {"logical": 40, "state": {"shift": engine.tokens - engine.next_position}}
    engine.save(tmp_path / "a.safetensors", {"ids": np.arange(4)}, known)
    restored, twin = made(name), engine.fork()
    arrays, found = restored.restore(tmp_path / "a.safetensors")
    assert arrays["ids"].tolist() == [0, 1, 2, 3] and found["state"] == known["state"]
    for other in (restored, twin):
        assert close(logits(other), expected) and other.next_position == 30 and other.shape == engine.shape
        other.read([1, 2, 3])
        other.evict([np.arange(5) for _ in other.stored().groups])
    assert close(logits(engine), expected) and engine.stored().most == 30


@pytest.mark.parametrize("name", NAMES)
def test_attention_scores_are_finite_and_of_the_last_prompt(name: str) -> None:
    if "attention scores" not in made(name).supports:
        with pytest.raises(ValueError, match=f"the engine '{name}' does not support: attention scores; evict by"):
            made(name, evict_by="attention")
        return
    engine = made(name, evict_by="attention")
    engine.read(IDS)
    assert engine.scores(engine.stored().indices) is None
    engine.read(IDS[:5], scores=True)
    asked = engine.scores(engine.stored().indices)
    assert asked is not None and asked.shape == (45,) and np.isfinite(asked).all() and len(set(asked.tolist())) > 20
    with engine.attached():
        engine.verify([3])
    after = engine.scores(engine.stored().indices)
    assert after is not None and after[:-1].tolist() == asked.tolist() and after[-1] == 1.0
    engine.rollback(42)
    assert engine.scores(engine.stored().indices) is None


@pytest.mark.parametrize("name", NAMES)
def test_choices_among_a_few_are_those_of_all_logits(name: str) -> None:
    engine: Any = made(name)
    if "some logits" not in engine.supports:
        return
    engine.read(IDS)
    among = [[30, 7, 61], [8], [9, 40]]
    with engine.attached():
        rows = engine.verify([3, 4, 5, 6])
        engine.rollback(40)
        assert engine.chooses(4) and not engine.chooses(10_000)
        assert engine.choose([3, 4, 5, 6], [range(engine.vocabulary)]) is None and engine.tokens == 40
        found = engine.choose([3, 4, 5, 6], among)
    assert found == [max(sorted(few), key=row.__getitem__) for row, few in zip(rows[1:], among, strict=True)]
    assert engine.tokens == 44 and engine.stored().most == 44
