"""Episodes of several robots: each keeps its own plan, and rows say who planned, how long it took, and what clashed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from erecap.config.clock import ClockSettings
from erecap.config.modes import parse_mode
from erecap.config.run import PlannerSettings, RunConfig
from erecap.context import Context
from erecap.envs import ENVIRONMENTS, make_env
from erecap.errors import RunError
from erecap.generation import Generation, Message
from erecap.language_models.scripted import ScriptedModel
from erecap.planners.cooperative.agents import load_roster
from erecap.planners.cooperative.answer import Answer
from erecap.planners.cooperative.planner import CooperativePlanner, make_cooperative_planner
from erecap.protocols import Plan, Planner
from erecap.report.rows import EpisodeRow, ReplanRow
from erecap.rollout.charges import Fixed
from erecap.rollout.clock import EpisodeClock
from erecap.rollout.episode import play
from erecap.rollout.jobs import Job, Played
from erecap.rollout.run import run
from tests.rollout.teamworld import ENTRY, team_suite


@pytest.fixture(autouse=True)
def teamworld(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENTS, "teamworld", ENTRY)


def played(planner: Planner | None = None, **options: Any) -> Played:
    suite = team_suite(options=options)
    settings = PlannerSettings(name="cooperative")
    planner = planner or make_cooperative_planner(settings, None)
    job = Job(suite.name, "expert", 0, 1, sample=True)
    return play(job, suite, make_env(suite, expert=True), planner, settings, mode=parse_mode("expert"))


@pytest.mark.parametrize("robots", [2, 4, 8])
def test_a_team_wins_and_its_rows_say_how(robots: int) -> None:
    result = played(robots=robots, cups=8)
    row = EpisodeRow.model_validate(result.episode)
    assert row.success and row.robots == row.agents == robots and row.error is None
    assert row.seconds == -(-8 // robots) * 2  # they share the work evenly
    calls = [ReplanRow.model_validate(call) for call in result.replans]
    assert [call.agent for call in calls[:robots]] == [f"robot {n + 1}" for n in range(robots)]
    assert row.steps == 16 and row.replans == len(calls) <= 8 + robots


def test_planners_that_were_not_asked_before_the_end_count_as_well() -> None:
    model = ScriptedModel(["no answer"], repeat=True)
    planner = CooperativePlanner(model, load_roster("team"), constrained=False)
    row = played(planner, robots=4, cups=8).episode
    assert (row["end"], row["invalid_plans"], row["agents"]) == ("horizon", 3, 4)


def test_a_sample_holds_the_chat_of_the_planner_that_was_asked() -> None:
    sample = played(robots=2, cups=4).sample
    assert sample is not None
    roles = [[message["role"] for message in call["messages"]] for call in sample["replans"]]
    first, later = ["system", "user"], ["system", "user", "assistant", "user"]
    assert roles == [first, first, later, later]


def test_each_robot_keeps_its_plan_while_others_have_their_turn() -> None:
    result = played(robots=2, cups=4)
    assert all(call["trigger"] in ("start", "finished") and len(call["plan"]) == 2 for call in result.replans)
    assert [call["step"] for call in result.replans] == [0, 1, 4, 5]


def test_two_robots_that_want_one_thing() -> None:
    result = played(robots=2, cups=3, eager=True)
    row = result.episode
    clashes = [clash for call in result.replans for clash in call["conflicts"]]
    assert row["success"] and row["conflicts"] == len(clashes) > 0
    assert clashes[0] == "cup 1 stays with robot 1, robot 2 gives way"


def test_an_order_between_robots_is_kept_and_waiting_is_counted() -> None:
    result = played(robots=3, cups=6, ordered=True, slow=True)
    row = result.episode
    assert row["success"] and row["waited"] > 0
    assert not any(call["trigger"] == "failed" for call in result.replans)
    held = [call for call in result.replans if call["decision"] == "defer"]
    assert held and all("which another robot has planned" in call["reason"] for call in held)


def test_a_run_writes_out_its_agents_file_and_does_not_go_on_with_another(tmp_path: Path, quiet: Console) -> None:
    agents = tmp_path / "mine.yaml"
    agents.write_text("buffer: 16")
    planner = {"name": "cooperative", "agents": str(agents)}
    config = RunConfig.model_validate({"name": "t", "suites": ["teamworld"], "modes": ["expert"], "planner": planner})
    suites = {"teamworld": team_suite(episodes=1)}
    run(config, tmp_path / "run", suites=suites, console=quiet)
    head = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (head["team"]["buffer"], head["team"]["wait"]) == (16, "wait")
    assert head["config"]["planner"]["agents"] == "mine.yaml"
    moved = tmp_path / "elsewhere" / "mine.yaml"
    moved.parent.mkdir()
    moved.write_text("{buffer: 16, wait: wait}")  # says the same
    again = config.model_copy(update={"planner": config.planner.model_copy(update={"agents": str(moved)})})
    assert run(again, tmp_path / "run", suites=suites, console=quiet).played == 0
    agents.write_text("buffer: 8")
    with pytest.raises(RunError, match=r"started with team\.buffer = 16, now it is 8"):
        run(config, tmp_path / "run", suites=suites, console=quiet)


class ReadingTeam(ScriptedModel):
    """Forks that note what they read and what they are asked; each fetches its robot's share of four cups."""

    stored_tokens = 40

    def __init__(self) -> None:
        super().__init__(self.answer)
        self.forks: list[ReadingTeam] = []
        self.shown: list[tuple[str, list[str]]] = []

    def answer(self, messages: Sequence[Message]) -> str:
        robot = 1 if "you plan for robot 1" in messages[1]["content"] else 2
        cup = robot + 2 * sum(message["role"] == "assistant" for message in messages)
        return Answer((), (), (f"go to shelf {cup}", f"take cup {cup}")).text()

    def fork(self, messages: Sequence[Message]) -> ReadingTeam:
        self.forks.append(ReadingTeam())
        return self.forks[-1]

    def read(self, messages: Sequence[Message]) -> int:
        self.shown.append(("read", [message["content"] for message in messages]))
        return 2

    def generate(self, messages: Sequence[Message], **options: Any) -> Generation:
        self.shown.append(("asked", [message["content"] for message in messages]))
        return super().generate(messages, **options)


