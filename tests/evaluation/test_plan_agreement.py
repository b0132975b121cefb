"""Plans compared token by token between an unpruned session and one under a budget, on a tiny model."""

import json

import pytest

from erecap.budget import Budget
from erecap.context import Context, Situation
from erecap.errors import RunError
from erecap.evaluation.plan_agreement import ComparingPlanner, add_row, rows_done
from erecap.session.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model


def counts(pruned: ReplanSession, turns: int = 6):
    situation = Situation(skills=("go to shelf 1",), expert_actions=("go to shelf 1", "open shelf 1"))
    context = Context("cool the apple 1", ("go to {place}",), situation=situation)
    planner = ComparingPlanner(ReplanSession(model(), byte_level()), pruned, max_steps=5)
    for number in range(turns):
        context.add("observation", f"On the shelf {number} you see a mug {number * 7} and a knife {number}.")
        plan = planner.plan(context)
        assert plan.steps == ("go to shelf 1", "open shelf 1")
        context.add("plan", plan.text)
    return planner.counts


def test_the_same_session_agrees_on_every_token_and_the_end():
    found = counts(ReplanSession(model(), byte_level()))
    tokens = len(byte_level()("go to shelf 1\nopen shelf 1", add_special_tokens=False)["input_ids"]) + 1
    assert (found.plans, found.plan_tokens, found.agreed, found.skipped) == (6, 6 * tokens, 6 * tokens, 0)


def test_other_first_choices_are_not_counted_as_agreed():
    found = counts(ReplanSession(model("qwen2"), byte_level(), budget=Budget(kv_tokens=190)))
    assert found.plans == 6 and found.agreed < found.plan_tokens


def test_rows_are_gone_on_from_and_those_of_others_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"suite": suite, "budget": 1024, "episode": n, "model": "m"} for suite in ("a", "b") for n in (0, 1)]
    whole = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(whole)
    assert rows_done(path, "a", 1024, {"model": "m"}, False) == (rows, {0, 1})
    assert rows_done(path, "a", 512, {"model": "x"}, False) == (rows, set())
    assert rows_done(path, "a", 1024, {"model": "x"}, True) == (rows[2:], set())
    with pytest.raises(RunError, match=r"rows\.jsonl:1: measured with model m, now it is x; --fresh"):
        rows_done(path, "a", 1024, {"model": "x"}, False)
    path.write_text(whole + '{"suite": "a", "bud')
    with pytest.raises(RunError, match=r"rows\.jsonl:5: the row is damaged"):
        rows_done(path, "a", 1024, {"model": "m"}, False)
    path.write_text("{oops\n")
    with pytest.raises(RunError, match=r"rows\.jsonl:1: the row is damaged"):
        rows_done(path, "a", 1024, {"model": "m"}, False)


def test_processes_that_share_the_file_keep_each_others_rows(tmp_path):
    path, identity = tmp_path / "raw" / "rows.jsonl", {"model": "m"}
    rows = [{"suite": "a", "budget": 1024, "episode": n, "agreed": n, **identity} for n in range(3)]
    for row in (*rows, rows[1] | {"agreed": 9}):  # another process was faster with episode 1
        add_row(path, row, identity)
    assert list(map(json.loads, path.read_text().splitlines())) == rows
    with pytest.raises(RunError, match="measured with model m, now it is x"):
        add_row(path, rows[0] | {"episode": 7}, {"model": "x"})
    assert list(map(json.loads, path.read_text().splitlines())) == rows
