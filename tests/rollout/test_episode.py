"""The episode loop: its rows, its triggers, and its ends."""

import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
from tinyworld import TinyComponents, TinyEnv, TinyOptions, tiny_run, tiny_suite

from erecap.config import PlannerSettings
from erecap.doctor import SIMULATORS
from erecap.errors import BudgetError, ModelError
from erecap.language_models.scripted import ScriptedModel
from erecap.planners.llm import LLMPlanner
from erecap.report.load import load_run_folder
from erecap.report.rows import EpisodeRow, ReplanRow, Sample
from erecap.rollout.episode import play
from erecap.rollout.jobs import Job, all_jobs, episode_seed
from erecap.rollout.run import run
from erecap.rollout.run_folder.rows import spl
from erecap.rollout.run_folder.writer import encode_row

JOB = Job("tiny", "full", 0, episode_seed(5, 0), sample=True)


def play_script(answers, *, options=None, suite=None, job=JOB, **settings):
    suite = suite or tiny_suite(options=options or {})
    components = TinyComponents(tiny_run(), {})
    planner = LLMPlanner(ScriptedModel(answers), constrained=False)
    return play(job, suite, components.env(suite, expert=False), planner, PlannerSettings(**settings))


def triggers(played):
    return [row["trigger"] for row in played.replans]


def test_a_plan_that_works():
    played = play_script(["go to room 5", "take key"])
    assert played.episode["end"] == "success"
    assert (played.episode["steps"], played.episode["spl"], played.episode["progress"]) == (2, 1.0, 1.0)
    assert triggers(played) == ["start", "finished"]
    EpisodeRow.model_validate(played.episode)
    ReplanRow.model_validate(played.replans[0])


def test_triggers():
    answers = [
        "go to room 2",
        "go to room 3\ngo to room 3",  # nobody can go where they are
        "go to room 4\ngo to room 2\ngo to room 6",
        "take key",  # the key was not seen yet, so nobody can know of it
        "go to room 2",  # the agent is there
        "go to room 5\ntake lamp",
        "go to room 5",
        "take key",
    ]
    played = play_script(answers, period=2)
    expected = ["start", "finished", "contradicted", "period", "invalid", "failed", "invalid", "finished"]
    assert triggers(played) == expected
    assert played.episode["end"] == "success"
    assert [number for number, row in enumerate(played.replans) if row["problem"]] == [3, 5]
    assert played.episode["invalid_plans"] == 2
    assert played.episode["triggers"]["invalid"] == 2


def test_a_step_that_fails_leads_to_a_new_plan():
    played = play_script(["go to room 1", "go to room 5", "take key"])
    assert triggers(played) == ["start", "failed", "finished"]
    assert played.episode["path_length"] == 4.0


def test_what_the_planner_reads():
    model = ScriptedModel(["go to room 1", "nonsense", "go to room 5"], repeat=True)
    suite = tiny_suite()
    env = TinyComponents(tiny_run(), {}).env(suite, expert=False)
    play(JOB, suite, env, LLMPlanner(model, constrained=False), PlannerSettings(max_invalid=1))
    texts = [message["content"] for message in model.calls[1]]
    assert texts[1] == "Goal: Take the key.\nYou are in room 1. You see nothing."
    assert texts[2:] == [
        "go to room 1",
        "> go to room 1\nFailed: that is not possible here\nNothing happens.",
    ]


def test_what_the_planner_reads_of_its_invalid_plan():
    model = ScriptedModel(["nonsense"], repeat=True)
    suite = tiny_suite()
    env = TinyComponents(tiny_run(), {}).env(suite, expert=False)
    play(JOB, suite, env, LLMPlanner(model, constrained=False), PlannerSettings(max_invalid=2))
    texts = [message["content"] for message in model.calls[1]]
    assert texts[2:] == ["nonsense", "Failed: the plan could not be used: line 1 is not a known command: 'nonsense'"]


def test_invalid_plans_in_a_row_end_the_episode():
    played = play_script(["x", "go to room 2", "x", "y", "z", "never asked"], max_invalid=3)
    assert (played.episode["end"], played.episode["invalid_plans"], played.episode["steps"]) == ("horizon", 4, 1)
    assert triggers(played) == ["start", "invalid", "finished", "invalid", "invalid"]


def test_the_horizon():
    played = play_script(["go to room 2", "go to room 1"] * 9, suite=tiny_suite(horizon=3))
    assert (played.episode["end"], played.episode["steps"], played.episode["success"]) == ("horizon", 3, False)


@pytest.mark.parametrize(
    ("options", "steps", "error"),
    [
        ({"broken": [0]}, 0, "GameError: game 0 is corrupt"),
        ({"cracks": [0]}, 1, "GameError: the floor is gone"),
        ({"goalless": [0]}, 0, "GameError: the episode has an empty goal; a planner needs one in words"),
    ],
)
def test_broken_games_are_rows(options, steps, error):
    played = play_script(["go to room 2\ngo to room 3"], options=options)
    assert (played.episode["end"], played.episode["steps"], played.episode["error"]) == ("error", steps, error)
    assert played.sample is not None
    EpisodeRow.model_validate(played.episode)


def test_errors_of_planners():
    def over_budget(messages):
        raise BudgetError("the goal does not fit")

    assert play_script(over_budget).episode["error"] == "BudgetError: the goal does not fit"
    with pytest.raises(ModelError, match="the script has 1 answers"):
        play_script(["go to room 2"])


