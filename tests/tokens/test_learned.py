"""The learned pruner: its files, their refusals, and sessions that rank by scores taken when tokens are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from erecap.budget import Budget
from erecap.config.modes import parse_mode
from erecap.config.run import RunConfig
from erecap.errors import ConfigError, ModelError, RunError
from erecap.session import ReplanPool, ReplanSession
from erecap.tokens import PruneConfig
from erecap.tokens.scoring.learned import LearnedScorer, Pruner
from erecap.tokens.scoring.pruner_files import CARD, WEIGHTS, beats_random, load_pruner, save_pruner
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start, turn
from tests.session.oracle import Watch
from tests.tokens.models import ARCHITECTURES, random_pruner

GOOD = {"test": {"rankers": {"learned": {"kl": 0.1}, "random": {"kl": 0.2}}}, "base": {"hash": "sha256:1"}}
FITS = {"hidden_size": 32, "layers": 8, "base": "sha256:1"}


def direct(name: str, ids: list[int], layer: int, pruner: Pruner) -> torch.Tensor:
    """Scores of `ids` from one plain forward pass."""
    seen = []
    hook = model(name).get_decoder().layers[layer].register_forward_pre_hook(
        lambda m, a, k: seen.append(a[0] if a else k["hidden_states"]), with_kwargs=True
    )  # fmt: skip
    try:
        with torch.no_grad():
            model(name)(torch.tensor([ids]))
    finally:
        hook.remove()
    return pruner(layer, seen[0])[0].detach()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_session_scores_every_token_once_in_whatever_chunks_it_is_read(name: str) -> None:
    pruner = random_pruner()
    session = ReplanSession(model(name), byte_level(), evict_by=LearnedScorer(pruner), prefill_chunk=30)
    messages = start()
    for number in range(4):
        answer = session.generate(messages, max_new_tokens=6).text
        messages += turn(answer, number)
    session.read(messages)
    ratings = session.cache.read_scores
    assert ratings is not None
    ids = session.token_ids
    expected = direct(name, ids, 6, pruner)
    got = ratings.of(torch.arange(len(ids)), len(ids))
    assert (got - expected).abs().max() <= 1e-3 * expected.abs().max()


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_under_a_budget_a_session_is_its_masked_oracle_and_keeps_the_best(name: str, pruned: bool) -> None:
    prune = PruneConfig(LearnedScorer(random_pruner()), 0.8, (3, 4)) if pruned else None
    scorer = LearnedScorer(random_pruner())
    session = ReplanSession(model(name), byte_level(), prune=prune, budget=Budget(kv_tokens=150), evict_by=scorer)
    watch = Watch(session)
    session.append([start()[0], {"role": "user", "content": "Goal: cool the apple 1."}])
    for number in range(6):
        session.generate(max_new_tokens=5)
        assert max(session.cache.kept_lengths()) <= 150
        session.append([{"role": "user", "content": f"You see a mug {number * 7}."}])
    assert watch.worst_error() <= 1e-4
    assert session.policy.evicted > 0
    # Scores of evicted tokens are dropped with them: there are no more than tokens that some layer stores.
    ratings = session.cache.read_scores
    assert ratings is not None
    indices, scores = ratings.tensors(session.cache.get_seq_length()).values()
    assert set(indices.tolist()) == set(session.cache.stored_index().tolist())
    assert len(scores) == len(indices) < session.cache.get_seq_length()


def test_scores_that_are_looked_at_late_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator nobody waits for scores while the model runs."""
    sessions = []
    for is_late in (False, True):
        monkeypatch.setattr("erecap.tokens.cache.read_scores.late", lambda hidden, is_late=is_late: is_late)
        session = ReplanSession(
            model(), byte_level(), budget=Budget(kv_tokens=110), evict_by=LearnedScorer(random_pruner())
        )
        messages = start()
        for number in range(5):
            messages += turn(session.generate(messages, max_new_tokens=6).text, number)
        sessions.append(session)
    now, then = (session.cache for session in sessions)
    assert now.stored_index().tolist() == then.stored_index().tolist()
    assert now.kept_lengths()[0] < now.get_seq_length()
    places = now.stored_index()
    assert torch.equal(now.read_scores.of(places, 400), then.read_scores.of(places, 400))  # type: ignore[union-attr]


