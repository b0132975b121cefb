"""Training under a budget: it stores the tokens of a session, and its masks allow no more and no less."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from erecap.budget import Budget
from erecap.decoding.stopping import answer_ends
from erecap.errors import ConfigError
from erecap.session import ReplanSession
from erecap.tokens.scoring.learned import LearnedScorer, Pruner
from erecap.training.planner.loop import read_log
from erecap.training.planner.settings import PlannerTraining
from erecap.training.planner.train import PROGRESS, train_planner
from erecap.training.planner.under_budget import Holes, allowed, end_of, scores_of, stored
from erecap.training.saliency.samples import Sample, chat_sample
from erecap.training.sequences import plan_logits
from tests.context.small_tokenizers import byte_level
from tests.session import chats
from tests.training.chatworld import row, save_model, save_rows

BUDGET = 150
PLANS = ["go to shelf 3", "go to shelf 5\nlook", "go to fridge 1", "open fridge 1", "take mug 2 from fridge 1"]


@dataclass(frozen=True)
class Target:
    message: int
    plan: str


def chat(plans: list[str] = PLANS) -> list[dict[str, Any]]:
    """A chat in which a second goal comes up."""
    messages = [
        {"role": "system", "content": "You plan for a robot."},
        {"role": "user", "content": "Goal: cool the apple 1.\nYou see a fridge 1 and a shelf 2."},
    ]
    for number, plan in enumerate(plans):
        lines = [f"> {step}\nOn the shelf {number} you see a mug {number * 7}." for step in plan.split("\n")]
        lines += ["Goal: put a mug into the sink."] if number == 2 else []
        messages += [{"role": "assistant", "content": plan}, {"role": "user", "content": "\n".join(lines)}]
    return messages


def targets(plans: list[str] = PLANS) -> list[Target]:
    return [Target(2 + 2 * number, plan) for number, plan in enumerate(plans)]


def known(labels: list[str] = PLANS) -> Sample:
    tokenizer, model = byte_level(), chats.model()
    sample = chat_sample("t", chat(), targets(labels), tokenizer, answer_ends(model, tokenizer), 2000)  # type: ignore[arg-type]
    assert sample is not None
    return sample


def claimed(messages: list[dict[str, Any]], call: int) -> list[dict[str, Any]]:
    """The messages of a call as an episode's context graph marks them."""
    marked = [{**message, "protect": [], "stale": []} for message in messages]
    marked[0]["protect"] = [(0, len(messages[0]["content"]))]
    goals = [
        (number, message["content"].index("Goal: "))
        for number, message in enumerate(messages)
        if "Goal: " in message["content"]
    ]
    for number, start in goals:
        end = (messages[number]["content"] + "\n").index("\n", start)
        level = "protect" if (number, start) == goals[-1] else "stale"
        marked[number][level].append((start, end))
    for earlier in range(call):
        level = "protect" if earlier == call - 1 else "stale"
        marked[2 + 2 * earlier][level].append((0, len(messages[2 + 2 * earlier]["content"])))
    newest = messages[-1]["content"]
    start = newest.rindex("> ") if "> " in newest else newest.index("\n") + 1
    marked[-1]["protect"].append((start, len(newest)))
    return marked


def learned(age_weight: float) -> LearnedScorer:
    torch.manual_seed(0)
    pruner = Pruner(chats.model().config.hidden_size, (2, 4), 2)
    pruner.age_weight.fill_(age_weight)
    return LearnedScorer(pruner)


@pytest.mark.parametrize("age_weight", [None, 0.0, 0.1])
def test_what_is_stored_is_what_a_session_stores(age_weight: float | None) -> None:
    tokenizer, model = byte_level(), chats.model()
    end = tokenizer.eos_token_id
    scorer = None if age_weight is None else learned(age_weight)
    session = ReplanSession(
        model, tokenizer, budget=Budget(kv_tokens=BUDGET), evict_by=scorer or "recency", stale_first=True
    )
    wanted = known()
    kept = stored(wanted, scores_of(model, scorer, wanted.sequence), BUDGET, age_weight=age_weight or 0.0)
    assert not kept[0].any() and int(kept[-1].sum()) == BUDGET
    for call in range(len(PLANS) - 1):
        ids = [*wanted.sequence.ids[wanted.prompt(call) : end_of(wanted, call)].tolist(), end]
        session.generate(
            claimed(chat()[: 2 + 2 * call], call),  # type: ignore[arg-type]
            max_new_tokens=len(ids),
            # Named twice, it is a choice, which takes a pass; what needs none would be read with the next message.
            allowed_tokens=lambda done, ids=ids: [ids[len(done)]] * 2,  # type: ignore[misc]
        )
        assert session.token_ids[: end_of(wanted, call)] == wanted.sequence.ids[: end_of(wanted, call)].tolist()
        has = set(session.cache.stored_index().tolist())
        assert set(kept[call + 1].nonzero().squeeze(1).tolist()) == {
            place for place in has if place < end_of(wanted, call)
        }


def test_a_call_sees_what_is_stored_and_all_that_is_newer() -> None:
    labels = [*PLANS[:3], "go to sink 9", PLANS[4]]  # another plan was played in the fourth call
    wanted = known(labels)
    sequence = wanted.sequence
    kept = stored(wanted, torch.arange(sequence.transcript).float(), BUDGET)
    may = allowed(wanted, kept)[0, 0]
    [branch] = sequence.branches
    for call in range(1, 5):
        start, row = end_of(wanted, call - 1), wanted.prompt(call) - 1
        assert torch.equal(may[row, :start], kept[call, :start]) and bool(may[row, start : row + 1].all())
    start = end_of(wanted, 2)
    assert torch.equal(may[branch.start, :start], kept[3, :start]) and bool(may[branch.start, start:].all())
    assert bool(may[: end_of(wanted, 0)].all())


