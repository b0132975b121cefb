"""Episodes that share forward calls leave the rows of episodes that were played one after the other."""

import json

import pytest
from pydantic import ValidationError
from tinyworld import TinyComponents, tiny_run, tiny_suite

from erecap.errors import ModelError
from erecap.rollout.components import RealComponents
from erecap.rollout.run import run
from tests.training.chatworld import save_model

MODES = ["reuse", "erecap", "recency", "random", "attention", "mask", "expert"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_model(tmp_path_factory.mktemp("model")))


def play(folder, quiet, model, *, components=RealComponents, **changes):
    settings = {
        "model": model,
        "modes": MODES,
        "samples": 0,
        "budget": {"kv_tokens": 300},
        "planner": {"max_new_tokens": 24, "constrained": True, "max_steps": 2},
        **changes,
    }
    suite = tiny_suite(horizon=6, disturbances={"slip": 0.2}, options={"broken": [1]})
    return run(tiny_run(**settings), folder, suites={"tiny": suite}, open_components=components, console=quiet)


def test_rows_equal_serial_rows(tmp_path, quiet, rows_of, model, monkeypatch):
    pools = []
    real = RealComponents.pool

    def pool(self):
        pools.append(real(self))
        return pools[-1]

    monkeypatch.setattr(RealComponents, "pool", pool)
    play(tmp_path / "serial", quiet, model)
    assert not pools
    result = play(tmp_path / "batch", quiet, model, batch=3)
    assert result.status == "finished"
    assert rows_of(tmp_path / "batch", sort=True) == rows_of(tmp_path / "serial", sort=True)
    [counts] = [made.counts for made in pools]
    assert counts.retries == 0 and counts.forwards < 0.7 * counts.requests
    row = json.loads((tmp_path / "batch" / "episodes.jsonl").read_text().splitlines()[-1])
    assert row["contended"] is True


def test_a_run_goes_on_with_another_batch(tmp_path, quiet, rows_of, model):
    play(tmp_path / "whole", quiet, model, modes=["reuse", "expert"])

    class Stopping(RealComponents):
        calls = 0

        def planner(self, mode, *, trace):
            Stopping.calls += 1
            if Stopping.calls == 5:
                raise KeyboardInterrupt
            return super().planner(mode, trace=trace)

    stopped = play(tmp_path / "parts", quiet, model, modes=["reuse", "expert"], batch=2, components=Stopping)
    assert stopped.status == "interrupted" and 0 < stopped.episodes < stopped.total
    assert play(tmp_path / "parts", quiet, model, modes=["reuse", "expert"], batch=4).status == "finished"
    assert rows_of(tmp_path / "parts", sort=True) == rows_of(tmp_path / "whole", sort=True)


def test_an_error_of_one_ends_the_run_and_keeps_its_rows(tmp_path, quiet, model):
    class Failing(RealComponents):
        calls = 0

        def planner(self, mode, *, trace):
            Failing.calls += 1
            if Failing.calls == 4:
                raise ModelError("the weights are gone")
            return super().planner(mode, trace=trace)

    with pytest.raises(ModelError, match="the weights are gone"):
        play(tmp_path, quiet, model, modes=["reuse"], batch=2, components=Failing)
    rows = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert rows and json.loads((tmp_path / "run.json").read_text())["status"] == "interrupted"


def test_without_a_model_there_is_nothing_to_share(tmp_path, quiet, rows_of):
    class Alone(TinyComponents):
        def pool(self):
            return None

        def twin(self):
            return type(self)(self.config, {})

    for batch in (1, 3):
        suites = {"tiny": tiny_suite()}
        config = tiny_run(modes=["expert"], batch=batch)
        run(config, tmp_path / str(batch), suites=suites, open_components=Alone, console=quiet)
    assert rows_of(tmp_path / "3", sort=True) == rows_of(tmp_path / "1", sort=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modes": ["full"]}, "got 2 with mode full; allowed with a batch: reuse, erecap"),
        ({"modes": ["reuse"], "executor": "process"}, "got 2 with executor process; allowed: 1, or serial"),
        ({"modes": ["reuse"], "schedule": {}}, "got 2 with a schedule; allowed: 1"),
    ],
)
def test_what_cannot_be_played_together_is_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        tiny_run(batch=2, **changes)
