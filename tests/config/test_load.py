"""Every kind of bad input gives one line with its location, the value, and the allowed ones."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from erecap.config import load_run, load_suite, load_suites
from erecap.envs import ENVIRONMENTS, EnvEntry
from erecap.errors import ConfigError

SUITE = {"name": "corridor", "env": "toy", "episodes": 3, "seed": 1, "horizon": 9, "options": {"level": "easy"}}
RUN = {"name": "try", "suites": ["./corridor.yaml"], "modes": ["full", "prune[recency]"]}


class ToyOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    level: str = Field("easy", pattern="^(easy|hard)$", description="easy or hard")
    rooms: int = Field(3, ge=1, le=9, description="how many rooms")


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(ENVIRONMENTS, "toy", EnvEntry(f"{__name__}:ToyOptions", f"{__name__}:None", "dev"))
    monkeypatch.setattr("erecap.config.load.import_or_refuse", lambda path, what: ToyOptions)


@pytest.fixture
def write(tmp_path):
    """Writes corridor.yaml and run.yaml with changes, and returns the path of the run."""

    def write(run=None, suite=None):
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "corridor.yaml").write_text(yaml.safe_dump({**SUITE, **(suite or {})}), encoding="utf-8")
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump({**RUN, **(run or {})}), encoding="utf-8")
        return path

    return write


def complaint(path, *overrides) -> str:
    with pytest.raises(ConfigError) as caught:
        load_run(path, overrides)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_loads_with_overrides_and_suites_beside_the_file(write):
    changes = ["prune.keep=0.5", "modes=expert,prune[random]", "planner.period=4", "episodes=2", "horizon=4"]
    run = load_run(write(), changes)
    assert (run.prune.keep, run.modes, run.planner.period) == (0.5, ["expert", "prune[random]"], 4)
    suite = load_suites(run)["corridor"]
    assert (suite.episodes, suite.horizon, suite.options) == (2, 4, {"level": "easy"})


def test_preset_sets_keep(write):
    assert load_run(write({"prune": {"preset": "keep09"}})).prune.keep == 0.9
    assert "preset" in complaint(write({"prune": {"preset": "keep09", "keep": 0.5}}))


RUN_MISTAKES = [
    ({"mods": ["full"]}, ["mods: unknown key (did you mean 'modes'?)", "allowed keys: name, suites, modes"]),
    ({"prune": {"kep": 1}}, ["prune.kep: unknown key (did you mean 'keep'?)"]),
    ({"budget": {"kv_token": 64}}, ["budget.kv_token: unknown key (did you mean 'kv_tokens'?)"]),
    ({"schedule": {"cooldwn": 1}}, ["schedule.cooldwn: unknown key (did you mean 'cooldown'?)"]),
    ({"reread": {"mode": "reuse", "every": 2, "evry": 2}}, ["reread.evry: unknown key (did you mean 'every'?)"]),
    ({"planner": {"nme": "llm"}}, ["planner.nme: unknown key (did you mean 'name'?)"]),
    ({"planner": {"name": "nobody"}}, ["planner.name: 'nobody' is not a planner; allowed: cooperative, llm"]),
    ({"planner": {"agents": "team"}}, ["planner: agents: got 'team' with name llm; allowed: with name cooperative"]),
    ({"model": "http://me:secret@x/v1"}, ["model: the URL has a name or password, which belongs into OPENAI_API_KEY"]),
    ({"modes": ["fast"]}, ["modes: unknown mode 'fast'", "full, expert, reuse"]),
    ({"modes": ["prune[magic]"]}, ["unknown scorer 'magic'", "attention, random, recency"]),
    ({"modes": ["prune"]}, ["names no scorer"]),
    ({"modes": ["full", "full"]}, ["named twice"]),
    ({"modes": []}, ["modes: got []"]),
    ({"modes": None}, ["modes: got None", "a list"]),
    ({"prune": {"keep": 0}}, ["prune.keep: got 0; allowed: a number, more than 0 and at most 1"]),
    ({"prune": {"keep": float("nan")}}, ["prune.keep: got nan"]),
    ({"prune": {"keep": "much"}}, ["prune.keep: got 'much' (text)"]),
    ({"prune": {"stages": [7, 4]}}, ["prune.stages", "rising"]),
    ({"prune": 3}, ["prune: got 3; allowed: a mapping with the keys keep"]),
    ({"episodes": True}, ["episodes: got True; allowed: a whole number"]),
    ({"executor": "cloud"}, ["executor: got 'cloud' (text); allowed: serial, process"]),
    ({"dtype": "int8"}, ["dtype: got 'int8'", "auto, float32, bfloat16, float16"]),
    ({"name": "a/b"}, ["name: got 'a/b'"]),
    ({"model": ""}, ["model: got ''"]),
    ({"suites": ["no-such-suite"]}, ["suite 'no-such-suite' not found; packaged: "]),
    ({"suites": ["./gone.yaml"]}, ["gone.yaml: no such suite file"]),
    ({"suites": ["./corridor.yaml", "././corridor.yaml"]}, ["corridor.yaml' is named twice"]),
    ({"suites": ["./corridor.yaml", "./x/../corridor.yaml"]}, ["two suites of this run are called 'corridor'"]),
]


@pytest.mark.parametrize(("change", "parts"), RUN_MISTAKES, ids=[str(change) for change, _ in RUN_MISTAKES])
def test_mistakes_in_a_run(write, change, parts):
    line = complaint(write(run=change))
    assert all(part in line for part in parts), line


SUITE_MISTAKES = [
    ({"horizont": 3}, ["corridor.yaml: horizont: unknown key (did you mean 'horizon'?)"]),
    (
        {"env": "moon"},
        ["corridor.yaml: env: 'moon' is not an environment; allowed: babyai, habitat, household, pyrobosim"],
    ),
    ({"horizon": 0}, ["horizon: got 0; allowed: a whole number, at least 1"]),
    ({"episodes": "ten"}, ["episodes: got 'ten' (text)"]),
    ({"seed": -1}, ["seed: got -1"]),
    ({"disturbances": {"slip": 1.5}}, ["disturbances.slip: got 1.5; allowed: a number, at least 0 and at most 1"]),
    ({"disturbances": {"slide": 0.1}}, ["disturbances.slide: unknown key", "allowed keys: slip, move"]),
    ({"options": {"levle": "easy"}}, ["corridor.yaml: options.levle: unknown key (did you mean 'level'?)"]),
    ({"options": {"level": "insane"}}, ["options.level: got 'insane'", "easy or hard"]),
    ({"options": {"rooms": 99}}, ["options.rooms: got 99", "at most 9", "how many rooms"]),
    ({"options": [1]}, ["options: got [1] (a list)"]),
]


@pytest.mark.parametrize(("change", "parts"), SUITE_MISTAKES, ids=[str(change) for change, _ in SUITE_MISTAKES])
def test_mistakes_in_a_suite(write, change, parts):
    line = complaint(write(suite=change))
    assert all(part in line for part in parts), line


def test_missing_key_is_named(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("name: s\nenv: toy\nhorizon: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"s\.yaml: episodes: is missing; allowed: a whole number"):
        load_suite(path)


FILE_MISTAKES = [
    (b"", ["the file is empty"]),
    (b"# only a comment\n", ["the file is empty"]),
    (b"- a\n- b\n", ["got a list", "a mapping"]),
    (b"name: x\nmodes: [full\n", ["line 3", "not valid YAML"]),
    (b"name: x\n\tmodes: y\n", ["line 2", "not valid YAML"]),
    (b"name: x\nname: y\n", ["line 2", "'name' is written twice"]),
    (b"1: x\n", ["line 1", "the key 1 is not text"]),
    (b"name: !!python/object/apply:os.system [ls]\n", ["line 1", "not valid YAML"]),
    (b"name: \xff\xfe\n", ["not UTF-8"]),
    (b'name: "\\ud800"\n', ["line 1", "half a surrogate pair"]),
    (b"name: &a [*a]\n", ["line 1", "an alias contains itself"]),
    (b"[" * 5000, ["not valid YAML"]),
]


@pytest.mark.parametrize(("data", "parts"), FILE_MISTAKES, ids=[str(data[:20]) for data, _ in FILE_MISTAKES])
def test_files_that_are_no_run(tmp_path, data, parts):
    path = tmp_path / "run.yaml"
    path.write_bytes(data)
    line = complaint(path)
    assert line.startswith(str(path)) and all(part in line for part in parts), line


def test_a_folder_and_a_missing_file(tmp_path):
    folder = tmp_path / "x.yaml"
    folder.mkdir()
    assert "cannot be read" in complaint(folder)
    assert "no such run file" in complaint(tmp_path / "y.yaml")
    assert "run 'nothing-like-it' not found; packaged: " in complaint("nothing-like-it")


def test_mistakes_in_overrides_name_the_override(write):
    assert "key=value" in complaint(write(), "keep")
    assert "key=value" in complaint(write(), "=3")
    assert "name is 'try', which has no keys below it" in complaint(write(), "name.x=3")
    assert "prune.keep=2" in complaint(write(), "prune.keep=2")
    assert "not valid YAML" in complaint(write(), "modes=[full")


def test_relative_suites_of_overrides_start_at_the_working_folder(write, tmp_path, monkeypatch):
    path = write()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "other.yaml").write_text(yaml.safe_dump({**SUITE, "name": "other"}), encoding="utf-8")
    monkeypatch.chdir(elsewhere)
    assert list(load_suites(load_run(path, ["suites=./other.yaml"]))) == ["other"]
    assert list(load_suites(load_run(Path("..") / "run.yaml"))) == ["corridor"]


@pytest.mark.parametrize(
    ("planner", "words"),
    [
        ({"name": "cooperative", "plans": "expert"}, "plans: got expert with name cooperative; allowed: model, or"),
        ({"plans": "expert", "stuck_after": 2}, "stuck_after: got 2 with plans expert; allowed: null"),
        ({"name": "cooperative", "stuck_after": 2}, "stuck_after: got 2 with name cooperative; allowed: null"),
    ],
)
def test_settings_that_a_planner_would_ignore_are_refused(write, planner, words):
    assert words in complaint(write({"planner": planner}))


def test_an_agents_file_lies_beside_the_run_that_names_it(write, tmp_path, monkeypatch):
    path = write({"planner": {"name": "cooperative", "agents": "./mine.yaml"}})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_run(path).planner.agents == str(path.parent / "mine.yaml")
    assert load_run(path, ["planner.agents=./yours.yaml"]).planner.agents == str(elsewhere / "yours.yaml")
    assert load_run(path, ["planner.agents=team"]).planner.agents == "team"
    with pytest.raises(ConfigError, match="agents: got 'team' with name llm; allowed: with name cooperative"):
        load_run(write({"planner": {"agents": "team"}}))


@pytest.mark.parametrize("override", ["foo=3", "modes=fly", "http://me:secret@host/v1", "seed.http://me:secret@host=1"])
def test_passwords_in_overrides_are_not_repeated(write, override):
    told = complaint(write(), "model=http://me:secret@host/v1", override)
    assert "secret" not in told and "http://…@host" in told


def test_a_key_below_a_value_does_not_repeat_its_password(write):
    told = complaint(write(), "name.x=http://me:secret@host/v1")
    assert "secret" not in told and "name is 'try'" in told
    told = complaint(write(), "model=http://me:secret@host/v1", "model.x=3")
    assert "secret" not in told and "model is 'http://…@host/v1'" in told