@pytest.mark.parametrize("ahead", [True, False])
def test_planners_of_a_team_read_ahead_what_their_robots_see(ahead: bool) -> None:
    settings = ClockSettings(kind="charged", charge="fixed", fixed_ms=100.0, read_ahead=ahead)
    suite, model = team_suite(options={"robots": 2, "cups": 4}), ReadingTeam()
    env, planner = make_env(suite), CooperativePlanner(model, load_roster("team-shared"), constrained=False)
    clock = EpisodeClock(settings, env, Fixed(100.0))
    job = Job(suite.name, "reuse", 0, 1, sample=False)
    result = play(job, suite, env, planner, PlannerSettings(name="cooperative"), clock=clock)
    assert result.episode["success"] and [call["plan"] for call in result.replans] == [
        [f"go to shelf {cup}", f"take cup {cup}"] for cup in (1, 2, 3, 4)
    ]
    assert sum(call["clock"]["read_ahead_tokens"] for call in result.replans) == (4 if ahead else 0)
    for fork in model.forks:
        assert [kind for kind, _ in fork.shown] == (["asked", "read", "asked", "read"] if ahead else ["asked"] * 2)
        for (kind, chat), (_, later) in pairwise(fork.shown):
            if kind == "read":  # the question begins with what was read
                assert chat[:-1] == later[: len(chat) - 1]
                assert later[len(chat) - 1].startswith(chat[-1])


class Scripted:
    """Answers with given plans, and notes the plans that it was told of."""

    def __init__(self, *plans: Plan) -> None:
        self.plans, self.told = list(plans), []

    def plan(self, context: Context) -> Plan:
        self.told.append(dict(context.plans))
        return self.plans.pop(0)


def test_a_plan_may_change_those_of_others() -> None:
    planner = Scripted(
        Plan(("go to shelf 1", "take cup 1"), agent="a"),
        Plan(("go to shelf 2", "take cup 2"), agent="b", others={"robot 1": ("wait", "go to shelf 3")}),
    )
    with pytest.raises(IndexError):  # the script has no third plan
        played(planner, robots=2, cups=3)
    assert planner.told == [
        {"robot 1": ()},
        {"robot 1": ("take cup 1",), "robot 2": ()},
        {"robot 1": ("go to shelf 3",), "robot 2": ()},
    ]


@pytest.mark.parametrize("observations", ["", "-shared"])
@pytest.mark.parametrize(("team", "planners"), [("home-pair", 2), ("home-crew", 4), ("home-eight", 8)])
def test_environments_without_robots_have_no_figures_of_teams(team: str, planners: int, observations: str) -> None:
    team += observations
    result = played(make_cooperative_planner(PlannerSettings(name="cooperative", agents=team), None), robots=1)
    assert result.episode["agents"] == planners and result.episode["robots"] == 1 and result.episode["success"]
    agents = {call["agent"] for call in result.replans}
    assert {"scout", "hand"} <= agents and len(agents) <= planners
