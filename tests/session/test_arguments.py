"""Arguments of sessions and budgets that cannot be meant are refused at once, in one line."""

from __future__ import annotations

import copy
import gc
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erecap.budget import Budget
from erecap.engines import ENGINES
from erecap.engines.protocol import EngineSettings
from erecap.engines.tiny import TinyEngine, TinyModel
from erecap.errors import ConfigError, RunError
from erecap.session import ReplanSession
from erecap.session.config import SessionConfig
from erecap.tokens import PruneConfig
from tests.session.characters import Characters

CHARACTERS, MODEL = Characters(), TinyModel()
CHAT = [{"role": "user", "content": "cool the apple"}]


def made(**options: Any) -> ReplanSession:
    return ReplanSession(MODEL, CHARACTERS, **{"engine": "tiny", **options})


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (None, Budget()),
        (64, Budget(kv_tokens=64)),
        (np.int64(64), Budget(kv_tokens=64)),
        ("auto", Budget.auto()),
        (Budget(kv_ratio=0.5), Budget(kv_ratio=0.5)),
    ],
)
def test_a_budget_of_what_a_caller_gives(value: Any, meant: Budget) -> None:
    assert Budget.of(value) == made(budget=value).budget == meant


@pytest.mark.parametrize("value", [64.0, True, "64", "automatic", math.nan, [64], Budget])
def test_what_is_no_budget(value: Any) -> None:
    words = r"^got .*; allowed: a number of tokens, 'auto', or a Budget$"
    for refused in (Budget.of, lambda budget: made(budget=budget)):
        with pytest.raises(ValueError, match=words):
            refused(value)
    with pytest.raises(ValueError, match="kv_tokens must be 16 or more, got 3"):
        Budget.of(3)


@pytest.mark.parametrize("value", [100.5, 100.0, math.nan, True, "100"])
@pytest.mark.parametrize("name", ["kv_tokens", "memory_bytes"])
def test_limits_that_are_no_whole_numbers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name} must be a whole number, got {value!r}")):
        Budget(**{name: value, "automatic": name == "memory_bytes"})


@pytest.mark.parametrize("value", ["0.3", True])
@pytest.mark.parametrize("name", ["kv_ratio", "pays"])
def test_limits_that_are_no_numbers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a number, got"):
        Budget(**{name: value, "automatic": name == "pays"})


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"evict_by": 3}, "evict_by must be a name, or an object with `score` and `layer`, got int"),
        ({"evict_by": None}, "evict_by must be a name, or an object with `score` and `layer`, got NoneType"),
        ({"prune": 0.7}, "prune must be a PruneConfig or None, got 0.7"),
        ({"prune": PruneConfig}, "prune must be a PruneConfig or None, got <class"),
        ({"engine": None}, "engine must be a registered name, or an engine object, got NoneType"),
        ({"engine": TinyEngine}, "engine must be a registered name, or an engine object, got the class TinyEngine"),
        ({"engine": MODEL}, "engine must be a registered name, or an engine object, got TinyModel"),
        ({"rewind_tokens": -1}, "rewind_tokens must be 0 or more, got -1"),
        ({"rewind_tokens": 1.5}, "rewind_tokens must be a whole number, got 1.5"),
        ({"prefill_chunk": 0}, "prefill_chunk must be 1 or more, got 0"),
        ({"prefill_chunk": "8"}, "prefill_chunk must be a whole number, got '8'"),
        ({"seed": 0.5}, "seed must be a whole number, got 0.5"),
        ({"seed": None}, "seed must be a whole number, got None"),
    ],
)
def test_keywords_of_another_type(wrong: dict[str, Any], why: str) -> None:
    for refused in (lambda: SessionConfig(**wrong), lambda: made(**wrong)):
        with pytest.raises(ValueError, match=re.escape(why)) as caught:
            refused()
        assert "\n" not in str(caught.value)


def test_a_configuration_takes_no_bare_number() -> None:
    with pytest.raises(ValueError, match="budget must be a Budget or None, got 64"):
        SessionConfig(budget=64)  # type: ignore[arg-type]


def test_keywords_at_their_border() -> None:
    session = made(rewind_tokens=0, prefill_chunk=1, seed=-3, budget=32)
    assert session.generate(CHAT, max_new_tokens=2).usage.prompt_tokens


def test_a_model_of_another_engine() -> None:
    words = "the engine 'transformers' serves a causal language model of transformers, got TinyModel"
    with pytest.raises(ValueError, match=f"^{words}; .*'tiny'") as caught:
        ReplanSession(MODEL, CHARACTERS)
    assert "\n" not in str(caught.value)


def test_a_trained_pruner_for_a_model_of_another_kind() -> None:
    with pytest.raises(ValueError, match=r"the pruner 'smollm2-135m-pruner' ranks for a causal .*, got TinyModel"):
        made(evict_by="smollm2-135m-pruner")


@pytest.mark.parametrize("span", [(1.5, 3), (1, "3"), (1,), (1, 2, 3), 4, None, (None, 3), (5, 2), (-1, 2)])
@pytest.mark.parametrize("edit", ["evict", "splice", "forget"])
def test_spans_that_are_none(edit: str, span: Any) -> None:
    session = made()
    session.read(CHAT)
    before = session.engine.stored().indices.tolist()
    with pytest.raises(ValueError, match="span"):
        getattr(session, edit)(span)
    assert session.engine.stored().indices.tolist() == before


def test_spans_of_numpy() -> None:
    session = made()
    session.read(CHAT)
    assert session.evict((np.int64(1), np.int64(3))) == 2


def test_restoring_a_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"{tmp_path.name}: a folder; a saved session is one file"):
        made().restore(tmp_path)


def test_one_engine_for_two_sessions() -> None:
    engine = TinyEngine(MODEL, EngineSettings())
    first = made(engine=engine)
    with pytest.raises(ValueError, match="the engine is in use by another session; a session needs one of its own"):
        made(engine=engine)
    fork = first.fork()
    with pytest.raises(ValueError, match="in use by another session"):
        made(engine=fork.engine)
    first.close()
    with pytest.raises(ValueError, match="in use by another session"):
        made(engine=engine)
    del first
    gc.collect()
    assert made(engine=engine).engine is engine


def test_copies_have_engines_of_their_own() -> None:
    session = made()
    session.read(CHAT)
    twin = copy.deepcopy(session)
    assert twin.generate(CHAT, max_new_tokens=3).text == session.generate(CHAT, max_new_tokens=3).text


@pytest.mark.parametrize("returned", [None, 5, TinyEngine])
def test_a_factory_that_makes_no_engine(returned: Any) -> None:
    ENGINES.register("mine", lambda model, settings: returned)
    try:
        with pytest.raises(ConfigError, match="engine 'mine': its factory must return a SessionEngine, got") as caught:
            made(engine="mine")
    finally:
        del ENGINES["mine"]
    assert "\n" not in str(caught.value)
