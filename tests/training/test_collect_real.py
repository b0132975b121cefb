"""Trajectories of the real simulators, and of the embedded model acting in one."""

import io

import pytest
from rich.console import Console

from erecap.config import load_suite
from erecap.config.run import PlannerSettings
from erecap.envs import make_env
from erecap.language_models.scripted import ScriptedModel
from erecap.planners.expert import ExpertPlanner
from erecap.planners.llm import LLMPlanner
from erecap.rollout.episode import play
from erecap.rollout.jobs import Job
from erecap.training.collect.acting_model import planner_config
from erecap.training.collect.collect import collect
from erecap.training.collect.episode import Recipe
from erecap.training.collect.trajectories import read_meta, read_trajectories

pytestmark = pytest.mark.integration


def gather(out, suites, *, planner=None, **recipe):
    quiet = Console(file=io.StringIO(), width=200)
    suites = {name: load_suite(name) for name in suites}
    result = collect(Recipe(**recipe), suites, out, planner=planner, console=quiet)
    assert result.status == "finished"
    return list(read_trajectories(out))


class Asked:
    """The expert, who notes the chat that a language model would have been sent at each call."""

    def __init__(self):
        self._expert, self._model = ExpertPlanner(), LLMPlanner(ScriptedModel([""]), constrained=False)
        self.chats = []

    def plan(self, context):
        chat = self._model.messages(context)
        self.chats.append([{"role": turn["role"], "content": turn["content"]} for turn in chat])
        return self._expert.plan(context)


@pytest.mark.parametrize(("name", "count"), [("household-train", 3), ("babyai-mixed", 2)])
def test_every_call_has_a_target_behind_the_chat_that_a_planner_is_sent(tmp_path, name, count):
    rows = gather(tmp_path, [name], episodes=count)
    assert [row.episode for row in rows] == list(range(count))
    suite = load_suite(name).model_copy(update={"episodes": count})
    env = make_env(suite, expert=True)
    try:
        for row in rows:
            asked = Asked()
            job = Job(name, "expert", row.episode, row.seed, sample=False)
            played = play(job, suite, env, asked, PlannerSettings())
            assert (row.success, row.steps, row.goal) == (True, played.episode["steps"], played.episode["goal"])
            shown = [[turn.model_dump() for turn in row.messages[: target.message]] for target in row.targets]
            assert shown == asked.chats
            plans = [call["plan"] for call in played.replans]
            assert [target.plan.split("\n") for target in row.targets] == plans
            assert not any(map(row.is_branch, row.targets))
    finally:
        env.close()


def test_perturbed_episodes_recover(tmp_path):
    rows = gather(tmp_path, ["household-train", "babyai-mixed"], episodes=2, perturb=1.0)
    assert all(row.source == "perturbed" and row.success for row in rows)
    assert any(row.is_branch(target) for row in rows for target in row.targets)


def test_the_embedded_model_acts_and_the_expert_labels(tmp_path, embedded_model_folder):
    planner = planner_config(str(embedded_model_folder)).model_copy(update={"dtype": "float32"})
    suite = load_suite("babyai-mixed").model_copy(update={"horizon": 4})
    recipe = Recipe(episodes=1, beta=0.3)
    quiet = Console(file=io.StringIO(), width=200)
    collect(recipe, {suite.name: suite}, tmp_path, planner=planner, console=quiet)
    (row,) = read_trajectories(tmp_path)
    assert row.source == "planner" and row.targets
    meta = read_meta(tmp_path)
    assert meta["model"]["hash"].startswith("sha256:")
    assert str(embedded_model_folder.parent) not in (tmp_path / "meta.json").read_text()
