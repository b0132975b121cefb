"""Episodes against a clock: what the world is charged, what is read ahead, and plans that come too late."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from clockworld import ENTRY
from pydantic import ValidationError
from rich.console import Console
from tinyworld import TinyComponents, tiny_run, tiny_suite

from erecap.config.clock import ClockSettings, CostSettings
from erecap.config.modes import parse_mode
from erecap.config.run import PlannerSettings
from erecap.context import Context, Situation
from erecap.cost.model import CostModel
from erecap.envs import ENVIRONMENTS, make_env
from erecap.errors import ConfigError
from erecap.generation import Decision, Generation, Timing, Usage
from erecap.language_models.scripted import ScriptedModel
from erecap.planners.llm import LLMPlanner
from erecap.protocols import Plan, Planner, ReadAhead
from erecap.report.load import load_run_folder
from erecap.rollout.charges import Fixed, Measured, Predicted, charge_of, cost_model_of
from erecap.rollout.clock import EpisodeClock
from erecap.rollout.episode import play
from erecap.rollout.jobs import Job, Played, episode_seed
from erecap.rollout.run import run
from erecap.rollout.run_folder.identity import identity_of

JOB = Job("tiny", "full", 0, episode_seed(5, 0), sample=False)  # the key lies in room 5
COSTS = {"prefill": [10.0, 1.0, 0.0, 0.0, 0.0], "decode": [5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], "evict": [0.0, 1.0]}
SEARCH = ["go to room 2\ngo to room 3", "go to room 5", "take key"]


@pytest.fixture(autouse=True)
def _clock_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENTS, "clock", ENTRY)


class ReadingModel(ScriptedModel):
    """A scripted model that reads ahead, two tokens a time."""

    stored_tokens = 40

    def read(self, messages: Any) -> int:
        return 2


class Hours:
    """A clock that only sleeping and thinking move."""

    def __init__(self) -> None:
        self.time = 100.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


def settings(**changes: Any) -> ClockSettings:
    return ClockSettings.model_validate({"kind": "charged", "charge": "fixed", "fixed_ms": 500.0, **changes})


def played(planner: Planner, clock: ClockSettings, *, deadline: float = 1e9, **more: Any) -> Played:
    env = make_env(tiny_suite(env="clock", options={"deadline": deadline}, horizon=20))
    charge = more.pop("charge", None) or charge_of(clock, parse_mode("full"))
    suite = tiny_suite(env="clock")
    episode_clock = EpisodeClock(clock, env, charge, **more)
    return play(JOB, suite, env, planner, PlannerSettings(), clock=episode_clock)


def scripted(model: type[ScriptedModel] = ScriptedModel, answers: list[str] = SEARCH, **options: Any) -> LLMPlanner:
    return LLMPlanner(model(answers, repeat=True, **options), constrained=False)


def clocks(result: Played) -> list[dict[str, Any]]:
    return [row["clock"] for row in result.replans]


# ---- what is charged


def test_the_world_goes_on_for_every_call() -> None:
    result = played(scripted(), settings(scale=3.0, slo_ms=1400.0))
    # Two commands, one, one: each call is waited for half a second, three times as long in the world.
    assert [(clock["at_s"], clock["waited_ms"]) for clock in clocks(result)] == [(0, 1500), (5.5, 1500), (9.0, 1500)]
    assert result.episode["end"] == "success"
    assert result.episode["clock"] == {
        "seconds": 12.5, "thinking_s": 4.5, "slo_violations": 3, "deferred": 0, "reused_plans": 0,
    }  # fmt: skip
    assert {clock["slo_met"] for clock in clocks(result)} == {False}


@pytest.mark.parametrize(
    ("ms", "end", "steps"), [(600.0, "success", 4), (700.0, "deadline", 4), (5000.0, "deadline", 2)]
)
def test_a_late_plan_costs_success(ms: float, end: str, steps: int) -> None:
    """Four commands take 8 s of 10; three calls may take 2 s together. A plan that comes too late is not begun."""
    result = played(scripted(), settings(fixed_ms=ms), deadline=10.0)
    assert (result.episode["end"], result.episode["success"], result.episode["steps"]) == (end, end == "success", steps)


def test_without_a_clock_nothing_is_waited_for() -> None:
    suite = tiny_suite(env="clock", options={"deadline": 8.0})
    result = play(JOB, suite, make_env(suite), scripted(), PlannerSettings())
    assert result.episode["success"] and result.episode["clock"] is None
    assert [row["clock"] for row in result.replans] == [None] * 3


def test_measured_milliseconds_are_those_of_the_call() -> None:
    result = played(scripted(token_ms=100.0), settings(charge="measured", fixed_ms=None))
    assert [clock["waited_ms"] for clock in clocks(result)] == [row["total_ms"] for row in result.replans]
    assert clocks(result)[0]["waited_ms"] == 800.0  # eight words
    assert Measured().call(Plan(("a",)), 7.0) == 7.0  # a planner that asks no model


def test_predicted_milliseconds_are_those_of_the_tokens() -> None:
    cost = cost_model_of(CostSettings.model_validate(COSTS))

    def price(decision: Decision | None = None, **usage: Any) -> float:
        generation = Generation("", "stop", Usage(**usage), Timing(total_ms=9e9), decision=decision)
        return Predicted(cost).call(Plan(("a",), generation=generation), 9e9)

    assert price(prompt_tokens=100, new_tokens=100, completion_tokens=5) == 10 + 100 + 4 * 5
    appended = {"prompt_tokens": 100, "new_tokens": 30, "reused_tokens": 70, "completion_tokens": 5}
    assert price(**appended, kept_per_layer=(100, 100), decode_passes=2) == 10 + 30 + 2 * 5
    # Evicting ranks what is stored then: 60 tokens before, 30 new, 5 of the plan.
    evicting = price(**appended, kept_per_layer=(90, 90), decode_passes=2, evicted_tokens=9)
    assert evicting == 10 + 30 + 2 * 5 + 95
    assert price() == 0.0  # deferred: nothing was read
    assert Predicted(cost).reading(ReadAhead(7, 50), 9e9) == 17


def test_a_fixed_price_is_that_of_calls_that_asked_a_model() -> None:
    asked = Generation("go", usage=Usage(prompt_tokens=9), decision=Decision("append", "-"))
    deferred = Generation("", "deferred", decision=Decision("defer", "-"))
    prices = [Fixed(5.0).call(Plan(("go",), generation=one), 9e9) for one in (asked, deferred, None)]
    assert prices == [5.0, 0.0, 0.0]


def test_the_fullest_layer_decides_what_a_call_meets() -> None:
    cost = CostModel((0.0, 0.0, 0.0, 1.0, 0.0), (0.0,) * 8)
    usage = Usage(prompt_tokens=100, new_tokens=30, kept_per_layer=(50, 90))
    assert Predicted(cost).call(Plan(("a",), generation=Generation("", "stop", usage)), 9e9) == 60


def test_the_expert_thinks_in_no_time() -> None:
    for clock in (settings(), settings(charge="cost-model", fixed_ms=None, costs=COSTS)):
        assert charge_of(clock, parse_mode("expert")) == Fixed(0.0)


def test_deferred_and_reused_plans_are_counted() -> None:
    decisions = [Decision("append", "-"), Decision("defer", "-", 0.0), Decision("reuse-plan", "-", 3.0)]

    class Deciding:
        def plan(self, context: Context) -> Plan:
            decision = decisions.pop(0)
            step = "go to room 2" if len(decisions) % 2 else "go to room 3"
            steps = (step,) if decisions else ("go to room 5", "take key")
            return Plan(steps, "", None, Generation("", decision=decision))

    result = played(Deciding(), settings())
    assert (result.episode["clock"]["deferred"], result.episode["clock"]["reused_plans"]) == (1, 1)
    assert result.episode["success"] and result.episode["clock"]["slo_violations"] is None


# ---- reading ahead


def test_what_is_read_ahead_is_not_waited_for_where_the_motion_covers_it() -> None:
    predicted = Predicted(CostModel((990.0, 5.0, 0, 0, 0), (0.0,) * 8))  # reading two tokens: one second
    ahead = clocks(played(scripted(ReadingModel), settings(), charge=predicted))
    # The first plan has two commands: what the first told is read during the second, which takes two seconds.
    assert [clock["read_ahead_tokens"] for clock in ahead] == [0, 2, 0]
    assert [clock["read_ahead_ms"] for clock in ahead] == [0, 1000, 0]
    after = clocks(played(scripted(ReadingModel), settings(read_ahead=False), charge=predicted))
    assert [clock["read_ahead_tokens"] for clock in after] == [0, 0, 0]
    assert [clock["waited_ms"] for clock in ahead] == [clock["waited_ms"] for clock in after]
    # Three times slower, reading takes a second longer than the command.
    slow = clocks(played(scripted(ReadingModel), settings(scale=3.0), charge=predicted))
    without = clocks(played(scripted(ReadingModel), settings(scale=3.0, read_ahead=False), charge=predicted))
    late = [clock["waited_ms"] - other["waited_ms"] for clock, other in zip(slow, without, strict=True)]
    assert late == [0, pytest.approx(1000), 0]


def test_a_model_that_cannot_read_ahead_reads_in_its_calls() -> None:
    assert [clock["read_ahead_tokens"] for clock in clocks(played(scripted(), settings()))] == [0, 0, 0]


# ---- the wall clock


def test_the_wall_clock_waits_for_the_robot_and_charges_what_the_planner_took() -> None:
    hours = Hours()

    class Thinking:
        def __init__(self) -> None:
            self.planner = scripted()

        def plan(self, context: Context) -> Plan:
            hours.time += 0.25
            return self.planner.plan(context)

    wall = settings(kind="wall", charge="measured", fixed_ms=None, scale=4.0)
    result = played(Thinking(), wall, now=hours.now, sleep=hours.sleep)
    assert hours.slept == [0.5] * 4  # two simulated seconds a command, four times as fast
    assert [clock["waited_ms"] for clock in clocks(result)] == [1000.0] * 3
    assert result.episode["clock"]["seconds"] == 4 * 2 + 3 * 1


def test_the_wall_clock_really_waits() -> None:
    wall = settings(kind="wall", charge="measured", fixed_ms=None, scale=40.0)
    result = played(scripted(), wall)
    assert result.episode["wall_s"] >= 4 * 2.0 / 40 and result.episode["success"]
    assert result.episode["clock"]["seconds"] == pytest.approx(8 + result.episode["clock"]["thinking_s"], abs=0.01)


# ---- runs


class ClockComponents(TinyComponents):
    """Scripted planners in a world with a clock."""


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, (folder / "episodes.jsonl").read_text().splitlines())


def test_a_run_against_a_clock_plays_the_same_again(tmp_path: Path, quiet: Console, rows_of: Any) -> None:
    suites = {"tiny": tiny_suite(env="clock", options={"deadline": 16.0})}
    config = tiny_run(modes=["full", "expert"], clock={"kind": "charged", "charge": "fixed", "fixed_ms": 900.0})
    for name in ("one", "two"):
        run(config, tmp_path / name, suites=suites, open_components=ClockComponents, console=quiet)
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two")
    found = list(rows(tmp_path / "one"))
    assert {row["end"] for row in found if row["mode"] == "full"} == {"success", "deadline"}
    assert all(row["success"] and not row["clock"]["thinking_s"] for row in found if row["mode"] == "expert")
    read = load_run_folder(tmp_path / "one")
    assert [row.clock.seconds for row in read.episodes if row.clock] == [row["clock"]["seconds"] for row in found]


def test_an_environment_without_a_clock_is_refused(tmp_path: Path, quiet: Console) -> None:
    config = tiny_run(modes=["full"], clock={"kind": "charged"})
    with pytest.raises(ConfigError) as refused:
        run(config, tmp_path / "run", suites={"tiny": tiny_suite()}, open_components=TinyComponents, console=quiet)
    assert str(refused.value) == (
        "clock: got charged; allowed: null, because TinyEnv has no advance, so its world cannot go on while "
        "the planner thinks"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clock": {"kind": "wall", "charge": "fixed", "fixed_ms": 1.0}}, "got fixed with kind wall; allowed: measur"),
        ({"clock": {"kind": "charged", "charge": "fixed"}}, "fixed_ms: got None with charge fixed; allowed: a number"),
        ({"clock": {"kind": "charged", "fixed_ms": 1.0}}, "fixed_ms: got 1.0 with charge measured"),
        ({"clock": {"kind": "charged", "costs": COSTS}}, "costs: given with charge measured; allowed: with cost-model"),
        ({"clock": "charged", "batch": 2, "modes": ["reuse"]}, "got batch 2 and executor serial; allowed: 1 and"),
        ({"clock": "charged", "executor": "process"}, "got batch 1 and executor process; allowed: 1 and serial"),
        ({"clock": {"kind": "charged", "charge": "cost-model", "costs": COSTS}}, "prune[recency], which prunes"),
        ({"clock": {"kind": "charged", "charge": "cost-model"}, "modes": ["expert"]}, "costs: missing with charge"),
        ({"clock": {"kind": "wall"}, "modes": ["reuse"], "reread": {"mode": "reuse", "every": 2}}, "beside reread"),
        ({"clock": "stopped"}, "'charged' or 'wall'"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as error:
        tiny_run(**changes)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"decode": [1.0] * 7}, "decode"),
        ({"prefill": [1.0]}, "prefill"),
        ({"evict": [-1.0, 0.0]}, "evict"),
        ({"speed": 3}, "speed"),
        ({"short": "many"}, "short"),
    ],
)
def test_coefficients_that_are_no_cost_model_are_refused_in_runs_of_the_expert_too(
    changes: dict[str, Any], where: str
) -> None:
    clock = {"kind": "charged", "charge": "cost-model", "costs": {**COSTS, **changes}}
    with pytest.raises(ValidationError, match=rf"clock\.costs\.{where}"):
        tiny_run(modes=["expert"], clock=clock)
    with pytest.raises(ValidationError, match=r"clock\.costs\.prefill"):
        tiny_run(modes=["expert"], clock={**clock, "costs": {"decode": [1.0] * 8}})


def test_a_configuration_has_the_coefficients_of_the_cost_model_and_keeps_them_as_written() -> None:
    assert set(CostSettings.model_fields) == {field.name for field in fields(CostModel)}
    assert cost_model_of(CostSettings.model_validate(COSTS)) == CostModel(
        tuple(COSTS["prefill"]), tuple(COSTS["decode"]), tuple(COSTS["evict"])
    )
    assert CostSettings.model_validate(COSTS).model_dump(mode="json") == COSTS


def test_a_clock_is_part_of_an_episodes_identity() -> None:
    def identity(clock: Any, mode: str = "full", **changes: Any) -> str:
        config = tiny_run(modes=[mode], clock=clock, **changes)
        return identity_of(config, tiny_suite(), config.mode(mode), {}).config

    plain = identity(None)
    assert identity("none") == plain != identity("charged")
    assert identity("charged") == identity({"kind": "charged", "slo_ms": 5.0})
    different = [identity({"kind": "charged", **more}) for more in ({}, {"scale": 2.0}, {"read_ahead": False})]
    assert len({*different, identity({"kind": "wall"}), plain}) == 5
    assert identity(None, planner={"plans": "expert"}) != plain
    assert "clock" not in tiny_run().model_dump() and "plans" not in tiny_run().model_dump()["planner"]


def test_whose_environments_tell_what_the_expert_would_do() -> None:
    config, plain = tiny_run(planner={"plans": "expert"}), tiny_run()
    assert config.asks_expert(parse_mode("full")) and plain.asks_expert(parse_mode("expert"))
    assert not plain.asks_expert(parse_mode("full"))
    assert Situation().expert_actions == ()