def test_the_older_of_two_tokens_counts_less() -> None:
    scorer = LearnedScorer(random_pruner())
    session = ReplanSession(model(), byte_level(), evict_by=scorer)
    session.read(start())
    ratings, end = session.cache.read_scores, session.cache.get_seq_length()
    assert ratings is not None
    place = torch.arange(end)
    plain = ratings.of(place, end)
    scorer.pruner.age_weight.fill_(0.7)
    assert torch.allclose(ratings.of(place, end), plain - 0.7 * (end - place).float().log())


def test_tokens_with_higher_scores_stay() -> None:
    class Even:
        """Even token indices score higher; the oldest odd ones must go although recency would keep none of these."""

        layer = 3

        def score(self, layer, hidden, ctx):  # type: ignore[no-untyped-def]
            return (ctx.index % 2 == 0).float()

    session = ReplanSession(model(), byte_level(), budget=Budget(kv_tokens=200), evict_by=Even(), stale_first=False)
    long = [{"role": "user", "content": "You see a mug. " * 40}, {"role": "user", "content": "Now?"}]
    session.append([*start(), {"role": "assistant", "content": "look"}, *long])
    kept = session.cache.layout(0).index[0]
    gone = set(range(session.cache.get_seq_length())) - set(kept.tolist())
    assert gone and all(place % 2 for place in gone)


def test_forks_and_saved_sessions_go_on_with_their_scores(tmp_path: Path) -> None:
    def fresh(evict_by):  # type: ignore[no-untyped-def]
        return ReplanSession(model(), byte_level(), budget=Budget(kv_tokens=120), evict_by=evict_by)

    scorer = LearnedScorer(random_pruner())
    session = fresh(scorer)
    messages = start()
    messages += turn(session.generate(messages, max_new_tokens=5).text, 1)
    twin = session.fork()
    session.save(tmp_path / "s")
    restored = fresh(scorer)
    restored.restore(tmp_path / "s")
    expected = session.generate(messages, max_new_tokens=5).text
    assert twin.generate(messages, max_new_tokens=5).text == expected
    assert restored.generate(messages, max_new_tokens=5).text == expected
    assert session.cache.layout(5).index.tolist() == restored.cache.layout(5).index.tolist()
    plain = fresh("recency")
    plain.generate(messages, max_new_tokens=5)
    plain.save(tmp_path / "p")
    with pytest.raises(RunError, match="saved without scores"):
        fresh(scorer).restore(tmp_path / "p")


def test_a_score_that_is_not_finite_names_the_layer() -> None:
    pruner = random_pruner()
    with torch.no_grad():
        pruner.heads["6"].outer.bias.fill_(torch.nan)
    session = ReplanSession(model(), byte_level(), evict_by=LearnedScorer(pruner))
    with pytest.raises(FloatingPointError, match="layer 6"):
        session.read(start())


