"""Chains of goals on the engine: one world, announced goals, and experts that go from one to the next."""

import random

import pytest

from erecap.config.run import PlannerSettings
from erecap.config.suite import Suite
from erecap.context import Context, Situation
from erecap.context.render import render
from erecap.envs.household.env import HouseholdEnv
from erecap.envs.household.experts.memory import Memory
from erecap.envs.household.experts.search import search_plan
from erecap.envs.household.games.chains import least_steps
from erecap.envs.household.games.generate import generate
from erecap.envs.household.games.next_goal import search_cost
from erecap.envs.household.options import HouseholdOptions
from erecap.planners.expert import ExpertPlanner
from erecap.protocols import Plan
from erecap.rollout.episode import play as play_episode
from erecap.rollout.jobs import Job
from tests.envs.household.conftest import SEED

pytestmark = pytest.mark.integration

COUNT = 2
CHAIN = {"split": "unseen", "goals": (2, 3), "max_objects": 40}


@pytest.fixture(scope="module")
def chain_cache(game_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERECAP_CACHE", str(game_cache))
        return generate("unseen", SEED, COUNT, max_objects=40, goals=(2, 3))


@pytest.fixture
def chain(chain_cache):
    """Makes environments on the two chains of this module, or on other games, and closes them."""
    opened = []

    def make(count: int = COUNT, **options) -> HouseholdEnv:
        chosen = HouseholdOptions(**{**CHAIN, "expert": "search", **options})
        opened.append(HouseholdEnv(chosen, seed=SEED, episodes=count, expert=True))
        return opened[-1]

    yield make
    for env in opened:
        env.close()


def follow(env: HouseholdEnv, episode: int, limit: int = 150) -> list[tuple[str, str, dict]]:
    """Follow the expert of `env`: command, observation, info."""
    observation, info = env.reset(options={"episode": episode})
    turns = [("", observation, info)]
    while not turns[-1][2]["success"] and len(turns) <= limit:
        command = turns[-1][2]["expert_actions"][0]
        observation, _, terminated, _, info = env.step(command)
        turns.append((command, observation, info))
        assert terminated == info["success"]
    return turns


@pytest.mark.parametrize("episode", range(COUNT))
def test_the_searching_expert_fulfils_goal_after_goal(chain, episode):
    turns = follow(chain(), episode)
    info = turns[-1][2]
    assert info["success"] and info["progress"] == 1.0
    goals = list(dict.fromkeys(info["goal"] for _, _, info in turns))
    assert 2 <= len(goals) <= 3
    announced = [text for _, text, _ in turns if "Done. Your next task is: " in text]
    assert [text.partition("Your next task is: ")[2] for text in announced] == [f"{goal}." for goal in goals[1:]]
    shares = [info["progress"] for _, _, info in turns]
    assert all(share in shares for share in (0.0, 1.0)) and not any(info["failed"] for _, _, info in turns)
    assert len(turns) - 1 >= least_steps(12) and info["path_length"] >= info["expert_path_length"]


@pytest.mark.parametrize("episode", range(COUNT))
def test_no_place_is_searched_twice_and_no_action_fails(chain, episode):
    memory = Memory()
    for command, text, info in follow(chain(), episode):
        if command.startswith("open "):
            assert command.removeprefix("open ") not in memory.opened
        assert not info["failed"]
        plan = info["expert_actions"]
        last = plan[-1].removeprefix("go to ").removeprefix("open ") if plan else ""
        memory.read(text)
        if plan and plan[-1].startswith("open ") and len(plan) < 5:
            assert last not in memory.looked_into


def test_the_oracle_needs_the_steps_that_the_info_promises(chain):
    turns = follow(chain(expert="oracle"), 0)
    info = turns[-1][2]
    assert info["success"] and len(turns) - 1 == info["expert_steps"]
    assert info["path_length"] == pytest.approx(info["expert_path_length"])
    assert turns[0][2]["expert_steps"] == info["expert_steps"]


def test_the_same_episode_comes_out_again(chain, chain_cache, tmp_path, monkeypatch):
    first = follow(chain(), 1)
    assert follow(chain(), 1) == first
    before = chain_cache.paths[0].read_bytes()
    monkeypatch.setenv("ERECAP_CACHE", str(tmp_path))
    again = generate("unseen", SEED, 1, max_objects=40, goals=(2, 3))
    assert again.made == 1 and again.paths[0] != chain_cache.paths[0] and again.paths[0].read_bytes() == before


@pytest.mark.parametrize("seed", range(3))
def test_the_searching_expert_goes_on_from_what_others_did(chain, seed):
    env = chain()
    rng = random.Random(seed)
    _, info = env.reset(options={"episode": seed % COUNT})
    for _ in range(40):
        command = rng.choice([*info["skills"], "fly", "open moon 1"])
        *_, info = env.step(command)
        if info["success"]:
            return
    steps = 0
    while not info["success"]:
        assert 1 <= len(info["expert_actions"]) <= 5
        *_, info = env.step(info["expert_actions"][0])
        assert not info["failed"]
        steps += 1
        assert steps <= 150


def test_plans_can_be_followed_to_their_end(chain):
    env = chain()
    _, info = env.reset(options={"episode": 0})
    while not info["success"]:
        plan, goal = info["expert_actions"], info["goal"]
        for command in plan:
            assert command in info["skills"]
            *_, info = env.step(command)
            if info["success"] or info["goal"] != goal:
                break


def test_single_tasks_have_a_searching_expert_too(chain, made):
    for episode in range(3):
        turns = follow(chain(len(made["unseen"].paths), goals=(1, 1), max_objects=30), episode)
        assert turns[-1][2]["success"] and len(turns) - 1 >= turns[0][2]["expert_steps"]


class Watching(ExpertPlanner):
    """Keeps the messages of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.chats: list[list[dict]] = []
        self.contexts: list[Context] = []

    def plan(self, context: Context) -> Plan:
        self.chats.append([dict(message) for message in render(context).messages])
        self.contexts.append(context)
        return super().plan(context)


def test_the_loop_takes_a_changed_goal_into_the_context(chain):
    suite = Suite(name="chain", env="household", episodes=COUNT, horizon=150)
    planner = Watching()
    played = play_episode(Job("chain", "expert", 0, 0, False), suite, chain(), planner, PlannerSettings(max_steps=5))
    assert played.episode["success"], played.episode
    context = planner.contexts[-1]
    goals = [record for record in context.records if record.kind == "goal"]
    assert len(goals) >= 2 and context.goal == goals[-1].text == played.episode["goal"]
    assert context.graph.superseded() >= {record.index for record in goals[:-1]}
    assert goals[-1].index in context.graph.protected() and goals[0].index not in context.graph.protected()
    for shorter, longer in zip(planner.chats, planner.chats[1:], strict=False):
        for one, other in zip(shorter[:-1], longer, strict=False):
            assert (one["role"], one["content"]) == (other["role"], other["content"])
        assert longer[len(shorter) - 1]["content"].startswith(shorter[-1]["content"])
    last = planner.chats[-1]
    holding = [message for message in last if f"Goal: {goals[-1].text}" in message["content"]]
    assert holding[0]["role"] == "user" and f"Done. Your next task is: {goals[-1].text}." in holding[0]["content"]


def test_the_cost_of_a_search_counts_doors_twice(chain):
    env = chain()
    env.reset(options={"episode": 0})
    world = env.turn.world
    afresh = Memory(receptacles=tuple(holder.name for holder in world.holders.values()))
    doors = sum(holder.openable for holder in world.holders.values())
    assert search_cost(afresh, world, "unicorn") == len(world.holders) + doors
    assert all(search_cost(afresh, world, thing.kind) >= 1 for thing in world.things.values())


def test_amnesia_costs_steps(chain):
    """The same expert that keeps the last four observations only must search again: memory is what wins."""
    remembering = len(follow(chain(), 0)) - 1
    env = chain()
    observation, info = env.reset(options={"episode": 0})
    seen = [observation]
    steps = 0
    while not info["success"] and steps < 2 * remembering:
        memory = Memory.of(seen[-4:])
        memory.receptacles = Memory.of(seen[:1]).receptacles
        memory.held, memory.place, memory.opened = env.memory.held, env.memory.place, set(env.memory.opened)
        memory.where.pop(memory.held, None)
        observation, *_, info = env.step(search_plan(memory, env.task, env.verbs)[0])
        seen.append(observation)
        steps += 1
    assert steps > 1.3 * remembering


@pytest.mark.parametrize("goals", [(1, 3), (3, 2), (0, 1), (2, 99)])
def test_bad_numbers_of_goals_are_refused(goals):
    with pytest.raises(ValueError, match="allowed are"):
        HouseholdOptions(goals=goals)


def test_a_goal_in_a_context_replaces_the_one_before():
    context = Context("find a mug", situation=Situation())
    context.add("goal", "find a pen")
    assert context.goal == "find a pen"
    assert context.graph.superseded() == {0} and context.graph.protected() == {1}
