"""`erecap tune stages` as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from erecap.cli.main import app
from erecap.errors import ConfigError, ModelError, RunError
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model
from tests.tuning.histories import write


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A tiny model in a folder, and histories."""
    place = tmp_path_factory.mktemp("setting")
    model().save_pretrained(place / "tiny")
    byte_level().save_pretrained(place / "tiny")
    return [
        *("--model", str(place / "tiny"), "--histories", str(write(place / "histories")), "--dtype", "float32"),
        *("--length", "150", "--samples", "2", "--repetitions", "1", "--threads", "1"),
    ]


def stages(*arguments: str) -> str:
    """The output of the command; its error is raised."""
    runner = CliRunner()
    return runner.invoke(app, ["tune", "stages", *arguments], catch_exceptions=False, standalone_mode=False).stdout


def test_it_chooses_and_says_what_to_write(setting: list[str], tmp_path: Path) -> None:
    said = stages(*setting, "--budget-evals", "5", "--scorer", "recency", "--out", str(tmp_path))
    assert "measured speed-up" in said and "counted FLOPs" in said
    start = said.index("modes:")
    lines = yaml.safe_load(said[start : said.index("results:")])
    content = json.loads((tmp_path / "stages.json").read_text())
    assert lines == {
        "modes": ["full", "prune[recency]"],
        "prune": {"keep": 0.7, "stages": content["chosen"]["stages"]},
    }
    assert content["model"]["name"] == "tiny" and str(tmp_path) not in (tmp_path / "stages.json").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {f"stages.{kind}" for kind in ("json", "jsonl", "md", "svg")}


def test_a_wish_that_cannot_be_met_ends_with_an_error_after_the_results_were_written(
    setting: list[str], tmp_path: Path
) -> None:
    sets = ["--candidates", "1:8:1", "--keep", "0.1", "--scorer", "random", "--least-agreement", "1"]
    with pytest.raises(
        RunError, match=r"no stage set agrees on 100 % of the plan tokens; the nearest has .* \(1:8:1\)"
    ):
        stages(*setting, *sets, "--out", str(tmp_path))
    assert json.loads((tmp_path / "stages.json").read_text())["chosen"] is None


def test_a_trained_pruner_is_tried_at_its_own_layers(setting: list[str], tmp_path: Path) -> None:
    from erecap.models import fingerprint
    from erecap.tokens.scoring.learned import Pruner
    from erecap.tokens.scoring.pruner_files import save_pruner

    folder, out = tmp_path / "pruner", str(tmp_path / "out")
    tested = {"rankers": {"learned": {"kl": 0.1}, "random": {"kl": 0.2}}}
    save_pruner(folder, Pruner(32, (2, 4, 5)), {"base": {"hash": fingerprint(Path(setting[1]))}, "test": tested})
    asked = [*setting, "--pruner", str(folder), "--out", out, "--budget-evals", "9"]
    said = stages(*asked)
    assert f"pruner: {json.dumps(str(folder))}" in said and "prune[learned]" in said
    tried = [set(row["stages"]) for row in json.loads((tmp_path / "out" / "stages.json").read_text())["candidates"]]
    assert 1 < len(tried) <= 7 and all(one <= {2, 4, 5} for one in tried)
    with pytest.raises(ConfigError, match="stage at layer 3 cannot be tried; allowed layers: 2, 4, 5"):
        stages(*asked[:-2], "--candidates", "2,3")
    save_pruner(folder, Pruner(32, (2, 4, 5)), {"base": {"hash": fingerprint(Path(setting[1]))}, "test": tested})
    with pytest.raises(RunError, match=r"tried with pruner '[0-9a-f]{16}', here it is"):  # other weights
        stages(*asked)
    save_pruner(folder, Pruner(32, (2, 4, 5)), {"base": {"hash": fingerprint(Path(setting[1]))}})
    with pytest.raises(ModelError, match="its card shows no test"):
        stages(*asked)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scorer", "learned"), "--scorer learned and --pruner FOLDER go together"),
        (("--scorer", "recency", "--pruner", "x"), "--scorer learned and --pruner FOLDER go together"),
        (("--keep", "1.2"), "--keep: got 1.2; allowed: above 0 and at most 1"),
        (("--scorer", "luck"), "--scorer: got 'luck'"),
        (("--candidates", "4,x"), "--candidates: got '4,x'"),
        (("--candidates", "4", "--budget-evals", "3"), "exclude each other"),
        (("--candidates", "4,30"), "stage at layer 30 cannot be tried; allowed layers: 1 to 7"),
        (("--length", "3000"), "no planning call with 3000 tokens or more"),
        (("--histories", "nowhere"), "nowhere: holds no meta.json"),
    ],
)
def test_bad_options_give_one_line(
    setting: list[str], arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        stages(*setting, "--out", str(tmp_path / "out"), *arguments)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
