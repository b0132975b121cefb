"""Transcripts of cooperating planners: a chat for each, as it was asked; whole after a kill; and fit to learn from."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from erecap.config.run import PlannerSettings, RunConfig
from erecap.envs import ENVIRONMENTS
from erecap.errors import ConfigError, RunError
from erecap.language_models.scripted import ScriptedModel
from erecap.planners.cooperative.agents import load_roster
from erecap.planners.cooperative.answer import Answer
from erecap.planners.cooperative.planner import CooperativePlanner
from erecap.planners.cooperative.team import Turn
from erecap.training.collect.collect import CollectResult, collect
from erecap.training.collect.episode import CollectComponents, Recipe
from erecap.training.collect.trajectories import (
    EPISODES,
    Trajectory,
    read_meta,
    read_trajectories,
    transcript_name,
    transcript_place,
)
from erecap.training.planner.data import load_data
from erecap.training.planner.settings import PlannerTraining
from tests.context.small_tokenizers import byte_level
from tests.rollout.teamworld import ENTRY, team_suite

QUIET = Console(file=io.StringIO(), width=200)


@pytest.fixture(autouse=True)
def teamworld(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENTS, "teamworld", ENTRY)


def gather(out: Path, **changes: Any) -> CollectResult:
    recipe = Recipe.model_validate({"episodes": 3, "agents": "team", **changes})
    suite = team_suite(options={"robots": 3, "cups": 6})
    return collect(recipe, {suite.name: suite}, out, console=QUIET)


def test_every_planner_has_its_chat_exactly_as_it_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[list[dict[str, Any]]]] = {}
    begin = CooperativePlanner.begin_turn

    def noted(self, context):  # type: ignore[no-untyped-def]
        turn = begin(self, context)
        if isinstance(turn, Turn):
            asked.setdefault(turn.agent.name, []).append([dict(message) for message in turn.messages])
        return turn

    monkeypatch.setattr(CooperativePlanner, "begin_turn", noted)
    gather(tmp_path, episodes=1)
    rows = list(read_trajectories(tmp_path))
    assert [(row.agent, row.agents, row.success) for row in rows] == [(f"robot {n}", 3, True) for n in (1, 2, 3)]
    for row in rows:
        chat = [(message.role, message.content) for message in row.messages]
        assert len(row.targets) == len(asked[row.agent])
        for target, messages in zip(row.targets, asked[row.agent], strict=True):
            assert chat[: target.message] == [(message["role"], message["content"]) for message in messages]
            assert chat[target.message] == ("assistant", target.plan)
            assert target.plan.startswith('{"observations":[')


def test_rows_of_an_episode_are_whole_after_a_kill(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    gather(whole)
    gather(cut)
    lines = (whole / EPISODES).read_bytes().splitlines(keepends=True)
    assert len(lines) == 9
    (cut / EPISODES).write_bytes(b"".join(lines[:5]) + lines[5][:20])
    result = gather(cut)
    assert result.rows == 3 and (cut / EPISODES).read_bytes() == (whole / EPISODES).read_bytes()
    assert result.tally.counts()["episodes"] == 3 and result.tally.counts()["won"] == 3


def test_a_collection_does_not_go_on_with_another_agents_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agents = tmp_path / "mine.yaml"
    agents.write_text("buffer: 16")
    gather(tmp_path / "out", agents=str(agents), episodes=1)
    assert read_meta(tmp_path / "out")["team"]["buffer"] == 16
    monkeypatch.chdir(tmp_path)  # what it says counts, not where it lies or how its path is written
    assert gather(tmp_path / "out", agents="./mine.yaml", episodes=1).played == 0
    agents.write_text("buffer: 8")
    with pytest.raises(RunError, match=r"started with team\.buffer = 16, now it is 8"):
        gather(tmp_path / "out", agents=str(agents), episodes=1)


def test_detours_are_labelled_by_the_expert(tmp_path: Path) -> None:
    gather(tmp_path, perturb=1.0, episodes=4)
    rows = list(read_trajectories(tmp_path))
    branches = [(row, target) for row in rows for target in row.targets if row.is_branch(target)]
    assert branches and {row.source for row in rows} == {"perturbed"}


class ScriptedTeam(CollectComponents):
    """Components whose planners always wait, as a language model may that has learned nothing."""

    def prepare(self, modes, say):  # type: ignore[no-untyped-def]
        """There is nothing to load."""

    def planner(self, mode, *, trace):  # type: ignore[no-untyped-def]
        model = ScriptedModel([Answer((), (), ("wait",)).text()], repeat=True)
        return CooperativePlanner(model, load_roster("team"), constrained=False)


def test_a_model_acts_and_the_expert_labels(tmp_path: Path) -> None:
    acting = RunConfig(name="c", suites=["s"], modes=["reuse"], planner=PlannerSettings(name="cooperative"))
    suite = team_suite(options={"robots": 2, "cups": 4}, horizon=30)
    recipe = Recipe(episodes=2, beta=0.5)
    collect(recipe, {suite.name: suite}, tmp_path, planner=acting, open_components=ScriptedTeam, console=QUIET)
    rows = list(read_trajectories(tmp_path))
    assert len(rows) == 4 and {row.source for row in rows} == {"planner"}
    labels = [(row.messages[target.message].content, target.plan) for row in rows for target in row.targets]
    waits = Answer((), (), ("wait",)).text()
    assert {said for said, wanted in labels if said != wanted} == {waits}
    assert any(said == wanted for said, wanted in labels)
    with pytest.raises(ConfigError, match="agents: got 'home-pair', but the planner's team is 'team'"):
        collect(Recipe(episodes=2, agents="home-pair"), {suite.name: suite}, tmp_path / "x", planner=acting)


def test_they_can_be_learned_from(tmp_path: Path) -> None:
    gather(tmp_path)
    tokenizer = byte_level()
    settings = PlannerTraining((str(tmp_path),), held_out=0.34, max_tokens=100_000)
    data = load_data(settings, tokenizer, {tokenizer.convert_tokens_to_ids("<|im_end|>")}, lambda line: None)
    names = {sequence.name for sequence in (*data.train, *data.held_out)}
    assert len(names) == 9
    # All planners of an episode are on one side.
    train, held_out = ({transcript_place(one.name) for one in part} for part in (data.train, data.held_out))
    assert train and held_out and not train & held_out


def test_names_of_transcripts() -> None:
    assert transcript_name("f", "s", 3) == "f/s/3" and transcript_place("f/s/3") == ("f", "s", 3)
    assert transcript_place(transcript_name("f", "s", 3, "robot 2")) == ("f", "s", 3)


def test_rows_of_one_planner_are_as_before() -> None:
    row = Trajectory(
        suite="s",
        episode=0,
        seed=1,
        source="expert",
        goal="g",
        success=True,
        steps=1,
        max_steps=5,
        messages=[],
        targets=[],
    )
    assert "agent" not in row.model_dump_json() and "agents" not in row.model_dump()


@pytest.mark.parametrize("team", ["nobody", ""])
def test_a_team_that_is_none_is_refused(team: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"team '{team}' not found; packaged: "):
        gather(tmp_path, agents=team)


def test_a_team_whose_limits_the_expert_does_not_keep_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    robots = ", ".join(f"{{name: {name}, robot: robot {number}}}" for number, name in enumerate("abc", start=1))
    file.write_text(f"agents: [{robots.replace('robot 2', 'robot 2, may: [wait]')}]")
    with pytest.raises(ConfigError, match=r"mine\.yaml: agent 'b': may: .*; allowed where chats are collected: no may"):
        gather(tmp_path / "out", agents=str(file))
