"""Scores and answers of the dense model and of changed ones, against slow references."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erecap.config.modes import parse_mode
from erecap.errors import ConfigError
from erecap.evaluation.subjects import Change, build_subjects, mode_of, name_of
from erecap.session.eviction import random_scores
from tests.context.small_tokenizers import byte_level

TEXT = "Goal: cool the apple 1.\n" + "\n".join(f"On the shelf {n} you see a mug {7 * n}." for n in range(12))
IDS = byte_level()(TEXT, add_special_tokens=False)["input_ids"]
CONTEXT, REST = tuple(IDS[:150]), tuple(IDS[150:180])
CHAT = [{"role": "user", "content": TEXT, "protect": []}]
PIECES = [{"role": "user", "content": line + "\n", "protect": []} for line in TEXT.split("\n")]


def pair(opened_model, **change):
    """The dense subject and a changed one."""
    return build_subjects(opened_model, [Change(**change)])


def close(ours, theirs) -> bool:
    return ours.choices == theirs.choices and torch.allclose(
        torch.tensor(ours.logprobs), torch.tensor(theirs.logprobs), atol=2e-3
    )


def test_the_dense_subject_scores_the_continuation_alone(opened) -> None:
    [dense] = build_subjects(opened(), [Change()])
    with torch.no_grad():
        rows = dense.opened.model(torch.tensor([CONTEXT + REST])).logits[0].log_softmax(-1)
    wanted = [float(rows[len(CONTEXT) - 1 + n, token]) for n, token in enumerate(REST)]
    scores = dense.scores(CONTEXT, REST)
    assert scores.logprobs == pytest.approx(wanted, abs=1e-4) and scores.nats == pytest.approx(-sum(wanted), abs=1e-3)
    assert scores.choices == tuple(rows[len(CONTEXT) - 1 : -1].argmax(-1).tolist()) and scores.kept is None


@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3"])
@pytest.mark.parametrize("mode", ["reuse", "erecap", "prune[attention]", "erecap+prune[recency]"])
def test_what_keeps_everything_equals_the_dense_model(opened, name: str, mode: str) -> None:
    budget = "auto" if mode == "erecap" else None
    dense, kept = pair(opened(name), mode=mode_of(mode), kv_tokens=budget, keep=1.0)
    assert close(kept.scores(CONTEXT, REST), dense.scores(CONTEXT, REST))
    assert close(kept.scores(CONTEXT[:1], REST), dense.scores(CONTEXT[:1], REST))
    assert kept.answer(CHAT, max_new_tokens=8).text == dense.answer(CHAT, max_new_tokens=8).text
    raw = [subject.answer(PIECES, max_new_tokens=8, raw=True).text for subject in (kept, dense)]
    assert raw[0] == raw[1]


@pytest.mark.parametrize("mode", ["recency", "random"])
def test_a_session_scores_from_no_more_than_its_budget(opened, mode: str) -> None:
    dense, session = pair(opened(), mode=parse_mode(mode), kv_tokens=40)
    model, count = dense.opened.model, len(CONTEXT) - 1
    # The sinks and the newest quarter of the budget stay; the ranking decides about the others.
    fixed = [*range(4), *range(len(CONTEXT) - 10, count)]
    others = [n for n in range(count) if n not in fixed]
    rank = np.arange(count) if mode == "recency" else random_scores(np.arange(count), 0)
    stored = {*fixed, *sorted(others, key=lambda n: -rank[n])[: 40 - len(fixed)]}
    ids = torch.tensor([CONTEXT + REST[:-1]])
    seen = torch.tril(torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool))
    seen[count:, [n for n in range(count) if n not in stored]] = False
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        rows = model(ids, attention_mask=mask[None, None]).logits[0, count:].log_softmax(-1)
    found = session.scores(CONTEXT, REST)
    assert found.logprobs == pytest.approx([float(rows[n, token]) for n, token in enumerate(REST)], abs=2e-3)
    assert found.kept == pytest.approx(40 / count)
    assert not close(found, dense.scores(CONTEXT, REST))


def test_the_newest_quarter_of_a_budget_as_characters(opened) -> None:
    dense, session = pair(opened(), mode=parse_mode("random"), kv_tokens=40)
    left = session.protected_characters(TEXT)
    assert 0 < left < len(TEXT) and len(byte_level()(TEXT[-left:], add_special_tokens=False)["input_ids"]) == 10
    assert dense.protected_characters(TEXT) == 0 and session.protected_characters("a") == 0


@pytest.mark.parametrize("mode", ["prune[recency]", "erecap+prune[recency]"])
def test_one_token_of_context_leaves_nothing_to_drop(opened, mode: str) -> None:
    dense, changed = pair(opened(), mode=mode_of(mode), kv_tokens=40, keep=0.3, stages=(2, 4))
    for rest in (REST, REST[:1]):
        assert close(changed.scores(CONTEXT[:1], rest), dense.scores(CONTEXT[:1], rest))
    assert len(changed.scores(CONTEXT, REST[:1]).choices) == 1


def test_dropping_tokens_changes_scores(opened) -> None:
    dense, pruned = pair(opened(), mode=parse_mode("prune[recency]"), keep=0.3, stages=(2, 4))
    found = pruned.scores(CONTEXT, REST)
    assert not close(found, dense.scores(CONTEXT, REST)) and 0.3 < found.kept < 0.6


def test_an_empty_plan_changes_nothing_and_a_heavy_one_much(opened, plan) -> None:
    dense, whole = pair(opened(), layers=plan("whole"))
    assert whole.scores(CONTEXT, REST) == dense.scores(CONTEXT, REST)
    greedy = dense.answer(PIECES, max_new_tokens=12, raw=True).text
    _, heavy = pair(opened(), layers=plan("heavy", blocks=(2, 3, 4, 5, 6)))
    again = byte_level()(greedy, add_special_tokens=False)["input_ids"]
    assert heavy.scores(IDS, again).nats > dense.scores(IDS, again).nats + 1


def test_answers_end_before_a_stop_text(opened) -> None:
    [dense] = build_subjects(opened(), [])
    whole = dense.answer(PIECES, max_new_tokens=12, raw=True).text
    stop = whole[4:6]
    assert dense.answer(PIECES, max_new_tokens=12, stop=[stop], raw=True).text == whole[: whole.index(stop)]


def test_names_and_keys(opened, plan, tmp_path) -> None:
    thin = plan("thin", blocks=(3,))
    changes = [
        Change(),
        Change(layers=thin),
        Change(parse_mode("erecap"), kv_tokens=64),
        Change(parse_mode("erecap"), thin, "auto"),
        Change(parse_mode("prune[random]"), keep=0.5, stages=(2,)),
        Change(mode_of("reuse+prune[random]"), stages=(2,)),
    ]
    subjects = build_subjects(opened(), changes)
    assert [subject.name for subject in subjects] == [
        "dense", "thin", "erecap 64", "erecap auto + thin", "prune[random] 0.5", "reuse+prune[random] 0.7",
    ]  # fmt: skip
    assert len({subject.key for subject in subjects}) == 6
    (tmp_path / "thin").rename(tmp_path / "moved")
    moved = build_subjects(opened(), [Change(layers=str(tmp_path / "moved"))])[1]
    assert moved.key == subjects[1].key and moved.name == "moved"
    assert build_subjects(opened("qwen3"), [])[0].key != subjects[0].key


def test_what_cannot_be_judged_is_refused(opened, plan) -> None:
    thin = plan("thin", blocks=(3,))
    with pytest.raises(ConfigError, match="two subjects are called 'thin'"):
        build_subjects(opened(), [Change(layers=thin), Change(layers=thin)])
    with pytest.raises(ConfigError, match="no layer drops tokens: a model of 6 layers"):
        build_subjects(opened(), [Change(parse_mode("prune[recency]"), plan("six", blocks=(3, 4)))])
    for text in ("mask", "expert", "served"):
        with pytest.raises(ConfigError, match="has no model's own reading to judge"):
            mode_of(text)
    for text in ("full+prune[recency]", "erecap+reuse", "erecap+prune[recency]+prune[random]"):
        with pytest.raises(ConfigError, match=r"allowed with \+: a session and pruning"):
            mode_of(text)
    with pytest.raises(ConfigError, match="--mode: unknown mode 'nothing'"):
        mode_of("nothing")
    dense, session = build_subjects(opened(window=200), [Change(parse_mode("recency"), kv_tokens=64)])
    assert len(dense.scores(IDS[:171], REST).choices) == len(session.scores(IDS[:171], REST).choices) == 30
    with pytest.raises(ConfigError, match="190 tokens of context and 30 of continuation pass the model's"):
        dense.scores(tuple(range(3, 193)), REST)
    with pytest.raises(ConfigError, match="at least one token of context"):
        dense.scores((), REST)
    assert name_of(Change()) == "dense"
