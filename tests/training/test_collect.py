"""Collecting trajectories in a small text world: the contents of a row, always the same."""

import io
import json
import random
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))
from tinyworld import ENTRY, TinyComponents, tiny_run, tiny_suite

from erecap.context import Situation
from erecap.envs import ENVIRONMENTS
from erecap.errors import ConfigError
from erecap.language_models.scripted import ScriptedModel
from erecap.planners.llm import LLMPlanner
from erecap.training.collect.collect import collect
from erecap.training.collect.episode import Recipe
from erecap.training.collect.planner import detour
from erecap.training.collect.trajectories import read_meta, read_trajectories


@pytest.fixture(scope="module", autouse=True)
def tiny_environment():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENTS, "tiny", ENTRY)
        yield


def gather(out, *, suite=None, suites=None, planner=None, workers=1, components=TinyComponents, **recipe):
    suites = suites or {"tiny": suite or tiny_suite(disturbances={"slip": 0.2})}
    recipe = Recipe.model_validate({"episodes": 8, **recipe})
    quiet = Console(file=io.StringIO(), width=200)
    return collect(recipe, suites, out, planner=planner, workers=workers, open_components=components, console=quiet)


def rows(folder):
    return list(read_trajectories(folder))


class Spy(TinyComponents):
    """Its scripted model keeps the chats that it was asked with."""

    models: ClassVar[list[ScriptedModel]] = []

    def planner(self, mode, *, trace):
        model = ScriptedModel(lambda messages: self.answer(mode, messages))
        self.models.append(model)
        return LLMPlanner(model, constrained=False)


def test_the_expert_is_its_own_label_at_every_call(tmp_path):
    result = gather(tmp_path)
    assert (result.status, result.rows, result.played) == ("finished", 8, 8)
    assert [row.episode for row in rows(tmp_path)] == list(range(8))
    for row in rows(tmp_path):
        assert row.source == "expert" and row.success and row.error is None
        answers = [number for number, message in enumerate(row.messages) if message.role == "assistant"]
        assert [target.message for target in row.targets] == answers
        assert not any(map(row.is_branch, row.targets))
        assert row.messages[1].content.startswith(f"Goal: {row.goal}")
        assert row.messages[-1].role == "user"
    assert any(len(row.targets) > 1 for row in rows(tmp_path))  # some step slipped
    meta = read_meta(tmp_path)
    assert meta["status"] == "finished" and meta["options"]["max_steps"] == 5
    assert meta["counts"]["plans"] == sum(len(row.targets) for row in rows(tmp_path))
    assert (meta["counts"]["episodes"], meta["counts"]["won"], meta["counts"]["branches"]) == (8, 8, 0)


def test_plans_are_cut(tmp_path):
    gather(tmp_path, max_steps=1)
    for row in rows(tmp_path):
        assert "reply with the next command, one per line" in row.messages[0].content
        assert all("\n" not in target.plan for target in row.targets)


def test_detours_are_played_and_the_expert_stays_the_label(tmp_path):
    gather(tmp_path / "some", perturb=0.5, episodes=30)
    sources = [row.source for row in rows(tmp_path / "some")]
    assert 8 <= sources.count("perturbed") <= 22
    gather(tmp_path / "all", perturb=1.0, episodes=30)
    strayed = rows(tmp_path / "all")
    assert {row.source for row in strayed} == {"perturbed"}
    branches = 0
    for row in strayed:
        for target in row.targets:
            assert target.plan.endswith("take key")  # what this world's expert says everywhere
            branches += row.is_branch(target)
            steps = row.messages[target.message].content.split("\n")
            assert len(steps) <= 2 and all(step.startswith(("go to room", "take key")) for step in steps)
    assert branches >= 20
    # An episode is perturbed or not for itself: the others are those of an expert.
    gather(tmp_path / "none", episodes=30)
    pairs = zip(rows(tmp_path / "some"), rows(tmp_path / "none"), strict=True)
    assert all(some == plain for some, plain in pairs if some.source == "expert")


def test_a_detour_is_one_or_two_other_commands():
    skills = (*(f"go to room {number}" for number in range(40)), "open door", "take key")
    drawn = [detour(Situation(skills=skills), "take key", random.Random(seed)) for seed in range(300)]
    assert {len(steps) for steps in drawn} == {1, 2}
    assert all(set(steps) <= set(skills) - {"take key"} and len(set(steps)) == len(steps) for steps in drawn)
    assert sum("open door" in steps for steps in drawn) > 300 / 42 * 1.5 * 2  # more often than its share of commands
    assert detour(Situation(skills=("take key",)), "take key", random.Random(0)) == ()


def test_a_model_acts_and_the_expert_is_the_label(tmp_path):
    Spy.models = []
    gather(tmp_path, planner=tiny_run(), components=Spy)
    played = rows(tmp_path)
    assert {row.source for row in played} == {"planner"}
    assert any(map(row.is_branch, row.targets) for row in played)
    for row, model in zip(played, Spy.models, strict=True):
        chats = [[{key: turn[key] for key in ("role", "content")} for turn in chat] for chat in model.calls]
        # What the model was asked is what training will show before the label; this model's text is never empty.
        assert [[turn.model_dump() for turn in row.messages[: target.message]] for target in row.targets] == chats
    invalid = [turn.content for row in played for turn in row.messages if turn.content == "hello there"]
    assert invalid and "tiny" in read_meta(tmp_path)["suites"]


def test_a_collection_has_neither_clock_nor_calls_made_once_more(tmp_path):
    seen = []

    class Opened(TinyComponents):
        def __init__(self, config, suites):
            super().__init__(config, suites)
            seen.append((config.clock, config.reread))

    acting = tiny_run(modes=["reuse"], clock="charged", reread={"mode": "reuse", "every": 2})
    gather(tmp_path, planner=acting, components=Opened, episodes=1)
    assert seen == [(None, None)]


