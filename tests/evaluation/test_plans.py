"""Agreement of plans with the dense planner on a tiny model, on transcripts as `erecap collect` writes them."""

from __future__ import annotations

import pytest
import torch

from erecap.config.modes import parse_mode
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError
from erecap.evaluation.comparison import Measured, compare
from erecap.evaluation.items import Items
from erecap.evaluation.plans import KEYS, KIND, MEASURES, agreement, collected, episodes_of
from erecap.evaluation.subjects import Change, build_subjects
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model
from tests.tuning.histories import write


def run(subjects, folder, path, episodes=3, calls=None):
    """Rows of each subject, what was read, and the figures."""
    dense = subjects[0].opened
    found = episodes_of(collected(folder, 0), dense.model, dense.tokenizer, episodes, calls)
    rows, read = agreement(subjects, found, Items(path, KIND, KEYS), lambda _: None)
    figures = compare(MEASURES, [Measured(s.name, {}, own) for s, own in zip(subjects, rows, strict=True)])
    return rows, read, [row["figures"] for row in figures]


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "transcripts")


def test_plans_against_the_dense_planner(opened, plan, folder, tmp_path) -> None:
    changes = [
        Change(layers=plan("whole")),
        Change(parse_mode("prune[recency]"), keep=1.0),
        Change(parse_mode("recency"), kv_tokens=64),
        Change(parse_mode("prune[recency]"), keep=0.3, stages=(2, 4)),
        Change(layers=plan("heavy", blocks=(2, 3, 4, 5, 6))),
    ]
    subjects = build_subjects(opened(), changes)
    rows, read, figures = run(subjects, folder, tmp_path / "rows.jsonl")
    assert read["episodes"] == 3 and read["past_the_window"] == 0
    assert "same tokens" not in figures[0] and figures[0]["plan NLL"]["n"] == 3
    for same in figures[1:3]:
        assert same["same tokens"]["value"] == 100 and same["plans that differ"]["value"] == 0
        assert same["plan NLL"]["against_dense"]["value"] == pytest.approx(0, abs=1e-3)
    for changed in figures[3:]:
        assert changed["same tokens"]["value"] < 100 and changed["plans that differ"]["value"] > 0
    assert figures[5]["plan NLL"]["against_dense"]["value"] != pytest.approx(0, abs=1e-2)
    assert sum(row["compared"] for row in rows[0]) == read["tokens"]
    assert [row["kept"] is None for row in (own[0] for own in rows)] == [True, True, False, False, False, True]


def test_the_dense_planner_is_the_unmodified_model(opened, folder, tmp_path) -> None:
    rows, read, _ = run(build_subjects(opened(), []), folder, tmp_path / "rows.jsonl", episodes=1)
    episode = next(iter(collected(folder, 0)))
    loss = tokens = 0.0
    for place, text in episode.plans:
        prompt = render_prompt(episode.messages[:place], byte_level()).input_ids
        ids = byte_level()(text.strip(), add_special_tokens=False)["input_ids"]
        ids = [*ids, byte_level().eos_token_id]
        with torch.no_grad():
            logits = model("llama", 1024)(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        loss -= float(sum(logits[len(prompt) - 1 + n, token] for n, token in enumerate(ids)))
        tokens += len(ids)
    assert (rows[0][0]["compared"], read["tokens"]) == (tokens, tokens)
    assert rows[0][0]["loss"] == pytest.approx(loss, rel=1e-3)


def test_calls_are_chosen_evenly_and_measured_once(opened, folder, tmp_path) -> None:
    subjects = build_subjects(opened(), [Change(parse_mode("prune[random]"), stages=(2,))])
    path = tmp_path / "rows.jsonl"
    first = run(subjects, folder, path, episodes=2, calls=2)
    assert first[1]["plans"] <= 4 and len(path.read_bytes().splitlines()) == 1 + 2 * 2
    before = path.read_bytes()
    assert run(subjects, folder, path, episodes=2, calls=2) == first and path.read_bytes() == before
    assert run(subjects, folder, path, episodes=2)[1]["plans"] > 4


def test_calls_past_the_window_are_left_out_of_all_subjects(opened, folder, tmp_path) -> None:
    longest = max(
        len(render_prompt(episode.messages[: episode.plans[-1][0]], byte_level()).input_ids)
        for episode in collected(folder, 0)
    )
    narrow = opened(window=longest - 40)
    changes = [Change(parse_mode("recency"), kv_tokens=64), Change(parse_mode("prune[recency]"), stages=(2,))]
    rows, read, _ = run(build_subjects(narrow, changes), folder, tmp_path / "rows.jsonl", episodes=5)
    assert 0 < read["past_the_window"] < read["plans"]
    assert len({sum(row["plans"] for row in own if row) for own in rows}) == 1


def test_no_plan_is_told(opened, tmp_path) -> None:
    dense = opened()
    with pytest.raises(ConfigError, match="no episode has a plan to compare"):
        episodes_of([], dense.model, dense.tokenizer, 3, None)
    with pytest.raises(ConfigError, match=r"holds no meta\.json"):
        list(collected(tmp_path, 0))