def test_one_that_is_looked_at_late_is_an_error_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a second try nor a pool that serves its calls one by one may go on as if nothing had been."""
    monkeypatch.setattr("erecap.tokens.cache.read_scores.late", lambda hidden: True)
    pruner = random_pruner()
    with torch.no_grad():
        pruner.heads["6"].outer.bias.fill_(torch.nan)
    pool = ReplanPool(model(), byte_level())
    broken, whole = pool.session(evict_by=LearnedScorer(pruner)), pool.session()
    for session in (broken, whole):
        session.read(start())
    given = {"max_new_tokens": 3}
    for _ in range(2):
        results = pool.generate([(broken, start(), given), (whole, start(), given)], return_exceptions=True)
        assert isinstance(results[0], FloatingPointError) and "layer 6" in str(results[0])
        assert results[1].text == ReplanSession(model(), byte_level()).generate(start(), **given).text


# Files ----------------------------------------------------------------------------------------------------


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    pruner = random_pruner()
    pruner.age_weight.fill_(1.25)
    save_pruner(tmp_path, pruner, GOOD)
    loaded = load_pruner(tmp_path, **FITS)
    assert LearnedScorer(loaded).age_weight == 1.25 == json.loads((tmp_path / CARD).read_text())["age_weight"]
    hidden = torch.randn(1, 5, 32)
    assert loaded.stages == (1, 2, 3, 4, 6) and loaded.session_stage == 6
    assert torch.equal(loaded(3, hidden), random_pruner()(3, hidden))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 64}, "hidden size 32, this model has 64"),
        ({"base": "sha256:2"}, "trained for weights sha256:1 with no adapter, this model is weights sha256:2"),
        ({"adapter": "sha256:3"}, "with adapter sha256:3"),
        ({"layers": 6}, "scores layer 6, this model has 6 layers"),
    ],
)
def test_a_pruner_of_another_model_is_refused(tmp_path: Path, changes: dict, words: str) -> None:
    save_pruner(tmp_path, random_pruner(), GOOD)
    with pytest.raises(ModelError, match=words):
        load_pruner(tmp_path, **(FITS | changes))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    save_pruner(tmp_path, random_pruner(), GOOD)
    weights = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(weights[:-100])
    with pytest.raises(ModelError, match=f"{WEIGHTS} is damaged"):
        load_pruner(tmp_path, **FITS)
    save_pruner(tmp_path, random_pruner(stages=(1, 2)), GOOD)
    card = json.loads((tmp_path / CARD).read_text())
    (tmp_path / CARD).write_text(json.dumps(card | {"stages": [1, 3], "session_stage": 3}))
    with pytest.raises(ModelError, match=r"heads\.2"):
        load_pruner(tmp_path, **FITS)
    (tmp_path / CARD).write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load_pruner(tmp_path, **FITS)
    with pytest.raises(ConfigError, match="no such folder"):
        load_pruner(tmp_path / "none", **FITS)


@pytest.mark.parametrize("learned", [0.2, 0.3, None])
def test_one_that_does_not_beat_random_needs_a_word(tmp_path: Path, learned: float | None) -> None:
    card = {"test": {"rankers": {"random": {"kl": 0.2}} | ({"learned": {"kl": learned}} if learned else {})}}
    save_pruner(tmp_path, random_pruner(), card)
    assert not beats_random(card)
    with pytest.raises(ModelError, match="allow_untested"):
        load_pruner(tmp_path, hidden_size=32, layers=8)
    load_pruner(tmp_path, hidden_size=32, layers=8, allow_untested=True)


# Runs -----------------------------------------------------------------------------------------------------


def test_runs_name_the_learned_scorer_only_with_a_pruner() -> None:
    assert parse_mode("prune[learned]").prune == "learned"
    run = {"name": "a", "suites": ["household-demo"], "modes": ["prune[learned]"]}
    with pytest.raises(ValueError, match="pruner: FOLDER"):
        RunConfig.model_validate(run)
    assert RunConfig.model_validate(run | {"pruner": "runs/pruner"}).pruner == "runs/pruner"
    with pytest.raises(ValueError, match="checkpoint"):
        PruneConfig(scorer="learned")


def test_layers_and_sizes_that_the_pruner_does_not_know_are_errors() -> None:
    with pytest.raises(ValueError, match="not for layer 5"):
        random_pruner()(5, torch.zeros(1, 1, 32))
    with pytest.raises(ValueError, match="hidden states of 32, got 31"):
        random_pruner()(1, torch.zeros(1, 1, 31))
    with pytest.raises(ValueError, match="none of the pruner's stages"):
        Pruner(32, (1, 2), session_stage=3)
