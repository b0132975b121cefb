"""Planners, scorers and environments from an installed package, named in a configuration."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.context.small_tokenizers import byte_level
from tests.session.chats import model

ROOT = Path(__file__).parents[2]

CODE = '''
"""A corridor with one door, a planner that opens it, a scorer, and an engine."""

from typing import Any

import gymnasium as gym
from pydantic import BaseModel, ConfigDict

from erecap.engines.transformers import TransformersEngine
from erecap.planners.llm import LLMPlanner
from erecap.protocols import Plan
from erecap.registries import EnvEntry


class CorridorOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    length: int = 2


class CorridorEnv(gym.Env):
    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, options, *, seed, episodes, expert=False, render_mode=None):
        self.options, self.render_mode = options, render_mode
        self.action_space = self.observation_space = gym.spaces.Text(10_000)

    def reset(self, *, seed=None, options=None):
        self.at = 0
        return self.observe_again()

    def step(self, command):
        self.at += command == "walk"
        text, info = self.observe_again()
        return text, float(info["success"]), info["success"], False, info

    def observe_again(self):
        text = f"You are at metre {self.at}. " + "The wall is white. " * 20
        return text, {
            "goal": "Reach the end.", "skills": ["walk", "wait"], "templates": [], "entities": {}, "subject": "",
            "failed": False, "failure": "", "events": [], "success": self.at >= self.options.length, "progress": 0.0,
            "path_length": float(self.at), "expert_path_length": float(self.options.length),
            "expert_steps": self.options.length, "path_unit": "m",
        }


CORRIDOR = EnvEntry("corridor_plugin:CorridorOptions", "corridor_plugin:CorridorEnv", "corridor")


class NormScorer:
    """Tokens with long hidden states score higher."""

    needs_attention = False
    calls = 0

    def score(self, layer, hidden, ctx):
        NormScorer.calls += 1
        return hidden.norm(dim=-1)


class CountingEngine(TransformersEngine):
    """The engine of transformers, which counts the tokens that it prefills."""

    prefilled = 0

    def read(self, ids, between_chunks=None, **options):
        CountingEngine.prefilled += len(ids)
        return super().read(ids, between_chunks, **options)


class Walker:
    """Asks the model, and walks whatever it says."""

    def __init__(self, settings, model):
        self.asks = LLMPlanner(model, max_steps=settings.max_steps, max_new_tokens=settings.max_new_tokens)

    def plan(self, context):
        said = self.asks.plan(context)
        return Plan(("walk",), "walk", None, said.generation)
'''

ENTRY_POINTS = """
[erecap.engines]
counting = corridor_plugin:CountingEngine

[erecap.environments]
corridor = corridor_plugin:CORRIDOR

[erecap.planners]
walker = corridor_plugin:Walker

[erecap.scorers]
norm = corridor_plugin:NormScorer
"""

PLAY = """
import json, sys
from pathlib import Path

from erecap.config import load_run, load_suites
from erecap.engines import ENGINES
from erecap.planners import PLANNERS
from erecap.rollout.run import run
from erecap.tokens import SCORERS

config = load_run("./run.yaml")
done = run(config, Path("out"))
import corridor_plugin

print(json.dumps({
    "status": done.status,
    "modes": config.modes,
    "planners": list(PLANNERS),
    "scorers": list(SCORERS),
    "scored": corridor_plugin.NormScorer.calls,
    "engines": list(ENGINES),
    "prefilled": corridor_plugin.CountingEngine.prefilled,
}))
"""

RUN = """
name: plugged
suites: [./corridor.yaml]
modes:
  - prune[norm]
  - erecap
  - {name: narrow, kv: {evict: recency}, prune: norm}
  - {name: counted, kv: reuse, engine: counting}
