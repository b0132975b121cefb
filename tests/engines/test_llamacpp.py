"""The engine on llama.cpp stores and computes what the engine on transformers does, of the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from erecap.engines import ENGINES
from erecap.engines.files import write_file
from erecap.engines.protocol import EngineSettings, SessionEngine
from erecap.errors import ConfigError, ModelError, RunError
from tests.engines.beside_transformers import any_sequence, same
from tests.engines.llamacpp_models import NEEDS_LLAMACPP, gguf_of_small_llama, small_llama
from tests.session.chats import model

pytestmark = NEEDS_LLAMACPP
WITHIN = 2e-4  # of the largest logit, in float32
NAMES = ("transformers", "llamacpp")
KNOWN = {"logical": 0, "state": {"shift": 0}}


def both(**settings: Any) -> list[SessionEngine]:
    """An engine of each kind on the same weights, in float32."""
    models = {"transformers": model(), "llamacpp": small_llama()}
    return [ENGINES[name](models[name], EngineSettings(prefill_chunk=16, **settings)) for name in NAMES]


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_reads_and_edits(seed: int) -> None:
    any_sequence(seed, both(), 24, WITHIN)


def test_repositioning_moves_no_cell_of_a_fork() -> None:
    pair = both()
    for one in pair:
        one.read(list(range(60)))
        one.evict([np.arange(10, 30) for _ in one.stored().groups])
    forks = [one.fork() for one in pair]
    for one in pair:
        one.reposition()
    same(pair, [3, 4], WITHIN)
    same(forks, [3, 4], WITHIN)
    for one in forks:
        one.reposition()
    same(forks, [3, 4], WITHIN)


def test_contexts_grow_and_forks_past_one_context_are_copies() -> None:
    whole, small = both()[1], both(kv_tokens=16)[1]
    ids = [draw % 90 for draw in range(7, 7 * 700, 7)]
    expected = whole.read(ids)
    family = [small]
    for start in range(0, len(ids), 35):  # the first context has 288 cells and 15 sequences
        for one in family:
            row = one.read(ids[start : start + 35])
        family = [small] if start % 70 else [small, *(small.fork() for _ in range(20))]
    assert np.abs(row - expected).max() <= 2e-4 * np.abs(expected).max()
    assert small.stored().most == len(ids)


def test_a_pass_that_is_broken_off_leaves_what_was_there() -> None:
    engine, other = (both()[1] for _ in range(2))
    for one in (engine, other):
        one.read(list(range(40)))
        one.evict([np.arange(30, 40)])
    with pytest.raises(ValueError, match="is not in the vocabulary of"):
        engine.verify([*range(70), engine.vocabulary])  # in the second pass
    assert engine.tokens == 40 and engine.stored().indices.tolist() == list(range(30))

    def stop(done: int, following: int) -> None:
        if done == 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.read(list(range(50)), stop)
    assert engine.tokens == 72
    engine.rollback(40)
    assert np.array_equal(engine.verify([5, 6]), other.verify([5, 6]))


def test_files_of_other_models_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    engine, path = both()[1], tmp_path / "a.safetensors"
    engine.read(list(range(40)))
    engine.save(path, {}, KNOWN | {"logical": 40})
    half = small_llama(kv="float16")
    with pytest.raises(RunError, match="saved from a model in float32, this one is in float16"):
        ENGINES["llamacpp"](half, EngineSettings()).restore(path)
    with pytest.raises(RunError, match=r"saved by another engine \(llamacpp\) than 'transformers'"):
        both()[0].restore(path)
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    (tmp_path / "b.safetensors").write_bytes(raw)
    fresh = both()[1]
    with pytest.raises(RunError, match=r"b.safetensors: damaged session file: the checksum of llamacpp.\w+ differs"):
        fresh.restore(tmp_path / "b.safetensors")
    assert fresh.tokens == 0 and fresh.stored().most == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"llamacpp.place": np.arange(1, 41)}, "place does not rise within 0 to 39"),
        ({"llamacpp.index": np.arange(39)}, "position does not rise"),
        ({"llamacpp.state": np.zeros(0, np.uint8)}, "its cells are not those of its tokens"),
        ({"llamacpp.state": np.zeros(64, np.uint8)}, "the state of a sequence is laid out otherwise"),
        ({}, "llama.cpp refuses its keys and values"),
    ],
)
def test_files_that_somebody_else_made_are_refused(tmp_path: Path, change: dict, reason: str) -> None:
    engine, path = both()[1], tmp_path / "a.safetensors"
    engine.read(list(range(40)))
    engine.save(path, {}, KNOWN | {"logical": 40})
    arrays = load_file(path) | change
    if not change:
        arrays["llamacpp.state"] = arrays["llamacpp.state"][:-4]
    write_file(path, save, arrays, KNOWN | {"logical": 40}, engine)
    fresh = both()[1]
    with pytest.raises(RunError, match=f"a.safetensors: damaged session file: .*{reason}"):
        fresh.restore(path)
    assert fresh.tokens == 0 and fresh.read([1, 2, 3]).shape == (fresh.vocabulary,)


def test_what_it_refuses(tmp_path: Path) -> None:
    from erecap.engines.llamacpp.model import LlamaCppModel, LlamaCppOptions
    from erecap.tokens import PruneConfig

    make, on = ENGINES["llamacpp"], small_llama()
    for settings, what in (
        ({"prune": PruneConfig()}, "prune at prefill"),
        ({"evict_by": object()}, "read scores"),
        ({"evict_by": "attention"}, "attention scores"),
        ({"decode_weights": "int8"}, "packed weights"),
    ):
        with pytest.raises(ValueError, match=f"the engine 'llamacpp' does not support: {what}"):
            make(on, EngineSettings(**settings))
    with pytest.raises(ValueError, match=r"serves a LlamaCppModel, got LlamaForCausalLM; open one: LlamaCppModel.open"):
        make(model(), EngineSettings())
    with pytest.raises(ConfigError, match=r"no GGUF file .*none.gguf"):
        LlamaCppModel.open(tmp_path / "none.gguf")
    (tmp_path / "broken.gguf").write_bytes(gguf_of_small_llama().read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"broken.gguf: llama.cpp cannot load it: "):
        LlamaCppModel.open(tmp_path / "broken.gguf")
    with pytest.raises(ConfigError, match="kv is 'int3'; allowed: float32, float16, bfloat16"):
        LlamaCppOptions(kv="int3")  # type: ignore[arg-type]


@pytest.mark.parametrize("step", ["shift", "take", "copy", "remove"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_edit_that_an_interrupt_breaks_off_is_finished(
    step: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from erecap.engines.llamacpp.memory import Memory

    def ready() -> SessionEngine:
        engine = both()[1]
        engine.read(list(range(60)))
        engine.evict([np.array([3, 4, 20, 21, 22, 40, *range(50, 60)])])
        engine.read([1, 2])  # behind a gap, so that a cell was written anew
        return engine

    engine, other = ready(), ready()
    other.reposition()
    whole, calls = getattr(Memory, step), []

    def broken(self: Memory, *arguments: object) -> object:
        done = whole(self, *arguments)
        calls.append(step)
        if len(calls) == after + 1:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(Memory, step, broken)
    try:
        engine.reposition()
    except KeyboardInterrupt:
        monkeypatch.undo()
        engine.reposition()
    assert engine.next_position == other.next_position == 46
    assert np.abs(engine.verify([7, 8]) - other.verify([7, 8])).max() <= 2e-4 * np.abs(other.verify([7])).max()
