"""Episodes: what robots know and do, several of them, the expert, and worlds of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyrobosim
import pytest
import yaml

from erecap.config import load_suite
from erecap.envs import make_env
from erecap.errors import ConfigError
from erecap.planners.templates import matches
from tests.envs.pyrobosim.playing import make, play
from tests.envs.pyrobosim.test_simulation import corridor

pytestmark = pytest.mark.integration

SAMPLES = Path(pyrobosim.__file__).parent / "data"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """The two rooms of `corridor` as a world file."""
    file = tmp_path / "house.yaml"
    file.write_text(yaml.safe_dump(corridor()))
    return file


# ---- one robot


def test_a_robot_knows_what_it_has_seen(house: Path) -> None:
    env = make(world=house, tasks=["place"])
    observation, info = env.reset()
    assert observation == "The house has a, b. You are in the a. You see table 1."
    assert info["goal"] == "Put a cup in chest 1 in the b."
    assert "go to table 1" in info["skills"] and "go to chest 1" not in info["skills"]
    assert info["entities"] == {"item": [], "openable": ["hall a b"], "place": ["a", "b", "table 1"],
                                "surface": ["table 1"]}  # fmt: skip
    for command, reason in {
        "go to chest 1": "you have seen no place chest 1",
        "pick up cup 1": "you have seen no cup 1",
        "put cup 1 on table 1": "you do not hold cup 1",
        "open table 1": "you are not at table 1",
        "charge": "you have seen no charger that you can reach",
        "go to a": "you are there already",
    }.items():
        observation, _, _, _, info = env.step(command)
        assert (info["failed"], info["failure"]) == (True, reason) and reason in observation and not info["subject"]
    observation, _, _, _, info = env.step("Go to the table 1.")
    assert observation == "You are at table 1 in the a after 2 s. There you see cup 1." and info["subject"] == "table 1"
    assert info["entities"]["item"] == ["cup 1"] and "pick up cup 1" in info["skills"]


def test_the_whole_task_by_hand(house: Path) -> None:
    env = make(world=house, tasks=["place"])
    env.reset()
    script = [
        ("go to b", "You are in the b after 12 s. You see chest 1 (closed), charger 1."),
        ("go to chest 1", "You are at chest 1 in the b after 2 s. It is closed."),
        ("open chest 1", "You open chest 1. There is nothing."),
        ("go to table 1", "There you see cup 1."),
        ("pick up cup 1", "You pick up cup 1 from table 1."),
        ("close hall a b", "You cannot close hall a b: you are not at hall a b."),
        ("go to chest 1", "There is nothing."),
        ("close chest 1", "You cannot close chest 1: you hold cup 1."),
        ("put cup 1 in chest 1", "You put cup 1 on chest 1."),
    ]
    for command, said in script:
        observation, reward, terminated, truncated, info = env.step(command)
        assert said in observation, (command, observation)
        assert info["failed"] == ("cannot" in observation)
        assert reward == float(terminated) == float(info["success"]) and not truncated
    assert terminated and info["progress"] == 1.0 and info["path_length"] > info["expert_path_length"] - 1e-9 > 0


def test_what_was_seen_is_not_overruled_by_a_closed_lid(house: Path) -> None:
    env = make(world=house, tasks=["place"])
    env.reset()
    subjects = [env.step(command)[4]["subject"] for command in
                ("go to b", "go to chest 1", "open chest 1", "close chest 1", "look")]  # fmt: skip
    assert subjects == ["b", "chest 1", "chest 1", "", ""]


def test_an_object_that_has_gone_is_told_when_it_is_reached_for(house: Path) -> None:
    env = make(world=SAMPLES / "pddlstream_simple_world.yaml", tasks=["fetch"])
    _, info = env.reset()
    place = next(command for command in info["skills"] if command.startswith("go to table"))
    assert env.step(place)[4]["failed"] is False
    item = next(command for command in env.observe_again()[1]["skills"] if command.startswith("pick up"))
    name = item.removeprefix("pick up ")
    simulation = env.crew.simulation
    other = next(p for p in simulation.places if p is not simulation.place_of(simulation.robots[0]))
    assert simulation.move(simulation.names[name], other, np.random.default_rng(0))
    _, _, _, _, info = env.step(item)
    assert info["failure"] == "it is not there any more" and item not in info["skills"]
    assert name in info["entities"]["item"]


def test_objects_move_by_themselves_the_same_way_each_time() -> None:
    def moved(env: Any) -> list[Any]:
        env.reset(options={"episode": 0})
        rng = np.random.default_rng(7)
        names = [env.move_untouched(rng) for _ in range(6)]
        return [names, {item.name: item.parent.name for item in env.crew.simulation.world.objects}]

    env = make(tasks=["fetch"])
    env.reset(options={"episode": 0})
    before = {item.name: item.parent.name for item in env.crew.simulation.world.objects}
    names, after = moved(env)
    assert [names, after] == moved(env) and all(names) and after != before
    assert {name for name in before if before[name] != after[name]} <= {name.replace(" ", "_") for name in names}


def test_failures_are_told_and_change_nothing() -> None:
    env = make(failures=0.9)
    _, before = env.reset()
    target = next(command for command in before["skills"] if command.startswith("go to"))
    told = [env.step(target) for _ in range(30)]
    failed = [info for *_, info in told if info["failed"]]
    assert {"the motors failed", "you are there already"} >= {info["failure"] for info in failed}
    assert failed[0]["failure"] == "the motors failed" and failed[0]["path_length"] == 0


def test_a_battery_that_is_empty_ends_all_but_waiting(house: Path) -> None:
    env = make(world=house, tasks=["place"], battery_per_metre=5)
    env.reset()
    env.crew.simulation.robots[0].battery_level = 4.0
    _, _, _, _, info = env.step("go to b")
    assert info["failure"] == "the battery is empty" and info["skills"] == ["wait"]
    assert env.step("wait")[0] == "You wait." and env.step("look")[4]["skills"] == ["wait"]


# ---- the expert


@pytest.mark.timeout(900)
@pytest.mark.parametrize("split", ["train", "unseen"])
def test_the_expert_wins_fifty_worlds(split: str) -> None:
    env = make(50, split=split, expert="search", failures=0.1, battery_per_metre=1.0, closed_doors=0.3)
    played = [play(env, episode, 150) for episode in range(50)]
    won = [shown for shown in played if shown[-1][2]["success"]]
    assert len(won) >= 48 and env.rejected <= 1
    assert len({shown[0][1] for shown in played}) == 50
    # It has to search: the expert that knows everything needs fewer commands.
    assert sum(len(shown) - 1 for shown in won) > 1.3 * sum(shown[0][2]["expert_steps"] for shown in won)
    commands = [command for shown in played for command, _, _ in shown]
    assert any(command == "charge" for command in commands) and any("open hall" in command for command in commands)
    again = make(50, split=split, expert="search", failures=0.1, battery_per_metre=1.0, closed_doors=0.3)
    assert [play(again, episode, 150) for episode in (7, 33)] == [played[7], played[33]]


def test_the_searching_expert_acts_on_what_was_seen(house: Path) -> None:
    env = make(world=house, tasks=["place"], expert="search")
    assert [command for command, *_ in play(env, 0, 30)][1] == "go to table 1"  # it has not seen the chest yet
    knowing = make(world=house, tasks=["place"])
    assert [command for command, *_ in play(knowing, 0, 30)][1:3] == ["go to b", "go to chest 1"]


# ---- several robots


@pytest.mark.timeout(900)
@pytest.mark.parametrize("turns", ["addressed", "earliest"])
def test_four_robots_gather(turns: str) -> None:
    env = make(5, tasks=["gather"], robots=4, objects=18, gather=6, failures=0.05, expert="search", turns=turns)
    alone = make(5, tasks=["gather"], robots=1, objects=18, gather=6, failures=0.05, expert="search")
    for episode in range(5):
        shown = play(env, episode, 300)
        assert shown[-1][2]["success"] and shown[-1][2]["goal"] == play(alone, episode, 300)[0][2]["goal"]
        carriers = {text.split(":")[0] for _, text, _ in shown if ": You put" in text}
        assert len(carriers) >= 2  # the work is split
        assert env.seconds < 0.7 * alone.seconds
        assert env.seconds == max(env.crew.simulation.clocks) > 0


def test_each_robot_knows_its_own_or_all_know_the_same() -> None:
    for knowledge, shared in (("own", False), ("shared", True)):
        env = make(tasks=["gather"], robots=2, knowledge=knowledge)
        _, info = env.reset()
        room = next(
            c for c in info["skills"] if c.startswith("robot 1: go to ") and not c[-1].isdigit() and "hall" not in c
        )
        before = {c for c in info["skills"] if c.startswith("robot 2: ")}
        observation, _, _, _, info = env.step(room)
        assert observation.startswith("robot 1: You are in the ")
        new = {c for c in info["skills"] if c.startswith("robot 2: ")} - before
        assert bool(new) is shared


def test_commands_name_their_robot() -> None:
    env = make(tasks=["gather"], robots=2)
    _, before = env.reset()
    assert {command.split(":")[0] for command in before["skills"]} == {"robot 1", "robot 2"}
    assert before["templates"][0] == "{robot}: look" and before["entities"]["robot"] == ["robot 1", "robot 2"]
    for command in ("look", "robot 3: look", ": look"):
        observation, _, _, _, info = env.step(command)
        assert info["failure"] == "no such robot" and "robot 1, robot 2" in observation
    assert env.seconds == 0.0
    assert env.step("robot 2: wait")[0] == "robot 2: You wait." and env.crew.simulation.clocks == [0.0, 5.0]


def test_the_robot_that_is_free_first_has_its_turn() -> None:
    env = make(tasks=["gather"], robots=3, turns="earliest")
    observation, info = env.reset()
    assert observation.endswith("It is the turn of robot 1.") and "look" in info["skills"]
    turns = [env.step("wait")[0] for _ in range(3)]
    assert [text[-2] for text in turns] == ["2", "3", "1"]


@pytest.mark.parametrize(
    "options",
    [
        {"battery_per_metre": 1.0, "closed_doors": 0.5},
        {"robots": 3, "tasks": ["gather"]},
        {"robots": 2, "turns": "earliest"},
    ],
)
def test_every_admissible_command_is_a_template_with_names_that_were_seen(options: dict[str, Any]) -> None:
    env = make(expert="search", **options)
    for episode in range(2):
        for _, _, info in play(env, episode, 150):
            for command in info["skills"]:
                assert any(matches(command, template, info["entities"]) for template in info["templates"]), command


# ---- worlds of a file


def test_a_world_of_pyrobosim_with_its_three_robots(house: Path) -> None:
    env = make(3, world=SAMPLES / "test_world_multirobot.yaml", tasks=["fetch"], failures=0.0, battery_per_metre=0.0)
    assert play(env, 0, 60)[-1][2]["success"] and env.robots == 3
    assert [skill for skill in env.observe_again()[1]["skills"] if skill.startswith("robot2: ")]
    with pytest.raises(ConfigError, match="turns has no meaning with one robot"):
        make(world=house, tasks=["fetch"], turns="earliest")
    with pytest.raises(ConfigError, match="robots: got 4; allowed: 1 to 3"):
        make(world=SAMPLES / "test_world_multirobot.yaml", robots=4)
    crowd = yaml.safe_load(house.read_text())
    crowd["robots"] = [{**crowd["robots"][0], "name": f"robot{number}"} for number in range(9)]
    house.write_text(yaml.safe_dump(crowd))
    with pytest.raises(ConfigError, match=r"house.yaml: has 9 robots; `robots: 8` plays the first"):
        make(world=house, tasks=["fetch"])


def test_the_suites_are_played_by_their_expert() -> None:
    for name in ("pyrobosim-train", "pyrobosim-unseen", "pyrobosim-gather"):
        suite = load_suite(name)
        env = make_env(suite, expert=True)
        _, info = env.reset(seed=suite.seed, options={"episode": 0})
        over = False
        while not over:
            _, _, terminated, truncated, info = env.step(info["expert_actions"][0])
            over = terminated or truncated
        assert info["success"], name
        env.close()


@pytest.mark.parametrize(
    ("robot", "problem"),
    [
        ({"name": 5}, "robots: got the name 5; allowed: text, such as '5'"),
        ({"path_planner": "astar"}, r"robots\.0\.path_planner: got 'astar'; allowed: a mapping"),
        ({"path_executor": {"linear_velocity": 0}}, r"linear_velocity: got 0; allowed: a number, more than 0"),
        ({"path_executor": {"max_angular_velocity": -1.0}}, r"max_angular_velocity: got -1\.0; allowed: a number"),
        ({"initial_battery_level": "full"}, "initial_battery_level: got 'full'; allowed: a number, at least 0 and at"),
        ({"action_execution_options": {"pick": [1]}}, r"action_execution_options\.pick: got \[1\]; allowed: a mapping"),
        ({"action_execution_options": {"navigate": {"delay": -9.0}}}, r"navigate\.delay: got -9\.0; allowed: a number"),
        ({"action_execution_options": {"pick": {"delay": float("nan")}}}, r"pick\.delay: got nan; allowed: a number"),
        ({"action_execution_options": {"pick": {"success_probability": 2}}}, "success_probability: got 2; allowed"),
    ],
)
def test_robots_that_cannot_be_are_refused(robot: dict[str, Any], problem: str, tmp_path: Path) -> None:
    file = tmp_path / "house.yaml"
    file.write_text(yaml.safe_dump(corridor(**robot)))
    with pytest.raises(ConfigError, match=problem) as caught:
        make(world=file, tasks=["place"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 3000 + "]" * 3000, "cannot be read: it is nested too deeply"),
        (yaml.safe_dump({**corridor(), "hallways": None}), "hallways must be a list of mappings"),
    ],
)
def test_files_that_are_no_worlds_are_refused(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "house.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        make(world=file, tasks=["place"])
