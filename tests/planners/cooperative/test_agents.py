"""Agents files: what they say, and what is wrong with them, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from erecap.config.source import packaged_names
from erecap.context import Situation
from erecap.errors import ConfigError
from erecap.planners.cooperative.agents import TEAMS, Roster, load_roster

PAIR = "agents: [{name: a, robot: robot 1}, {name: b, robot: robot 2}]"
TWO = Situation(robots=("robot 1", "robot 2"), robot="robot 1", templates=("go to {place}", "wait"))


def roster(tmp_path: Path, text: str) -> Roster:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    return load_roster(str(path))


@pytest.mark.parametrize("name", packaged_names(TEAMS))
def test_packaged_teams_load(name: str) -> None:
    assert load_roster(name).settings


@pytest.mark.parametrize("text", ["exclusive: [item, object, place]\nwait: go to hall", "exclusive: []", "buffer: 8"])
def test_commands_of_the_episode_are_let_in(text: str, tmp_path: Path) -> None:
    assert len(roster(tmp_path, text).agents(TWO)) == 2


def test_without_a_list_there_is_one_planner_for_each_robot() -> None:
    assert [(agent.name, agent.robot) for agent in load_roster("team").agents(TWO)] == [
        ("robot 1", "robot 1"),
        ("robot 2", "robot 2"),
    ]
    with pytest.raises(ConfigError, match="no robots take turns in the episode; allowed: a list of agents, or 2 to 8"):
        load_roster("team").agents(Situation())


def test_several_planners_of_one_robot() -> None:
    assert [agent.robot for agent in load_roster("home-pair").agents(Situation())] == ["", ""]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("agents: [{name: a}]", "agents: got 1 of them; allowed: .*2 or more long"),
        (f"agents: [{', '.join(f'{{name: a{n}}}' for n in range(9))}]", "agents: got 9 of them; .*8 or less long"),
        ("agents: [{name: a}, {name: a}]", "yaml: agents: two of them are called 'a'; allowed: one"),
        ("agents: [{name: a}, {name: b, roles: x}]", r"roles: unknown key \(did you mean 'role'\?\)"),
        ("agents: [{name: a/b}, {name: b}]", "name: got 'a/b'"),
        ("observations: none", "observations: got 'none' .*allowed: told, shared"),
        ("buffer: 1", "buffer: got 1; allowed"),
        ("exclusive: [item, item]", "exclusive"),
        ("agent: 3", "did you mean 'agents'"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        roster(tmp_path, text)
    assert "\n" not in str(caught.value) and "t.yaml: " in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (PAIR.replace("robot 2", "robot 3"), "'b': robot 'robot 3' is not in the episode; allowed: robot 1, robot 2"),
        (PAIR.replace("robot 2", "robot 1"), "agents: none plans for 'robot 2'; allowed: at least one for each robot"),
        (
            PAIR.replace("name: b", "name: b, may: [fly]"),
            r"agent 'b': may: 'fly' is no command here; allowed: go to \{place\}, wait",
        ),
        ("wait: sleep", r"t.yaml: wait: 'sleep' is no command here; allowed: go to \{place\}, wait"),
        ("exclusive: [place, places]", "t.yaml: exclusive: no command here has a 'places'; allowed: place"),
    ],
)
def test_a_file_that_does_not_fit_the_episode_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        roster(tmp_path, text).agents(TWO)