def test_logits_are_those_of_the_tokens_that_are_left() -> None:
    """The last call's logits, with everything evicted before it was read, against a read of the kept tokens alone.

    Scores that never change and a history that is cut only once make both the same.
    """
    model, wanted = chats.model(), known()
    sequence = wanted.sequence
    last = wanted.calls - 1
    kept = torch.zeros(wanted.calls, sequence.transcript, dtype=torch.bool)
    for call in range(1, wanted.calls):
        kept[call, : end_of(wanted, 0)] = True  # all of the first call, and nothing between it and the call
    rows = sequence.calls == last
    with torch.no_grad():
        got = plan_logits(model, sequence, allowed(wanted, kept))[rows]
        start = end_of(wanted, last - 1)
        places = torch.tensor([*range(end_of(wanted, 0)), *range(start, len(sequence.ids))])
        alone = model(
            sequence.ids[places].unsqueeze(0), position_ids=places.unsqueeze(0), attention_mask=_causal(places)
        )
    torch.testing.assert_close(got, alone.logits[0, -int(rows.sum()) :], atol=2e-4, rtol=1e-4)


def _causal(places: torch.Tensor) -> torch.Tensor:
    return (places.unsqueeze(0) <= places.unsqueeze(1))[None, None]


def test_learned_scores_are_read_at_the_pruners_layer() -> None:
    model, wanted = chats.model(), known()
    scorer = learned(0.0)
    scores = scores_of(model, scorer, wanted.sequence)
    with torch.no_grad():
        hidden = model(wanted.sequence.ids[: wanted.sequence.transcript].unsqueeze(0), output_hidden_states=True)
        expected = scorer.pruner(2, hidden.hidden_states[2][0])
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)
    assert not model.model.layers[2]._forward_pre_hooks


def test_within_autocast_scores_keep_their_digits() -> None:
    model, wanted = chats.model(), known()
    with torch.autocast("cpu", torch.bfloat16):
        scores = scores_of(model, learned(0.0), wanted.sequence)
        holes = Holes({"t": wanted}, learned(0.0), BUDGET, 1.0, 0).of(model, wanted.sequence)
    assert scores.dtype == torch.float32 and holes is not None
    assert not torch.equal(scores, scores.bfloat16().float())


def test_age_takes_what_it_weighs_off_a_score() -> None:
    model, wanted = chats.model(), known()
    scores = scores_of(model, learned(0.0), wanted.sequence)
    by_age, by_place = (
        stored(wanted, values, BUDGET, age_weight=weight)
        for values, weight in ((scores, 1e6), (torch.arange(len(scores)).float(), 0.0))
    )
    assert torch.equal(by_age, by_place) and not torch.equal(by_age, stored(wanted, scores, BUDGET))
    sequence = wanted.sequence
    with_age, without = (Holes({"t": wanted}, learned(w), BUDGET, 1.0, 0).of(model, sequence) for w in (1e6, 0.0))
    assert torch.equal(with_age, allowed(wanted, by_age)) and not torch.equal(with_age, without)


def test_short_transcripts_have_no_holes_and_the_draw_is_of_the_step() -> None:
    wanted = known()
    holes = Holes({"t": wanted}, None, 10_000, 0.5, 0)
    assert holes.of(chats.model(), wanted.sequence) is None
    drawn = [holes.drawn(step, wanted.sequence) for step in range(200)]
    assert drawn == [holes.drawn(step, wanted.sequence) for step in range(200)] and 70 < sum(drawn) < 130
    assert Holes({"t": wanted}, None, BUDGET, 0.5, 0).of(chats.model(), wanted.sequence) is not None


def test_a_planner_is_trained_under_a_budget_and_its_card_says_so(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    data = save_rows(tmp_path / "data", [row(n, branch=n % 2 == 1) for n in range(4)])
    settings = PlannerTraining(
        (str(data),), model=str(base), rank=4, lr=0.005, epochs=2, accumulate=2, max_tokens=512, held_out=0.25,
        amp="none", device="cpu", kv_tokens=28, pruned_share=1.0,
    )  # fmt: skip
    said: list[str] = []
    card = train_planner(settings, tmp_path / "planner", say=said.append).card
    assert card is not None and card["scores_within_budget"]["plans"] == card["scores"]["plans"]
    assert abs(card["scores_within_budget"]["loss"] - card["scores"]["loss"]) > 1e-3
    assert "--kv-tokens 28 --pruned-share 1.0" in card["command"]
    assert any(line.startswith("within the budget: plans right ") for line in said)
    assert "**Within 28 tokens**, what stays ranked by recency" in (tmp_path / "planner" / "card.md").read_text()
    [evaluated] = [r for r in read_log(tmp_path / "planner" / PROGRESS) if r["step"] == 0 and "held_out" in r]
    assert evaluated["within_budget"]["loss"] != evaluated["held_out"]["loss"]
    whole = train_planner(
        PlannerTraining(**{**json.loads(json.dumps(settings.__dict__)), "data": (str(data),), "pruned_share": 0.0}),
        tmp_path / "whole",
        say=said.append,
    )
    losses = [[r["loss"] for r in read_log(tmp_path / name / PROGRESS) if "loss" in r] for name in ("planner", "whole")]
    assert whole.card is not None and losses[0] != losses[1]


def test_a_ranking_without_a_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match="name the budget with --kv-tokens, too"):
        PlannerTraining(("data",), pruner="some")
