"""The identity of committed rows: today's rows stay readable, whatever settings are added and defaults changed."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from erecap.config import load_run, load_suite, load_suites, parse_mode
from erecap.config.clock import ClockSettings
from erecap.config.controller import ControllerSettings
from erecap.config.run import BudgetSettings, PlannerSettings, PruneSettings, RunConfig, ScheduleSettings
from erecap.config.suite import Disturbances, Suite
from erecap.envs import ENVIRONMENTS, options_class
from erecap.planners.cooperative.agents import AgentSettings, TeamSettings
from erecap.rollout.run_folder import identity, reference_values
from erecap.rollout.run_folder.identity import budget_of, differing, identity_of

RAW = Path(__file__).parents[2] / "docs" / "results" / "raw"
TABLES: list[tuple[type[BaseModel], reference_values.Values, Collection[str]]] = [
    (Suite, reference_values.SUITE, reference_values.SUITE_LEFT_OUT),
    (Disturbances, reference_values.DISTURBANCES, ()),
    (RunConfig, reference_values.RUN, reference_values.RUN_LEFT_OUT),
    (PlannerSettings, reference_values.PLANNER, reference_values.PLANNER_LEFT_OUT),
    (TeamSettings, reference_values.TEAM, ()),
    (AgentSettings, reference_values.AGENT, ()),
    (ClockSettings, reference_values.CLOCK, reference_values.CLOCK_LEFT_OUT),
    (ControllerSettings, reference_values.CONTROLLER, reference_values.CONTROLLER_LEFT_OUT),
    (PruneSettings, reference_values.PRUNE, ()),
    (BudgetSettings, reference_values.BUDGET, ()),
    (ScheduleSettings, reference_values.SCHEDULE, ()),
]


class MorePlanner(PlannerSettings):
    """A setting that is new, and has no reference value yet."""

    retries: int = 2
    hints: list[str] = Field(default_factory=list)


class LargerBudget(BudgetSettings):
    """Another default than the rows were played with."""

    kv_tokens: int | None = Field(default=4096, ge=16)


class MoreRun(RunConfig):
    """A run of a later version."""

    exits: bool = False
    planner: PlannerSettings = Field(default_factory=MorePlanner)
    budget: BudgetSettings = Field(default_factory=LargerBudget)


def run(kind: type[RunConfig] = RunConfig, **changes: Any) -> RunConfig:
    """Say the budget as the configurations of committed rows do, so that another default does not matter."""
    said = {"budget": {"kv_tokens": 1024}} if kind is RunConfig else {}
    return kind.model_validate({"name": "t", "suites": ["s"], "modes": ["erecap"], **said, **changes})


def suite(options: dict[str, Any] | None = None, **changes: Any) -> Suite:
    values = {"name": "s", "env": "household", "options": options or {}, "episodes": 4, "horizon": 50, **changes}
    return Suite.model_validate(values)


def config_hash(config: RunConfig, of: Suite | None = None, mode: str = "erecap") -> str:
    return identity_of(config, of or suite(), parse_mode(mode), {}).config


def committed(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RAW / name).read_text().splitlines()]


def quality_hashes() -> dict[tuple[str, str, int | None], str]:
    """By suite, mode and budget, for all that `make quality` plays."""
    found = {}
    budgets = [f"budget.kv_tokens={tokens}" for tokens in (512, 2048)]
    for config in (load_run("quality"), *(load_run("quality-budgets", [budget]) for budget in budgets)):
        for name, of in load_suites(config).items():
            for mode in config.modes:
                found[name, mode, budget_of(config, mode)] = config_hash(config, of, mode)
    return found


def test_all_committed_rows_belong_to_the_configuration_that_they_are_filed_under() -> None:
    expected = quality_hashes()
    episodes, agreement = committed("quality-episodes.jsonl"), committed("quality-agreement.jsonl")
    assert (len(episodes), len(agreement)) >= (2680, 120)
    wrong = [row for row in episodes if row["config"] != expected[row["suite"], row["mode"], row["budget"]]]
    wrong += [row for row in agreement if row["config"] != expected[row["suite"], "erecap", row["budget"]]]
    assert not wrong, f"{len(wrong)} committed rows are orphaned, the first: {wrong[0]}"
    assert len(set(expected.values())) == len(expected)  # no row belongs to two


@pytest.mark.parametrize(("settings", "values", "left_out"), TABLES, ids=lambda value: getattr(value, "__name__", ""))
def test_every_setting_has_a_reference_value(
    settings: type[BaseModel], values: reference_values.Values, left_out: Collection[str]
) -> None:
    with_default = {name for name, field in settings.model_fields.items() if not field.is_required()}
    missing = with_default - set(values) - set(left_out)
    assert not missing, (
        f"{settings.__name__} has settings without a reference value: {', '.join(sorted(missing))}. Add each to "
        "reference_values.py with the value under which everything goes as before it existed; committed rows stay valid"
    )
    unknown = (set(values) | set(left_out)) - set(settings.model_fields)
    assert not unknown, f"reference_values.py names settings that {settings.__name__} lacks: {', '.join(unknown)}"
    assert not set(values) & set(left_out)


@pytest.mark.parametrize(
    "env", [name for name, entry in ENVIRONMENTS.items() if entry.options.startswith("erecap.envs.")]
)
def test_every_option_of_an_environment_has_a_reference_value(env: str) -> None:
    assert env in reference_values.OPTIONS, f"reference_values.OPTIONS lacks the environment {env}"
    left_out = reference_values.OPTIONS_LEFT_OUT.get(env, ())
    test_every_setting_has_a_reference_value(options_class(env), reference_values.OPTIONS[env], left_out)


@pytest.mark.parametrize("mode", ["full", "prune[recency]", "reuse", "erecap", "mask", "expert"])
def test_a_new_setting_and_a_changed_default_change_no_identity(mode: str) -> None:
    explicit = {"budget": LargerBudget(kv_tokens=1024), "planner": MorePlanner()}
    assert config_hash(run(MoreRun, **explicit), mode=mode) == config_hash(run(), mode=mode)


def test_a_run_that_plays_with_a_changed_default_is_another_configuration() -> None:
    assert config_hash(run(MoreRun)) != config_hash(run())
    assert config_hash(run(MoreRun)) == config_hash(run(budget={"kv_tokens": 4096}))
    assert config_hash(run(MoreRun), mode="reuse") == config_hash(run(), mode="reuse")  # which has no budget


def test_the_reference_values_are_written_out_and_not_taken_from_the_classes() -> None:
    assert differing(LargerBudget(), reference_values.BUDGET) == {"kv_tokens": 4096}
    assert differing(LargerBudget(kv_tokens=1024), reference_values.BUDGET) == {}
    assert differing(MorePlanner(), reference_values.PLANNER) == {}
    assert differing(MorePlanner(retries=3, max_steps=6), reference_values.PLANNER) == {"retries": 3, "max_steps": 6}


@pytest.mark.parametrize(
    ("changes", "modes"),
    [
        ({"planner": {"max_steps": 2}}, {"full", "prune[recency]", "reuse", "erecap", "expert"}),
        ({"dtype": "float32"}, {"full", "prune[recency]", "reuse", "erecap"}),
        ({"seed": 1}, {"full", "prune[recency]", "reuse", "erecap"}),
        ({"decode_weights": "int4"}, {"reuse", "erecap"}),
        ({"schedule": {}}, {"reuse", "erecap"}),
        ({"budget": {"kv_tokens": 512}}, {"erecap"}),
        ({"budget": {"kv_ratio": 0.5}}, {"erecap"}),
        ({"prune": {"sinks": 8}}, {"prune[recency]"}),
        ({"samples": 3, "workers": 2, "executor": "process", "threads": 1, "episodes": 2}, set()),
    ],
)
def test_another_value_concerns_the_modes_that_it_acts_on(changes: dict[str, Any], modes: set[str]) -> None:
    every = ("full", "prune[recency]", "reuse", "erecap", "expert")
    assert {mode for mode in every if config_hash(run(**changes), mode=mode) != config_hash(run(), mode=mode)} == modes


def test_a_schedule_is_told_from_none_and_from_another() -> None:
    hashes = [config_hash(run(schedule=schedule)) for schedule in (None, {}, {"cooldown": 3})]
    assert len(set(hashes)) == 3


def test_an_option_written_at_its_reference_value_is_no_other_suite() -> None:
    plain = config_hash(run())
    written = {"split": "unseen", "max_objects": 30, "goals": [1, 1], "games_dir": None}
    assert config_hash(run(), suite(written)) == plain
    assert config_hash(run(), suite(seed=0, disturbances={"slip": 0.0}, episodes=9)) == plain
    others = [suite({"split": "seen"}), suite({"goals": [2, 4]}), suite(horizon=9), suite(disturbances={"move": 0.5})]
    others += [suite(seed=1), suite(name="another"), suite(env="babyai")]
    assert len({plain, *(config_hash(run(), other) for other in others)}) == len(others) + 1


def test_an_option_whose_default_changed_counts_by_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    from erecap.envs.household.options import HouseholdOptions

    class Later(HouseholdOptions):
        max_objects: int = 40
        rooms: int = 1

    plain, more = config_hash(run()), config_hash(run(), suite({"max_objects": 40}))
    monkeypatch.setattr(identity, "options_class", lambda name: Later)
    assert config_hash(run(), suite({"max_objects": 30})) == plain
    assert config_hash(run()) == more != plain


def test_options_of_somebody_elses_environment_count_as_they_are_written() -> None:
    one, same, other = (suite(options, env="theirs") for options in ({"scene": "flat"}, {"scene": "flat"}, {}))
    assert config_hash(run(), one) == config_hash(run(), same) != config_hash(run(), other)


def test_a_team_has_longer_answers_and_counts_as_when_they_were_written_out() -> None:
    short, written = run(planner={"name": "cooperative"}), run(planner={"name": "cooperative", "max_new_tokens": 128})
    assert short.planner.max_new_tokens == 128 and run().planner.max_new_tokens == 64
    assert config_hash(short) == config_hash(written)
    assert config_hash(short) != config_hash(run(planner={"name": "cooperative", "max_new_tokens": 64}))


def test_an_agents_file_counts_by_what_it_says_and_not_by_where_it_lies(tmp_path: Path) -> None:
    def team(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return config_hash(run(planner={"name": "cooperative", "agents": str(tmp_path / name)}))

    plain = config_hash(run(planner={"name": "cooperative"}))
    assert plain == config_hash(run(planner={"name": "cooperative", "agents": "team"}))
    assert plain == team("one.yaml", "buffer: 32") == team("two.yaml", "exclusive: [item, object]")
    pair = "agents: [{name: a, robot: robot 1}, {name: b, robot: robot 2}]"
    others = ["conflicts: tell", pair, pair.replace("name: a,", "name: a, role: finds,")]
    assert len({plain, *(team("one.yaml", text) for text in others)}) == 4


def test_a_mode_is_hashed_by_its_name() -> None:
    modes = ("erecap", "recency", "random", "attention", "mask", "reuse", "full", "prune[recency]", "prune[random]")
    assert len({config_hash(run(), mode=mode) for mode in modes}) == len(modes)


def test_packaged_suites_of_the_committed_rows_play_what_they_played() -> None:
    options = options_class("household").model_validate(load_suite("household-chains-unseen").options)
    stated = {"goals": [2, 4], "max_objects": 60, "expert": "search"}
    assert differing(options, reference_values.OPTIONS["household"]) == stated
