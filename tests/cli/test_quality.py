"""`erecap quality` as a person calls it, with the expert alone; and once with the embedded model."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from erecap.evaluation import plan_agreement

SUITE = {"name": "corridor", "env": "tiny", "episodes": 3, "seed": 5, "horizon": 9}
RUN = {"name": "walk", "suites": ["./corridor.yaml"], "modes": ["expert"]}
FILES = ("--rows", "raw/episodes.jsonl", "--results", "quality.json")


@pytest.fixture
def walk(tmp_path) -> Path:
    """A configuration that needs no model."""
    (tmp_path / "corridor.yaml").write_text(yaml.safe_dump(SUITE))
    path = tmp_path / "walk.yaml"
    path.write_text(yaml.safe_dump(RUN))
    return path


def test_it_goes_on_from_the_rows_file_alone(erecap, walk):
    code, out, err = erecap("quality", walk, *FILES)
    assert code == 0 and "3 new rows" in err and "figures: quality.json" in out
    rows = Path("raw/episodes.jsonl")
    whole = rows.read_text()
    shutil.rmtree("runs")
    code, _, err = erecap("quality", walk, *FILES)
    assert code == 0 and "0 new rows" in err and rows.read_text() == whole
    # One row is missing in the clone: it is played.
    shutil.rmtree("runs")
    rows.write_text("".join(whole.splitlines(keepends=True)[:2]))
    code, _, err = erecap("quality", walk, *FILES)
    assert code == 0 and "going on after 2 of 3 episodes" in err and "1 new rows" in err
    # More episodes need no fresh start.
    assert "2 new rows" in erecap("quality", walk, "episodes=5", *FILES)[2]
    modes = json.loads(Path("quality.json").read_text())["modes"]
    assert [(mode["mode"], mode["episodes"], mode["sr"]["value"]) for mode in modes] == [("expert", 5, 1.0)]


def test_a_killed_call_leaves_its_rows_in_the_run_folder(erecap, walk):
    erecap("quality", walk, *FILES)
    Path("raw/episodes.jsonl").unlink()
    assert "0 new rows" in erecap("quality", walk, *FILES)[2]
    assert len(Path("raw/episodes.jsonl").read_text().splitlines()) == 3


def test_another_configuration_is_refused_in_one_line(erecap, walk):
    erecap("quality", walk, *FILES)
    code, _, err = erecap("quality", walk, "planner.max_steps=2", *FILES)
    assert (
        code == 1 and err.count("\n") == 1 and "episodes.jsonl:1: corridor in mode expert was played with config" in err
    )
    assert erecap("quality", walk, "planner.max_steps=2", *FILES, "--fresh")[0] == 0
    assert erecap("quality", walk, "planner.max_steps=2", *FILES)[0] == 0


@pytest.mark.parametrize("more", [("--workers", 2), ("--batch", 8), ("--ray",)])
def test_agreement_takes_no_part_in_how_episodes_are_played(erecap, walk, more):
    code, _, err = erecap("quality", walk, *FILES, "--agreement", "corridor", *more)
    assert code == 2 and err.count("\n") == 1 and "--agreement: one episode at a time" in err
    assert not Path("raw").exists()


def test_an_interrupt_ends_the_whole_of_it(erecap, walk, monkeypatch):
    from erecap.rollout import run as rollout

    begun = []

    def interrupted(config, folder):
        begun.append(config.modes)
        return rollout.RunResult(folder, "interrupted", 1, 3, 1)

    monkeypatch.setattr(rollout, "run", interrupted)
    monkeypatch.setattr("erecap.evaluation.results_file.weights_of", lambda config: {})
    code, _, err = erecap("quality", walk, "modes=expert,erecap", *FILES)
    assert code == 130 and begun == [["expert"]] and "interrupted after 1 of 3 episodes of expert; call it again" in err


def test_a_suite_that_is_not_there(erecap, walk):
    code, _, err = erecap("quality", walk, "--agreement", "homes", *FILES)
    assert code == 2 and "--agreement homes: not a suite of walk; allowed: corridor" in err


@pytest.mark.integration
def test_with_the_embedded_model(erecap, embedded_model_folder, monkeypatch):
    changes = [
        "suites=household-demo",
        "modes=reuse,mask",
        "episodes=1",
        "horizon=5",
        "budget.kv_tokens=448",
        f"model={embedded_model_folder}",
    ]
    code, _, err = erecap("quality", "demo-full", *changes, *FILES)
    assert code == 0 and "reuse: 1 new rows" in err and "mask: 1 new rows" in err
    rows = {row["mode"]: row for row in map(json.loads, Path("raw/episodes.jsonl").read_text().splitlines())}
    assert rows["reuse"]["kept_share"] == 1.0 and rows["mask"]["kept_share"] < 1.0
    assert rows["reuse"]["model"] == rows["mask"]["model"] and rows["mask"]["model"]
    assert rows["mask"]["overflow"] == 0 and rows["mask"]["end"] == "horizon"
    with monkeypatch.context() as patch:
        patch.setattr(plan_agreement, "play", lambda *args: signal.raise_signal(signal.SIGTERM))
        code, out, err = erecap("quality", "demo-full", *changes, "--agreement", "household-demo", *FILES)
    assert code == 130 and "figures: quality.json" in out
    assert not Path("raw/agreement.jsonl").exists()
    code, _, err = erecap("quality", "demo-full", *changes, "--agreement", "household-demo", *FILES)
    assert code == 0 and "1 new rows" in err
    row = json.loads(Path("raw/agreement.jsonl").read_text())
    assert row["plans"] > 0 and 0 < row["agreed"] <= row["plan_tokens"] and row["skipped"] == 0
    assert "0 new rows" in erecap("quality", "demo-full", *changes, "--agreement", "household-demo", *FILES)[2]
    other = [*changes, "planner.max_steps=1"]
    code, _, err = erecap("quality", "demo-full", *other, "--agreement", "household-demo", *FILES)
    assert code == 1 and "agreement.jsonl:1: measured with config" in err


@pytest.mark.integration
def test_an_episode_within_the_budget_goes_the_same_way_in_every_mode(erecap, embedded_model_folder):
    changes = ["suites=household-demo", "episodes=1", "horizon=4", f"model={embedded_model_folder}"]
    modes = ("recency", "attention", "mask")

    def play(name, chosen):
        files = ("--rows", f"raw/{name}.jsonl", "--results", f"{name}.json")
        more = (f"modes={','.join(chosen)}", "budget.kv_tokens=2048")
        code, _, err = erecap("quality", "demo-full", *changes, *more, *files)
        assert code == 0, err
        return {row["mode"]: row for row in map(json.loads, Path(f"raw/{name}.jsonl").read_text().splitlines())}, err

    copied, err = play("copied", ("reuse", *modes))
    assert "reuse: 1 new rows" in err and "recency, attention, mask: 0 new rows" in err
    again, err = play("again", modes)
    assert "0 new rows" in err and again == {mode: copied[mode] for mode in modes}, "the run folder knows it, too"
    shutil.rmtree("runs")
    played, err = play("played", modes)
    assert "3 new rows" in err and {row["same_as"] for row in played.values()} == {None}
    for mode in modes:
        assert copied[mode].pop("same_as") == "reuse" and played[mode].pop("same_as") is None
        assert copied[mode].pop("seconds") > 0 and played[mode].pop("seconds") > 0
        assert copied[mode] == played[mode]
