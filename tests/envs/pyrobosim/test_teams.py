"""Tasks of several robots: searching in closed furniture, an order among them, and teams that the expert wins with."""

from __future__ import annotations

import pytest

from erecap.config import load_suite
from erecap.config.run import PlannerSettings
from erecap.config.source import packaged_names
from erecap.envs import make_env
from erecap.planners.cooperative.planner import make_cooperative_planner
from erecap.rollout.episode import play as play_episode
from erecap.rollout.jobs import Job, Played, episode_seed
from tests.envs.pyrobosim.playing import make, play

SUITES = [f"pyrobosim-{task}-{robots}" for task in ("gather", "search", "order") for robots in (2, 4, 8)]


def with_experts(suite_name: str, episode: int) -> Played:
    suite, settings = load_suite(suite_name), PlannerSettings(name="cooperative")
    env = make_env(suite, expert=True)
    job = Job(suite.name, "expert", episode, episode_seed(suite.seed, episode), sample=False)
    return play_episode(job, suite, env, make_cooperative_planner(settings, None), settings)


def test_every_task_has_a_suite_for_two_four_and_eight_robots() -> None:
    assert set(SUITES) <= set(packaged_names("erecap.tasks"))
    for name in SUITES:
        task, robots = name.split("-")[1:]
        options = load_suite(name).options
        assert options["tasks"] == [task] and options["robots"] == int(robots) and options["turns"] == "team"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [f"pyrobosim-{task}" for task in ("gather-4", "search-2", "order-4", "gather-8")])
def test_a_team_of_experts_wins(name: str) -> None:
    for episode in range(3):
        row = with_experts(name, episode).episode
        assert row["success"], row
        assert row["agents"] == row["robots"] == int(name[-1]) and row["seconds"] > row["waited"] / row["robots"] >= 0


def test_a_team_is_the_same_every_time() -> None:
    rows = [with_experts("pyrobosim-order-2", 1) for _ in range(2)]
    plans = [[(call["agent"], call["plan"], call["conflicts"]) for call in played.replans] for played in rows]
    assert plans[0] == plans[1] and rows[0].episode["seconds"] == rows[1].episode["seconds"]


def test_searched_objects_lie_in_closed_furniture_only() -> None:
    env = make(6, tasks=["search"], robots=2, objects=18, gather=3, turns="team")
    for episode in range(6):
        _, info = env.reset(options={"episode": episode})
        goal, simulation = env.goal, env.crew.simulation
        wanted = [item for item in simulation.world.objects if item.category in dict(goal.wants)]
        assert wanted and not any(item.parent.is_open for item in wanted)
        assert info["goal"].startswith("Find ") and info["constraints"] == []


def test_an_order_is_a_rule_of_the_world() -> None:
    env = make(3, tasks=["order"], robots=1, objects=18, gather=3)
    for episode in range(3):
        shown = play(env, episode, 200)
        assert shown[-1][2]["success"]
        put = [command.split()[1] for command, *_ in shown if command.startswith("put ")]
        assert put == list(env.goal.order)
    _, info = env.reset(options={"episode": 0})
    first, second, third = env.goal.order
    first, second, third = (f"put {kind} on {env.goal.place}" for kind in (first, second, third))
    assert info["constraints"] == [f"{first} before {second}", f"{second} before {third}"]
    assert info["goal"].endswith(", in this order.")


def test_what_is_out_of_order_is_refused() -> None:
    env = make(1, tasks=["order"], robots=1, objects=18, gather=2, expert="oracle")
    env.reset()
    first, second = env.goal.order
    simulation = env.crew.simulation
    later = next(item for item in simulation.world.objects if item.category == second)
    place, target = simulation.name(later.parent), env.goal.place
    for command in (f"go to {simulation.name(simulation.room_of(later))}", f"go to {place}", f"open {place}"):
        env.step(command)
    env.step(f"pick up {simulation.name(later)}")
    env.step(f"go to {simulation.name(simulation.names[target].parent.parent)}")
    _, _, _, _, info = env.step(f"go to {target}")
    put = f"put {simulation.name(later)} on {target}"
    assert simulation.robots[0].manipulated_object is later and put not in info["skills"]
    _, _, _, _, info = env.step(put)
    article = "an" if first[0] in "aeiou" else "a"
    assert info["failed"] and info["failure"] == f"{article} {first} has to lie there first"


def test_a_team_is_not_told_whose_turn_it_is() -> None:
    for turns, named in (("earliest", True), ("team", False)):
        env = make(1, tasks=["gather"], robots=2, turns=turns)
        env.reset()
        text, _, _, _, info = env.step("look")
        assert ("It is the turn of robot 2." in text) is named and text.startswith("robot 1: ") is named
        assert info["robot"] == "robot 2" and info["robots"] == ["robot 1", "robot 2"]
        assert info["seconds"] == 1.0 and info["waited"] == 0.0
        env.step("wait")
        assert env.step("wait")[4]["waited"] == 10.0
