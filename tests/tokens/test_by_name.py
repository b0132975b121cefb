"""Trained pruners given by name: found, checked against the model at hand, and the same as their scorer."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import erecap
from erecap.budget import Budget
from erecap.errors import ConfigError, ModelError
from erecap.models import fingerprint, load
from erecap.models.origins import Origin, origin_of
from erecap.session import ReplanPool, ReplanSession
from erecap.tokens.scoring.by_name import scorer_for
from erecap.tokens.scoring.learned import LearnedScorer
from erecap.tokens.scoring.pruner_files import save_pruner
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.tokens.models import random_pruner

PASSED = {"test": {"rankers": {"learned": {"kl": 0.1}, "random": {"kl": 0.2}}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder."""
    made = tmp_path_factory.mktemp("tiny")
    model().save_pretrained(made)
    byte_level().save_pretrained(made)
    return made


@pytest.fixture
def pruner(folder: Path, tmp_path: Path) -> Path:
    """A pruner that was trained for it."""
    return saved(tmp_path / "mine", base={"hash": fingerprint(folder)})


def saved(place: Path, **card: Any) -> Path:
    save_pruner(place, random_pruner(), PASSED | card)
    return place


def played(session: ReplanSession) -> tuple[list[int], list[int]]:
    """Tokens read, and which of them are stored in the end."""
    messages = start()
    for number in range(5):
        messages += turn(session.generate(messages, max_new_tokens=6).text, number)
    assert session.evicted_tokens
    return session.token_ids, session.cache.stored_index().tolist()


def test_a_name_is_its_scorer(folder: Path, pruner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, tokenizer = load(str(folder), "float32", "cpu")
    budget = Budget(kv_tokens=110)
    by_object = played(ReplanSession(loaded, tokenizer, budget=budget, evict_by=LearnedScorer(random_pruner())))
    assert played(ReplanSession(loaded, tokenizer, budget=budget, evict_by=str(pruner))) == by_object
    monkeypatch.setenv("ERECAP_CHECKPOINTS", str(pruner.parent))
    assert played(ReplanPool(loaded, tokenizer).session(budget=budget, evict_by="mine")) == by_object
    assert played(ReplanSession(loaded, tokenizer, budget=budget)) != by_object


def test_a_wrapped_model_takes_the_name_as_well(folder: Path, pruner: Path, tmp_path: Path) -> None:
    loaded, tokenizer = load(str(folder), "float32", "cpu")
    ids = torch.randint(5, len(tokenizer), (1, 150), generator=torch.Generator().manual_seed(1))
    asked = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False}
    answers = [
        erecap.wrap(loaded, budget=96, evict_by=by, log=tmp_path / "log").generate(ids, **asked).tolist()
        for by in (LearnedScorer(random_pruner()), str(pruner))
    ]
    assert answers[0] == answers[1]
    with pytest.raises(ConfigError, match="unknown evict_by 'nobody'; allowed: recency"):
        erecap.wrap(loaded, budget=96, evict_by="nobody", log=tmp_path / "log")


def test_sessions_on_one_model_share_it_until_its_file_changes(folder: Path, pruner: Path) -> None:
    loaded, _ = load(str(folder), "float32", "cpu")
    one = scorer_for(str(pruner), loaded)
    assert scorer_for(str(pruner), loaded) is one and isinstance(one, LearnedScorer)
    saved(pruner, base={"hash": fingerprint(folder)})
    assert scorer_for(str(pruner), loaded) is not one


@pytest.mark.parametrize("by", ["recency", "random", "attention", LearnedScorer(random_pruner())])
def test_criteria_and_scorers_pass_through(by: Any) -> None:
    assert scorer_for(by, model()) is by


@pytest.mark.parametrize("name", ["recent", "", "no/such/folder"])
def test_an_unknown_name_says_what_is_allowed(name: str) -> None:
    words = "allowed: recency, random, attention, or the name or folder of a trained pruner"
    with pytest.raises(ValueError, match=f"unknown evict_by '{name}'; {words}"):
        ReplanSession(model(), byte_level(), evict_by=name)


@pytest.mark.parametrize("base", [{"hash": "sha256:other"}, {"adapter": "sha256:planner"}])
def test_one_of_another_model_or_adapter_is_refused(folder: Path, tmp_path: Path, base: dict[str, str]) -> None:
    loaded, tokenizer = load(str(folder), "float32", "cpu")
    other = saved(tmp_path / "other", base={"hash": fingerprint(folder), **base})
    with pytest.raises(ModelError, match=r"the pruner was trained for weights sha256:.* train one for it"):
        ReplanSession(loaded, tokenizer, evict_by=str(other))
    untested = tmp_path / "untested"
    save_pruner(untested, random_pruner(), {"base": {"hash": fingerprint(folder)}})
    with pytest.raises(ModelError, match="no test in which it beats random"):
        ReplanSession(loaded, tokenizer, evict_by=str(untested))


def test_a_model_that_somebody_else_loaded_is_known_by_its_folder(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert origin_of(theirs) == Origin(folder, adapter_known=False)
    fits = saved(tmp_path / "fits", base={"hash": fingerprint(folder), "adapter": "sha256:planner"})
    with caplog.at_level(logging.WARNING):
        assert isinstance(scorer_for(str(fits), theirs), LearnedScorer)
    assert "whether the adapter that it was trained for (sha256:planner) is merged" in caplog.text
    with pytest.raises(ModelError, match="trained for weights sha256:other"):
        scorer_for(str(saved(tmp_path / "other", base={"hash": "sha256:other"})), theirs)


def test_of_a_model_made_in_code_only_the_shape_is_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = copy.deepcopy(model())
    assert origin_of(made) is None
    with caplog.at_level(logging.WARNING):
        scorer_for(str(saved(tmp_path / "any", base={"hash": "sha256:other"})), made)
    assert "only hidden size and layers were compared" in caplog.text
    wide = tmp_path / "wide"
    save_pruner(wide, random_pruner(hidden_size=64), PASSED)
    with pytest.raises(ModelError, match="hidden size 64, this model has 32"):
        scorer_for(str(wide), made)


@pytest.mark.integration
def test_the_shipped_pruner_by_its_name(embedded_model_folder: Path) -> None:
    trained, tokenizer = load(str(embedded_model_folder), adapter="smollm2-135m-planner")
    session = ReplanSession(trained, tokenizer, budget=Budget(kv_tokens=64), evict_by="smollm2-135m-pruner")
    assert session.cache.read_scores is not None
    plain, tokenizer = load(str(embedded_model_folder))
    with pytest.raises(ModelError, match=r"this model is weights sha256:.* with no adapter"):
        ReplanSession(plain, tokenizer, evict_by="smollm2-135m-pruner")
