"""Both training commands from end to end on a tiny model, and a run's session with the result."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from erecap.cli.main import app
from erecap.config.modes import parse_mode
from erecap.config.run import RunConfig
from erecap.errors import ConfigError, ErecapError, ModelError
from erecap.language_models.per_episode import EpisodeSessions
from erecap.rollout.components import RealComponents
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model, start
from tests.training.saliency_data import write_trajectories


def run(*arguments: object) -> str:
    """The output of the command; its error is raised."""
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    model().save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return folder


def test_both_stages_and_a_session_with_the_pruner(tiny_folder: Path, tmp_path: Path) -> None:
    data = write_trajectories(tmp_path / "data", 4)
    labels, out = tmp_path / "labels", tmp_path / "pruner"
    stage_1 = ("saliency", data, "--out", labels, "--model", tiny_folder, "--stages", "2,5", "--threads", 1)
    assert "4 samples" in run(*stage_1)
    assert "4 samples" in run(*stage_1)  # nothing left to do
    stage_2 = ("pruner", labels, "--out", out, "--model", tiny_folder, "--no-task", "--epochs", 1)
    assert "| random |" in run(*stage_2)
    with pytest.raises(ConfigError, match="other labels or settings"):
        run(*stage_2, "--lr", 0.1)
    assert "| random |" in run(*stage_2, "--lr", 0.1, "--fresh")

    settings = {"model": str(tiny_folder), "dtype": "float32", "pruner": str(out), "allow_untested_pruner": True}
    settings |= {"name": "a", "suites": ["household-demo"], "modes": ["erecap", "prune[learned]"], "samples": 0}
    settings |= {"prune": {"stages": [2, 5]}, "threads": 1}
    components = RealComponents(RunConfig.model_validate(settings), {})
    modes = [parse_mode("erecap"), parse_mode("prune[learned]")]
    components.prepare(modes, lambda line: None)
    facts = components.model_facts()
    assert facts is not None and facts["pruner"]["name"] == "pruner" and facts["pruner"]["hash"].startswith("sha256:")
    for mode in modes:
        generation = components.language_model(mode).generate(start(), max_new_tokens=3)
        assert generation.usage.completion_tokens == 3
    sessions = components.language_model(parse_mode("erecap"))
    assert isinstance(sessions, EpisodeSessions)
    session = sessions.session
    assert session.cache.read_scores is not None and session.cache.read_scores.layer in (2, 5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("saliency", "{tmp}/none", "--out", "{tmp}/o"), "no such file or folder"),
        (("saliency", "{tmp}", "--out", "{tmp}/o"), "holds no .jsonl"),
        (("saliency", "{tmp}", "--out", "{tmp}/o", "--stages", "four"), "--stages: got 'four'"),
        (("saliency", "{tmp}", "--out", "{tmp}/o", "--kind", "x"), "kind: got 'x'"),
        (("pruner", "{tmp}", "--out", "{tmp}/o"), "so no labels"),
        (("pruner", "{tmp}", "--out", "{tmp}/o", "--epochs", "0"), "epochs: got 0"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path: Path, tiny_folder: Path, arguments: tuple, words: str) -> None:
    with pytest.raises(ErecapError, match=words):
        run(*(part.format(tmp=tmp_path) for part in arguments), "--model", tiny_folder)


def test_a_run_refuses_a_pruner_of_another_model(tiny_folder: Path, tmp_path: Path) -> None:
    from erecap.tokens.scoring.pruner_files import save_pruner
    from tests.tokens.models import random_pruner

    save_pruner(tmp_path, random_pruner(), {"base": {"hash": "sha256:other"}})
    settings = {"name": "a", "suites": ["household-demo"], "modes": ["erecap"], "model": str(tiny_folder)}
    config = RunConfig.model_validate(settings | {"pruner": str(tmp_path), "dtype": "float32"})
    with pytest.raises(ModelError, match="trained for weights sha256:other with no adapter"):
        RealComponents(config, {}).prepare([parse_mode("erecap")], lambda line: None)