class Faulty(TinyEnv):
    """Says in its info what the test wants it to say."""

    def __init__(self, **changes):
        super().__init__(TinyOptions(), seed=0, episodes=1, render_mode="rgb_array")
        self.changes = changes

    def info_now(self, failure):
        info = {**super().info_now(failure), **self.changes}
        return {key: value for key, value in info.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"goal": None}, "the environment's info lacks goal"),
        ({"path_length": float("nan")}, "the environment's path_length is nan"),
        ({"expert_path_length": -1.0}, "the environment's expert_path_length is -1.0"),
    ],
)
def test_environments_that_break_the_contract(changes, error):
    planner = LLMPlanner(ScriptedModel(["go to room 2"]), constrained=False)
    played = play(JOB, tiny_suite(), Faulty(**changes), planner, PlannerSettings())
    assert played.episode["error"].startswith(f"GameError: {error}")


def test_an_end_without_success_is_an_error():
    class Trapdoor(Faulty):
        def step(self, action):
            text, reward, _, truncated, info = super().step(action)
            return text, reward, True, truncated, info

    planner = LLMPlanner(ScriptedModel(["go to room 2"]), constrained=False)
    played = play(JOB, tiny_suite(), Trapdoor(), planner, PlannerSettings())
    assert played.episode["error"] == "GameError: the environment ended the episode, and the goal is not reached"


@pytest.mark.parametrize("key", ["clé dorée", "鍵 🗝", "a\u2028b", "ключ"])
def test_unicode(tmp_path, quiet, key):
    suite = tiny_suite(options={"key": key, "garbled": True}, episodes=1)
    config = tiny_run(samples=1, modes=["full", "expert"])
    run(config, tmp_path, suites={"tiny": suite}, open_components=TinyComponents, console=quiet)
    read = load_run_folder(tmp_path)
    assert read.episodes[0].goal == f"Take the {key}."
    assert [row.error for row in read.episodes] == [None, None]
    assert "?" in read.samples[0].steps[0].observation


def test_an_observation_of_20000_words(tmp_path, quiet):
    suite = tiny_suite(options={"padding": 20_000}, episodes=1)
    run(tiny_run(), tmp_path, suites={"tiny": suite}, open_components=TinyComponents, console=quiet)
    read = load_run_folder(tmp_path)
    assert [row.error for row in read.episodes] == [None] * 3
    assert max(row.prompt_tokens for row in read.replans) > 60_000


def test_samples():
    played = play_script(["go to room 1", "go to room 5", "take key"])
    sample = Sample.model_validate(played.sample)
    assert [step.action for step in sample.steps] == [None, "go to room 1", "go to room 5", "take key"]
    assert [step.failed for step in sample.steps] == [False, True, False, False]
    assert all(step.frame and step.frame.startswith("data:image/png;base64,") for step in sample.steps)
    assert [len(call.messages) for call in sample.replans] == [2, 4, 6]
    assert play_script(["go to room 5", "take key"], job=replace(JOB, sample=False)).sample is None


def test_modes_are_paired_and_take_turns():
    jobs = all_jobs({"a": tiny_suite(name="a"), "b": tiny_suite(name="b", seed=6)}, ["full", "expert"], samples=1)
    assert [job.key for job in jobs[:3]] == [("a", "full", 0), ("a", "expert", 0), ("a", "full", 1)]
    assert all(one.seed == other.seed for one, other in zip(jobs[::2], jobs[1::2], strict=True))
    assert len({job.seed for job in jobs}) == 8
    assert sum(job.sample for job in jobs) == 4
    assert episode_seed(5, 0) == 869838009  # written down: another value would change every suite's episodes


@pytest.mark.parametrize(
    ("success", "path", "expert", "value"),
    [(False, 1, 1, 0.0), (True, 2, 1, 0.5), (True, 1, 2, 1.0), (True, 5, 0, 1.0), (True, 0, 0, 1.0)],
)
def test_spl(success, path, expert, value):
    assert spl(success, path, expert) == value


def test_rows_refuse_what_is_not_finite():
    with pytest.raises(ValueError, match="Out of range float"):
        encode_row({"x": float("inf")})


def test_progress_is_told_without_a_terminal(tmp_path, quiet):
    suites = {"tiny": tiny_suite(options={"broken": [1]})}
    run(tiny_run(), tmp_path, suites=suites, open_components=TinyComponents, console=quiet)
    said = quiet.file.getvalue()
    assert "tiny full episode 1: GameError: game 1 is corrupt" in said
    assert "12/12 episodes | done | won full " in said


def test_run_json_names_no_path(tmp_path, quiet):
    config = tiny_run(suites=[str(tmp_path / "tiny.yaml")], model=str(tmp_path / "my-model"))
    suite = tiny_suite(options={"key": "/abs/olute"})
    run(config, tmp_path / "r", suites={"tiny": suite}, open_components=TinyComponents, console=quiet)
    text = (tmp_path / "r" / "run.json").read_text()
    assert str(tmp_path) not in text and "/abs" not in text
    head = json.loads(text)
    assert (head["config"]["model"], head["config"]["suites"]) == ("my-model", ["tiny"])
    assert head["machine"]["cores"] >= 1 and head["versions"]["python"]
    installed = [name for names in SIMULATORS.values() for name in names if find_spec(name)]
    assert installed and set(installed) <= set(head["versions"])
