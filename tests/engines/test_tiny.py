"""The tiny engine keeps the promises of the protocol: chunks, rollback, forks, repositioning, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erecap.engines import ENGINES, register
from erecap.engines.protocol import EngineSettings
from erecap.engines.tiny import TinyEngine, TinyModel
from erecap.errors import ConfigError, RunError

MODEL = TinyModel(vocabulary=50)
IDS = st.lists(st.integers(0, 49), min_size=2, max_size=60)


def engine(**settings) -> TinyEngine:  # type: ignore[no-untyped-def]
    return TinyEngine(MODEL, EngineSettings(**settings))


def logits(one: TinyEngine, token: int = 7) -> np.ndarray:
    """Logits behind `token`, which is rolled back."""
    rows = one.verify([token])
    one.rollback(one.tokens - 1)
    return rows[0]


@given(ids=IDS, chunk=st.integers(1, 20))
def test_chunks_change_nothing_and_are_announced(ids: list[int], chunk: int) -> None:
    one, other, calls = engine(prefill_chunk=chunk), engine(), []
    row = one.read(ids, lambda done, following: calls.append((done, following, one.tokens)))
    assert np.array_equal(row, other.verify(ids)[-1]) and np.array_equal(logits(one), logits(other))
    sizes = [min(chunk, len(ids) - start) for start in range(0, len(ids), chunk)]
    starts = list(range(0, len(ids), chunk))
    assert calls == [*zip(starts, sizes, starts, strict=True), (len(ids), 0, len(ids))]


@given(ids=IDS, data=st.data())
def test_rolling_back_is_exact(ids: list[int], data) -> None:  # type: ignore[no-untyped-def]
    one, other = engine(), engine()
    keep = data.draw(st.integers(1, len(ids) - 1))
    gone = data.draw(st.sets(st.integers(0, keep - 1)))
    for each in (one, other):
        each.read(ids[:keep])
        assert each.evict([sorted(gone)]) == len(gone)
        if data.draw(st.shared(st.booleans(), key="moved")):
            each.reposition()
    expected = logits(other)
    one.read(ids[keep:])
    one.rollback(keep)
    assert one.tokens == keep and one.next_position == other.next_position
    assert np.array_equal(logits(one), expected)
    assert one.stored().indices.tolist() == sorted(set(range(keep)) - gone)


def test_a_token_keeps_what_it_absorbed_and_only_that() -> None:
    read, evicted, never = engine(), engine(), engine()
    read.read([1, 2, 3, 4, 5])
    evicted.read([1, 2, 3, 4, 5])
    evicted.evict([[1, 2]])
    never.read([1, 4, 5])
    rows = [logits(one) for one in (read, evicted, never)]
    assert not any(np.array_equal(rows[a], rows[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    evicted.reposition()
    assert evicted.positions.tolist() == [0, 1, 2] and evicted.next_position == 3 and evicted.tokens == 5
    assert not np.array_equal(logits(evicted), rows[1]) and not np.array_equal(logits(evicted), rows[2])
    assert np.array_equal(logits(read), rows[0])


@pytest.mark.parametrize("gap", [True, False])
def test_skipped_tokens_have_indices_and_maybe_positions(gap: bool) -> None:
    one = engine()
    one.read([1, 2, 3])
    one.skip(4, gap)
    one.read([5])
    assert one.stored().indices.tolist() == [0, 1, 2, 7] and one.positions.tolist() == [0, 1, 2, 7 if gap else 3]


def test_forks_share_the_past_and_nothing_else(tmp_path: Path) -> None:
    one = engine()
    one.read([1, 2, 3, 4, 5, 6])
    one.evict([[2]])
    expected = logits(one)
    twin = one.fork()
    twin.read([9, 9])
    twin.evict([[0, 1]])
    twin.reposition()
    assert np.array_equal(logits(one), expected) and not np.array_equal(logits(twin), expected)
    state = {"logical": one.tokens, "state": {"shift": 0}, "note": [1, "two"]}
    one.save(tmp_path / "engine.safetensors", {"ids": np.arange(3)}, state)
    other = engine()
    arrays, known = other.restore(tmp_path / "engine.safetensors")
    assert known == state and list(arrays) == ["ids"] and arrays["ids"].tolist() == [0, 1, 2]
    assert np.array_equal(logits(other), expected) and other.kv_bytes() == one.kv_bytes() > 0
    with pytest.raises(RunError, match="no such session file"):
        other.restore(tmp_path / "none.safetensors")


def test_attention_scores_are_of_the_last_token_of_a_prompt() -> None:
    one = engine(evict_by="attention")
    one.read([1, 2, 3, 4])
    assert one.scores(np.arange(4)) is None  # nobody asked
    one.read([5], scores=True)
    before = one.scores(np.arange(5))
    one.verify([6])
    one.evict([[1]])
    after = one.scores(np.array([0, 2, 3, 4, 5]))
    assert before is not None and after is not None
    assert after.tolist() == [*before[[0, 2, 3, 4]].tolist(), 1.0]
    one.rollback(4)
    assert one.scores(np.array([0, 2, 3])) is None


def test_what_it_refuses() -> None:
    from erecap.tokens import PruneConfig

    for settings, what in (({"prune": PruneConfig()}, "prune at prefill"), ({"evict_by": object()}, "read scores")):
        with pytest.raises(ValueError, match=f"'tiny' does not support: {what}"):
            engine(**settings)
    with pytest.raises(ValueError, match="token id 50 is not in the vocabulary of 50"):
        engine().read([50])
    with pytest.raises(ValueError, match="cannot roll back to 3 tokens, 0 were read"):
        engine().rollback(3)


def test_engines_register_by_one_line() -> None:
    assert set(ENGINES) >= {"tiny", "transformers"} and ENGINES["tiny"] is TinyEngine
    register("mine", lambda model, settings: TinyEngine(model, settings))
    try:
        assert ENGINES["mine"](MODEL, EngineSettings()).tokens == 0
        with pytest.raises(ConfigError, match="registered already"):
            register("mine", TinyEngine)
    finally:
        del ENGINES["mine"]