model: MODEL
dtype: float32
device: cpu
threads: 1
samples: 0
prune: {stages: [2, 4], keep: 0.5}
budget: {kv_tokens: 150}
planner: {name: walker, max_new_tokens: 12, constrained: true}
"""
SUITE = "name: corridor\nenv: corridor\noptions: {length: 3}\nepisodes: 1\nhorizon: 9\n"


def build_wheel(folder: Path) -> Path:
    """A wheel with the module and its entry points, as any build tool writes them."""
    info = "corridor_plugin-1.0.dist-info"
    files = {
        "corridor_plugin.py": CODE,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: corridor-plugin\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": ENTRY_POINTS,
    }
    record = [f"{name},sha256={_digest(text)},{len(text.encode())}" for name, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    wheel = folder / "corridor_plugin-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with the plug-in in it, unpacked from its wheel as an installer does."""
    place = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(build_wheel(tmp_path_factory.mktemp("dist"))) as archive:
        archive.extractall(place)
    return place


def python(code: str, folder: Path, packages: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_run_with_what_another_package_brings(installed: Path, tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "tiny")
    byte_level().save_pretrained(tmp_path / "tiny")
    (tmp_path / "run.yaml").write_text(RUN.replace("MODEL", str(tmp_path / "tiny")))
    (tmp_path / "corridor.yaml").write_text(SUITE)
    done = python(PLAY, tmp_path, installed)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["status"] == "finished" and told["modes"] == ["prune[norm]", "erecap", "narrow", "counted"]
    assert "walker" in told["planners"] and "norm" in told["scorers"] and told["scored"] > 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "episodes.jsonl").read_text().splitlines()]
    assert [(row["mode"], row["env"], row["success"], row["steps"]) for row in rows] == [
        (mode, "corridor", True, 3) for mode in told["modes"]
    ]
    calls = [json.loads(line) for line in (tmp_path / "out" / "replans.jsonl").read_text().splitlines()]
    last = {call["mode"]: call for call in calls}
    assert min(last["prune[norm]"]["kept_per_layer"]) < last["prune[norm]"]["prompt_tokens"]
    assert last["prune[norm]"]["decision"] == "prune" and last["narrow"]["decision"] == "append"
    assert last["narrow"]["reused_tokens"] and max(last["narrow"]["kept_per_layer"]) < last["narrow"]["prompt_tokens"]
    assert "counting" in told["engines"]
    # One warm-up call before the episode is in the count, and in no row.
    assert told["prefilled"] > sum(call["new_tokens"] for call in calls if call["mode"] == "counted") > 0
    head = json.loads((tmp_path / "out" / "run.json").read_text())["config"]
    assert head["planner"]["name"] == "walker" and head["compositions"]["narrow"]["prune"] == "norm"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("name: walker", "name: runner"), "'runner' is not a planner; allowed: cooperative, llm, walker"),
        (("prune[norm]", "prune[form]"), "unknown scorer 'form' in mode 'prune[form]'; allowed: attention, norm"),
    ],
)
def test_names_of_other_packages_are_told(installed: Path, tmp_path: Path, change: tuple[str, str], words: str) -> None:
    (tmp_path / "run.yaml").write_text(RUN.replace(*change))
    (tmp_path / "corridor.yaml").write_text(SUITE)
    done = python("from erecap.config import load_run; load_run('./run.yaml')", tmp_path, installed)
    assert words in done.stderr.splitlines()[-1]


def test_they_are_registered_at_run_time_as_well() -> None:
    code = """
from erecap import envs, planners, tokens
from erecap.registries import EnvEntry

planners.register("mine", "somewhere:Planner")
tokens.register("mine", "somewhere:Scorer")
envs.register("mine", EnvEntry("somewhere:Options", "somewhere:Env", "somewhere"))
from erecap.config import PlannerSettings, parse_mode

assert PlannerSettings(name="mine").name == "mine" and parse_mode("prune[mine]").prune == "mine"
from erecap.errors import ConfigError

try:
    planners.register("llm", "somewhere:Planner")
except ConfigError as error:
    print(error)
"""
    done = python(code, ROOT, ROOT)
    assert done.stdout == "planner 'llm' is registered already\n", done.stderr