def test_beta_lets_the_expert_act(tmp_path):
    shares = []
    for beta in (0.0, 0.5, 1.0):
        gather(tmp_path / str(beta), planner=tiny_run(), beta=beta, episodes=20)
        labels = [row.is_branch(target) for row in rows(tmp_path / str(beta)) for target in row.targets]
        shares.append(sum(labels) / len(labels))
    assert shares[0] > shares[1] > shares[2] == 0


def test_the_same_settings_give_the_same_bytes(tmp_path):
    for name, changes in {"a": {}, "b": {}, "seed": {"seed": 1}, "two": {"workers": 2}}.items():
        gather(tmp_path / name, perturb=0.6, **changes)
    bytes_of = {name: (tmp_path / name / "episodes.jsonl").read_bytes() for name in ("a", "b", "seed", "two")}
    assert bytes_of["a"] == bytes_of["b"] == bytes_of["two"] != bytes_of["seed"]


def test_suites_take_turns_and_the_first_episode_is_chosen(tmp_path):
    suites = {name: tiny_suite(name=name, seed=seed) for name, seed in (("one", 5), ("two", 6))}
    gather(tmp_path / "all", suites=suites, episodes=3)
    order = [(row.suite, row.episode) for row in rows(tmp_path / "all")]
    assert order == [("one", 0), ("two", 0), ("one", 1), ("two", 1), ("one", 2), ("two", 2)]
    gather(tmp_path / "late", suites=suites, episodes=1, first=2)
    assert rows(tmp_path / "late") == rows(tmp_path / "all")[4:]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_cannot_be_played_is_a_row_without_a_label(tmp_path, workers):
    options = {"broken": [1], "cracks": [2], "goalless": [3], **({"deadly": [4]} if workers > 1 else {})}
    gather(tmp_path, suite=tiny_suite(options=options), workers=workers, episodes=6)
    lines = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    errors = {line["episode"]: line["error"] for line in lines if line["error"]}
    assert list(errors)[:3] == [1, 2, 3] and [line["episode"] for line in lines] == list(range(6))
    assert errors[1] == "GameError: game 1 is corrupt" and errors[2] == "GameError: the floor is gone"
    assert (4 in errors) == (workers > 1)
    # The game that broke on the way taught something before.
    assert [row.episode for row in rows(tmp_path)] == ([0, 2, 5] if workers > 1 else [0, 2, 4, 5])
    assert read_meta(tmp_path)["counts"]["ended_early"] == len(errors)


def test_an_expert_that_knows_no_way_ends_the_episode(tmp_path, monkeypatch):
    import tinyworld

    known = tinyworld.TinyEnv.info_now
    lost = lambda env, failure: {**known(env, failure), **({"expert_actions": []} if env.steps else {})}  # noqa: E731
    monkeypatch.setattr(tinyworld.TinyEnv, "info_now", lost)
    gather(tmp_path, suite=tiny_suite(), max_steps=1, episodes=2)
    for row in rows(tmp_path):
        assert row.error == "GameError: the environment's expert gives no actions here"
        assert len(row.targets) == 1 and not row.success
        assert "could not be used" not in row.messages[-1].content


def test_the_goal_may_change_on_the_way(tmp_path, monkeypatch):
    import tinyworld

    known = tinyworld.TinyEnv.info_now
    goal = lambda env: "Take the key." if env.steps == 0 else "Take the key at last."  # noqa: E731
    monkeypatch.setattr(tinyworld.TinyEnv, "info_now", lambda env, failure: {**known(env, failure), "goal": goal(env)})
    gather(tmp_path, suite=tiny_suite())
    for row in rows(tmp_path):
        assert row.goal == "Take the key." and row.success
        first, second = row.targets  # the plan for the old goal was given up
        assert row.messages[first.message].content == first.plan
        assert row.messages[second.message - 1].content.endswith("Goal: Take the key at last.")


def test_tokens_are_counted_and_long_episodes_dropped(tmp_path):
    from tests.context.small_tokenizers import byte_level

    byte_level().save_pretrained(tmp_path / "model")
    gather(tmp_path / "all", tokenizer=str(tmp_path / "model"))
    assert read_meta(tmp_path / "all")["options"]["tokenizer"] == "model"  # no path of this machine
    lengths = sorted(row.tokens for row in rows(tmp_path / "all"))
    assert lengths[0] > 50
    limit = lengths[4]
    gather(tmp_path / "short", tokenizer=str(tmp_path / "model"), max_tokens=limit)
    kept = rows(tmp_path / "short")
    assert kept == [row for row in rows(tmp_path / "all") if row.tokens <= limit]
    lines = [json.loads(line) for line in (tmp_path / "short" / "episodes.jsonl").read_text().splitlines()]
    dropped = [line for line in lines if line["error"]]
    assert len(lines) == 8 and len(dropped) == 8 - len(kept) > 0
    assert all(line["error"].startswith(f"dropped: {line['tokens']} tokens, more than") for line in dropped)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"beta": 0.5}, "beta: says how often the expert acts in place of a model"),
        ({"planner": {}, "perturb": 0.5}, "perturb: got 0.5; allowed with a planner: 0"),
        ({"planner": {"plans": "expert"}}, "planner.plans: got expert; allowed where trajectories are collected"),
        ({"max_tokens": 9}, "max_tokens: tokens are counted by a model's tokenizer"),
    ],
)
def test_settings_that_contradict_each_other(tmp_path, changes, complaint):
    if "planner" in changes:
        changes = {**changes, "planner": tiny_run(planner=changes["planner"])}
    with pytest.raises(ConfigError, match=complaint):
        gather(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()
