"""The commands as a person calls them: exit codes, one-line errors, and a run from start to report."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from erecap.cli import main as command_line

SUITE = {"name": "corridor", "env": "tiny", "episodes": 2, "seed": 5, "horizon": 9}
RUN = {"name": "walk", "suites": ["./corridor.yaml"], "modes": ["expert"]}


@pytest.fixture
def walk(tmp_path) -> Path:
    """A run that needs no model."""
    (tmp_path / "corridor.yaml").write_text(yaml.safe_dump(SUITE))
    path = tmp_path / "walk.yaml"
    path.write_text(yaml.safe_dump(RUN))
    return path


def test_rollout_then_report(erecap, walk):
    code, out, err = erecap("rollout", walk)
    assert code == 0 and "runs/walk: 2 episodes" in out and "2/2 episodes | done | won expert 2/2" in err
    code, out, _ = erecap("report", "runs/walk")
    assert code == 0 and "expert" in out and "report: runs/walk/report.html" in out
    assert json.loads(Path("runs/walk/summary.json").read_text())["modes"]["expert"]["episodes"] == 2


def test_compare_plays_reports_and_starts_at_once_when_finished(erecap, walk):
    code, out, _ = erecap("compare", walk, "episodes=1", "--out", "here")
    assert code == 0 and "report: here/report.html" in out
    code, out, err = erecap("compare", walk, "episodes=1", "--out", "here")
    assert code == 0 and "finished already, all 1 episodes are there" in err and "expert" in out
    code, _, err = erecap("compare", walk, "--out", "here")
    assert code == 1 and "error: here: this run was started with config.episodes = 1, now it is null" in err
    assert erecap("rollout", walk, "--out", "here", "--fresh")[0] == 0


def test_a_refused_run_does_not_hold_up_the_corrected_one(erecap, walk):
    code, _, err = erecap("rollout", walk, "modes=full", "model=./no-such-folder", "--out", "refused")
    assert code == 1 and "no-such-folder" in err
    assert json.loads(Path("refused/run.json").read_text())["status"] != "finished"
    assert erecap("rollout", walk, "episodes=1", "--out", "refused")[0] == 0
    head = json.loads(Path("refused/run.json").read_text())
    assert (head["status"], head["config"]["episodes"], head["config"]["modes"]) == ("finished", 1, ["expert"])


def test_workers_mean_processes(erecap, walk):
    assert erecap("rollout", walk, "executor=process", "--workers", "1")[0] == 0
    config = json.loads(Path("runs/walk/run.json").read_text())["config"]
    assert (config["executor"], config["workers"]) == ("serial", 1)


MISTAKES = [
    (["rollout", "nope"], 2, "run 'nope' not found"),
    (["compare", "./nope.yaml"], 2, "nope.yaml: no such run file"),
    (["rollout", "walk.yaml", "prune.keep=3"], 2, "prune.keep: got 3"),
    (["rollout", "walk.yaml", "modes=fly"], 2, "unknown mode 'fly'"),
    (["rollout", "walk.yaml", "moodes=full"], 2, "did you mean 'modes'"),
    (["rollout", "walk.yaml", "modes=full", "model=./no-such-folder"], 1, "no-such-folder"),
    (["rollout", "walk.yaml", "--out", "corridor.yaml"], 1, "cannot be written"),
    (["report", "runs/none"], 1, "no such run folder"),
    (["models", "pull", "gpt-9"], None, "gpt-9"),
    (["games", "household", "--split", "mars", "--count", "1"], 2, "mars"),
    (["games", "household", "--split", "train", "--count", "1", "--task-type", "dance"], 2, "dance"),
]


@pytest.mark.parametrize(("arguments", "expected", "part"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_mistakes_are_one_line(erecap, walk, arguments, expected, part):
    code, _, err = erecap(*arguments)
    complaint = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(complaint) == 1 and part in complaint[0], err
    assert err.endswith(complaint[0] + "\n")
    assert code in (1, 2) if expected is None else code == expected
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [[], ["rollout"], ["rollout", "x", "--bogus"], ["report", "a", "b"], ["fly"]])
def test_wrong_use_is_exit_code_2(erecap, arguments):
    assert erecap(*arguments)[0] == 2


def test_ctrl_c_outside_a_run(erecap, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "app", interrupted)
    code, _, err = erecap("doctor")
    assert (code, err) == (130, "error: interrupted\n")


def test_version(erecap):
    from erecap import __version__

    assert erecap("--version")[:2] == (0, f"erecap {__version__}\n")


def test_models_list(erecap):
    code, out, _ = erecap("models", "list")
    assert code == 0 and "smollm2-135m-instruct" in out


def test_help_imports_nothing_heavy():
    code = (
        "import sys, erecap.cli.main; "
        "print([m for m in ('torch', 'transformers', 'gymnasium', 'pydantic', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.integration
def test_doctor(erecap):
    code, out, _ = erecap("doctor")
    assert code == 0 and "ok" in out
