"""The engine on vLLM stores and computes what the engine on transformers does, of the same weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import erecap
from erecap.engines import ENGINES
from erecap.engines.protocol import EngineSettings, SessionEngine
from erecap.errors import RunError
from tests.context.small_tokenizers import byte_level, metaspace
from tests.engines.beside_transformers import any_sequence, same
from tests.engines.vllm_models import NEEDS_VLLM, plain_llama, small_vllm
from tests.session.chats import start, turn

pytestmark = NEEDS_VLLM
WITHIN = 5e-4  # of the largest logit, in float32


def both(**settings: Any) -> list[SessionEngine]:
    """An engine of each kind on the same weights, in float32."""
    models = {"transformers": plain_llama(), "vllm": small_vllm()}
    return [ENGINES[name](models[name], EngineSettings(prefill_chunk=16, **settings)) for name in models]


def sessions(**options: Any) -> list[erecap.ReplanSession]:
    """A session on each of them."""
    models = {"vllm": small_vllm(), "transformers": plain_llama()}
    return [erecap.ReplanSession(models[name], byte_level(), engine=name, **options) for name in models]


@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_reads_and_edits(seed: int) -> None:
    any_sequence(seed, both(), 20, WITHIN)


def test_what_is_kept_is_not_read_again_and_passes_go_on_in_vllms_own_blocks() -> None:
    engine, model = both()[1], small_vllm()
    engine.read([(7 * n) % 90 for n in range(200)])
    engine.evict([np.arange(40, 120)])
    ask = engine.ask([1, 2, 3])
    assert ask.asked.keep == ((0, 40), (120, 200)) and ask.asked.at == ((-80, 40), (40, 80)) and len(ask.ids) == 123
    assert ask.salt.startswith(ask.asked.salt())
    [answer] = model.ask([ask])
    assert answer.cached == 120 and answer.told.given == 120 and answer.told.rows == 123
    engine.took(ask, answer)
    again = engine.ask([4])
    assert again.salt == ask.salt and again.asked.keep == ((0, 123),), "it goes on in the blocks of the last pass"
    [answer] = model.ask([again])
    assert answer.cached >= 123


def test_a_token_that_was_read_once_is_rotated_once_whatever_happens() -> None:
    """Rotating what was rotated before would add rounding at each replan."""
    engine = both()[1]
    engine.read([(5 * n) % 90 for n in range(60)])
    expected = None
    for number in range(12):
        engine.evict([engine.stored().indices[10:12]])
        engine.reposition()
        engine.read([number, number + 1])
        part = small_vllm().worker.rows
        small_vllm().settle()
        [first] = [kept.keys[:, :10] for kept in part.taken(engine.entry, np_to_torch(range(10)))][:1]
        expected = first if expected is None else expected
        assert bool((first == expected).all())


def np_to_torch(values: Any) -> Any:
    import torch

    return torch.tensor(list(values))


def test_entries_that_nothing_needs_are_dropped() -> None:
    model, engine = small_vllm(), both()[1]
    both()[1].read([1])
    before = model.scheduler.index.names()
    for number in range(30):
        engine.read([number, 2, 3])
    twin = engine.fork()
    twin.read([5])
    model.settle()
    left = [name for name in model.scheduler.index.names() if name not in before]
    assert len(left) <= 4, "the newest of each, and those whose last request is not made yet"
    assert set(model.scheduler.index.names()) == set(model.worker.rows.names())


def test_an_entry_that_is_gone_is_read_again_or_refused_and_never_answered_from() -> None:
    model = small_vllm()
    pair = both()
    for one in pair:
        one.read(list(range(60)))
    engine = pair[1]
    ask = engine.ask([7])
    model.scheduler.index.drop(engine.entry)  # as a store that is full does
    with pytest.raises(RunError, match="kept tokens could not be given back: the store has no entry"):
        model.ask([ask])
    with pytest.raises(RunError, match="its store has lost the tokens before"):
        engine.read([7])
    assert engine.tokens == 60, "a read that fails changes nothing"
    model.worker.rows.clear()  # as a worker that was started anew
    other = both()[1]
    other.read(list(range(50)))
    model.settle()
    model.worker.rows.clear()
    other.evict([np.arange(5, 10)])
    with pytest.raises(RunError, match="kept tokens could not be given back: vLLM has failed the request; read them"):
        other.read([7])  # the reason of the refusal before was another one
    assert other.tokens == 50
    same(both_reading(list(range(30))), [3, 4], WITHIN)


def both_reading(ids: list[int]) -> list[SessionEngine]:
    pair = both()
    for one in pair:
        one.read(ids)
    return pair


def test_sessions_read_again_what_the_store_has_lost() -> None:
    model, chat = small_vllm(), start()
    session, other = sessions()
    for number in range(4):
        if number == 2:
            model.scheduler.reset_cache()
        text = session.generate(chat, max_new_tokens=6).text
        assert text == other.generate(chat, max_new_tokens=6).text
        chat += turn(text, number)


@pytest.mark.parametrize("options", [{}, {"budget": 96}, {"budget": 96, "evict_by": "random"}])
def test_answers_are_those_of_the_engine_on_transformers(options: dict) -> None:
    mine, other = sessions(**options)
    chat = start()
    for number in range(6):
        text = mine.generate(chat, max_new_tokens=6).text
        assert text == other.generate(chat, max_new_tokens=6).text, number
        chat += turn(text, number)
    assert mine.token_ids == other.token_ids and mine.evicted_tokens == other.evicted_tokens
    assert mine.engine.stored().indices.tolist() == other.engine.stored().indices.tolist()
    assert options == {} or mine.evicted_tokens > 100


def test_a_full_store_makes_sessions_read_again_and_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_vllm()
    monkeypatch.setattr(model.scheduler.index, "most_bytes", 320 * model.bytes_per_token)
    pairs = [sessions() for _ in range(3)]
    chats = [start() + turn("go", number) for number in range(3)]
    for number in range(3):
        for pair, chat in zip(pairs, chats, strict=True):
            got, wanted = (one.generate(chat, max_new_tokens=4) for one in pair)
            assert got.text == wanted.text
            chat += turn(got.text, number)
    assert min(mine.engine.revision for mine, _ in pairs) >= 2, "what was lost is read again"
    assert model.scheduler.index.bytes <= 320 * model.bytes_per_token
    with pytest.raises(RunError, match=r"of [\d.]+ MiB .* the store is full of entries in use; raise store_mb"):
        both()[1].verify([3] * 400)


def test_sessions_of_a_pool_are_read_in_the_same_passes() -> None:
    model = small_vllm()
    pool = erecap.ReplanPool(model, byte_level())
    agents = [pool.session(engine="vllm", budget=96) for _ in range(4)]
    alone = [erecap.ReplanSession(model, byte_level(), engine="vllm", budget=96) for _ in range(4)]
    passes = []
    hook = model.module.register_forward_hook(lambda *_: passes.append(model.runner.input_batch.num_reqs))
    for number in range(4):
        chats = [start() + turn("go", number + shift) for shift in range(4)]
        calls = [(agent, chat, {"max_new_tokens": 5}) for agent, chat in zip(agents, chats, strict=True)]
        passes.clear()
        answers = [generation.text for generation in pool.generate(calls)]
        together = list(passes)
        assert answers == [one.generate(call[1], max_new_tokens=5).text for one, call in zip(alone, calls, strict=True)]
        assert max(together) == 4 and len(together) < len(passes[len(together) :]) / 2
    hook.remove()


def test_unpruned_answers_equal_its_own_rereading_over_30_turns() -> None:
    session, chat = erecap.ReplanSession(small_vllm(), byte_level(), engine="vllm", retokenize=True), start()
    for number in range(30):
        text = session.generate(chat, max_new_tokens=4).text
        again = erecap.ReplanSession(small_vllm(), byte_level(), engine="vllm", draft=False)
        assert again.generate(chat, max_new_tokens=4).text == text, number
        chat += turn(text, number)
    assert session.evicted_tokens == 0 and session.engine.tokens > 900


def test_files_of_other_models_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save

    from erecap.engines.files import write_file

    engine, path = both()[1], tmp_path / "a.safetensors"
    engine.read(list(range(40)))
    known = {"logical": 40, "state": {"shift": 0}}
    engine.save(path, {}, known)
    with pytest.raises(RunError, match=r"saved by another engine \(vllm\) than 'transformers'"):
        both()[0].restore(path)
    tensors = load_file(path)
    for change, reason in (
        ({"vllm.index": tensors["vllm.index"] + 1}, "index does not lie within 0 to 39"),
        ({"vllm.ids": tensors["vllm.ids"][:-1]}, "its columns are not those of its tokens"),
        ({"vllm.keys": tensors["vllm.keys"][:1]}, "keys have another shape"),
    ):
        write_file(path, save, tensors | change, known, engine)
        fresh = both()[1]
        with pytest.raises(RunError, match=f"a.safetensors: damaged session file: {reason}"):
            fresh.restore(path)
        assert fresh.tokens == 0 and fresh.read([1, 2, 3]).shape == (fresh.vocabulary,)


def test_what_it_refuses() -> None:
    from erecap.engines.vllm.model import VllmModel
    from erecap.errors import ConfigError
    from erecap.tokens import PruneConfig

    make, on = ENGINES["vllm"], small_vllm()
    for settings, what in (
        ({"prune": PruneConfig()}, "prune at prefill"),
        ({"evict_by": object()}, "read scores"),
        ({"evict_by": "attention"}, "attention scores"),
        ({"decode_weights": "int8"}, "packed weights"),
    ):
        with pytest.raises(ValueError, match=f"the engine 'vllm' does not support: {what}"):
            make(on, EngineSettings(**settings))
    with pytest.raises(ValueError, match=r"serves a VllmModel, got LlamaForCausalLM; open one: VllmModel.open"):
        make(plain_llama(), EngineSettings())
    with pytest.raises(ValueError, match=r"the tokenizer .*is of another model: in 'Go to fridge 12"):
        erecap.ReplanSession(on, metaspace(), engine="vllm")
    with pytest.raises(ConfigError, match="can have one model in each"):
        VllmModel.open(on.folder)
    with pytest.raises(ValueError, match="is not in the vocabulary of"):
        both()[1].read([on.vocabulary])


def test_sessions_that_evict_are_refused_for_models_whose_keys_cannot_be_turned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(vars(small_vllm()), "why_fixed", "its angles depend on the length")
    with pytest.raises(
        ValueError, match=r"the engine 'vllm' cannot evict tokens here: its angles depend on the length; give no budget"
    ):
        erecap.ReplanSession(small_vllm(), byte_level(), engine="vllm", budget=erecap.Budget.auto(1 << 20))
    for budget in (None, "auto"):
        session = erecap.ReplanSession(small_vllm(), byte_level(), engine="vllm", budget=budget)
        assert session.generate(start(), max_new_tokens=2).text and session.engine.why_fixed is not None


def test_a_request_that_vllm_does_not_take_loses_no_names_and_leaves_nothing_behind() -> None:
    model, engine = small_vllm(), both()[1]
    model.unused.append("some entry")
    with pytest.raises(RunError, match=r"engine vllm: .*maximum context length is 4096"):
        engine.verify([3] * (model.window + 5))
    assert "some entry" in model.unused and not model.engine.has_unfinished_requests() and engine.tokens == 0
    with pytest.raises(RunError, match="maximum context length"):
        model.ask([engine.ask([3]), engine.ask([3] * (model.window + 5))])
    assert not model.engine.has_unfinished_requests(), "nor does one beside it go on"
    assert engine.read([3]).shape == (engine.vocabulary,) and not model.unused


def test_a_request_that_fails_or_is_given_up_hands_back_the_names_that_it_was_to_drop() -> None:
    model, engine = small_vllm(), both()[1]
    engine.read(list(range(40)))
    ask = engine.ask([1])
    model.unused.append("some entry")
    model.abandon(model.submit(ask))
    assert "some entry" in model.unused
    model.scheduler.index.drop(engine.entry)
    with pytest.raises(RunError, match="the store has no entry"):
        model.ask([ask])
    assert "some entry" in model.unused and not model.engine.has_unfinished_requests()


def test_a_pass_that_was_interrupted_can_be_repeated() -> None:
    """vLLM then has blocks of tokens that it has not computed, or whose logits nobody has seen."""
    pair = both_reading(list(range(30)))

    def interrupt(*_: Any) -> None:
        hook.remove()
        raise KeyboardInterrupt

    hook = small_vllm().module.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        pair[1].verify(list(range(8)))
    assert pair[1].tokens == 30
    same(pair, list(range(8)), WITHIN)


def test_a_session_reads_again_what_a_worker_has_lost_after_the_call_that_finds_out() -> None:
    model, chat = small_vllm(), start()
    session, other = sessions()
    for one in (session, other):
        one.generate([*chat, *turn("go", 1)], max_new_tokens=6)
    model.settle()
    model.worker.rows.clear()
    chat += turn("stop", 2)  # goes on from a part of what was kept
    with pytest.raises(RunError, match="vLLM has failed the request; read them again"):
        session.generate(chat, max_new_tokens=6)
    assert session.generate(chat, max_new_tokens=6).text == other.generate(chat, max_new_tokens=6).text
    assert session.engine.revision == 1


def test_it_is_opened_on_the_device_that_vllm_is_built_for_with_as_many_threads_as_are_asked_for() -> None:
    from erecap.engines.vllm.opening import open_model
    from erecap.errors import ConfigError

    with pytest.raises(ConfigError, match=r"device: got 'tpu' with engine vllm, .* allowed: auto, "):
        open_model("any", device="tpu")
    program = (
        "import sys, torch; torch.set_num_threads(2); from erecap.engines.vllm.opening import open_model; "
        "open_model(sys.argv[1], dtype='float32', threads=1); print('threads', torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(small_vllm().folder)], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "threads 1" in done.stdout, done.stderr[-2000:]
