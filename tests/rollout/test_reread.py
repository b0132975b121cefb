"""Runs that measure re-reading beside a mode, suites that begin late, and the time that other programs take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console
from tinyworld import TinyComponents, tiny_run, tiny_suite

from erecap.config.modes import Mode
from erecap.config.suite import Suite
from erecap.language_models.reread import RereadBeside
from erecap.language_models.scripted import ScriptedModel
from erecap.planners.llm import LLMPlanner
from erecap.protocols import Planner
from erecap.report.load import load_run_folder
from erecap.rollout.jobs import all_jobs, episode_seed
from erecap.rollout.run import run
from erecap.rollout.run_folder.busy import BusyBeside
from erecap.rollout.run_folder.identity import identity_of

REREAD = {"mode": "reuse", "every": 2}


class BesideComponents(TinyComponents):
    """Makes the calls of the mode that the run names once more; the answers to those differ from the third on."""

    def planner(self, mode: Mode, *, trace: bool) -> Planner:
        reread = self.config.reread
        if reread is None or mode.name != reread.mode:
            return super().planner(mode, trace=trace)
        answers = ScriptedModel(lambda messages: self.answer(mode, messages))
        again = ScriptedModel(lambda messages: self.answer(mode, messages) + " !" * (len(messages) > 4))
        return LLMPlanner(RereadBeside(answers, again, reread.every), constrained=False)


def play(folder: Path, quiet: Console, **changes: Any) -> Any:
    config = tiny_run(modes=["reuse", "full"], **changes)
    suites = {"tiny": tiny_suite(episodes=2)}
    return run(config, folder, suites=suites, open_components=BesideComponents, console=quiet)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "replans.jsonl").read_text().splitlines()]


def test_rows_say_what_reading_again_took_and_whether_it_planned_the_same(tmp_path: Path, quiet: Console) -> None:
    play(tmp_path / "run", quiet, reread=REREAD)
    found = rows(tmp_path / "run")
    measured = [row for row in found if row["reread"]]
    assert measured and all(row["mode"] == "reuse" and row["replan"] % 2 == 0 for row in measured)
    assert {row["reread"]["same"] for row in measured} == {True, False}
    for row in measured:
        assert set(row["reread"]) == {"new_tokens", "prefill_ms", "decode_ms", "total_ms", "same"}
        assert row["reread"]["new_tokens"] == row["prompt_tokens"]
    read = [call.reread for call in load_run_folder(tmp_path / "run").replans]
    assert [again is not None for again in read] == [row["reread"] is not None for row in found]


def test_it_changes_nothing_else(tmp_path: Path, quiet: Console, rows_of: Any) -> None:
    play(tmp_path / "with", quiet, reread=REREAD)
    play(tmp_path / "without", quiet)
    (with_episodes, with_calls), (episodes, calls) = rows_of(tmp_path / "with"), rows_of(tmp_path / "without")
    assert with_episodes == episodes
    assert [row | {"reread": None} for row in with_calls] == calls
    plain, measured = tiny_run(modes=["reuse"]), tiny_run(modes=["reuse"], reread=REREAD)
    one, other = (identity_of(config, tiny_suite(), config.mode("reuse"), {}) for config in (plain, measured))
    assert one == other


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reread": {"mode": "full", "every": 2}}, "reread.mode: got 'full'; allowed: reuse, erecap"),
        ({"reread": {"mode": "mask", "every": 2}}, "reread.mode: got 'mask'; allowed: reuse, erecap"),
        ({"reread": {"mode": "recency", "every": 2}}, "reread.mode: got 'recency'; allowed: reuse, erecap"),
        ({"modes": ["full"], "reread": REREAD}, "none of this run's modes keeps a session of the whole chat"),
        ({"modes": ["reuse"], "reread": REREAD, "batch": 2}, "measured alone, and batch is 2; allowed: 1"),
        ({"reread": {"mode": "reuse", "every": 0}}, "greater than or equal to 1"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as error:
        tiny_run(**{"modes": ["full", "reuse", "erecap", "mask"], **changes})
    assert words in str(error.value)


def test_a_suite_may_begin_late(tmp_path: Path, quiet: Console) -> None:
    late = tiny_suite(first=3, episodes=2)
    jobs = all_jobs({"tiny": late}, ["full"], samples=1)
    assert [(job.episode, job.seed, job.sample) for job in jobs] == [
        (3, episode_seed(5, 3), True), (4, episode_seed(5, 4), False),
    ]  # fmt: skip
    for folder, suite in (("late", late), ("all", tiny_suite(episodes=5))):
        config = tiny_run(modes=["full"])
        run(config, tmp_path / folder, suites={"tiny": suite}, open_components=TinyComponents, console=quiet)
    read = {folder: load_run_folder(tmp_path / folder).episodes for folder in ("late", "all")}
    played, every = ([(row.episode, row.goal, row.steps, row.success) for row in read[name]] for name in read)
    assert played == every[3:]
    config = tiny_run(modes=["full"])
    one, other = (identity_of(config, suite, config.mode("full"), {}) for suite in (late, tiny_suite()))
    assert one == other


def test_suites_from_before_stay_the_same() -> None:
    plain = tiny_suite()
    assert "first" not in plain.model_dump(mode="json") and tiny_suite(first=2).model_dump(mode="json")["first"] == 2
    assert Suite.model_validate(tiny_suite(first=2).model_dump(mode="json")).numbers == range(2, 6)


def counters(folder: Path, user: int, idle: int) -> Path:
    """The kernel's counters, in hundredths of a second, for as many cores as this process may use."""
    import os

    cores = [f"cpu{number} 0 0 0 0 0 0 0 0 0 0" for number in range(len(os.sched_getaffinity(0)))]
    path = folder / "stat"
    path.write_text("\n".join([f"cpu  {user} 0 0 {idle} 0 0 0 0 {user} 0", *cores, "intr 1"]) + "\n")
    return path


def test_other_programs_are_what_was_busy_less_this_process(tmp_path: Path) -> None:
    ticks = 100_000_000  # far more than this process takes within the test
    beside = BusyBeside(counters(tmp_path, 0, 0))
    counters(tmp_path, ticks, 5 * ticks)
    much = beside.cores()
    counters(tmp_path, 0, 9 * ticks)
    assert much is not None and much > 0 and beside.cores() == 0.0


def test_nobody_knows_where_the_kernel_does_not_tell(tmp_path: Path) -> None:
    assert BusyBeside(tmp_path / "missing").cores() is None
    path = counters(tmp_path, 0, 0)
    path.write_text(path.read_text() + "".join(f"cpu{number} 0 0 0 0 0 0 0 0 0 0\n" for number in range(900, 964)))
    assert BusyBeside(path).cores() is None  # other cores than ours are among them


def test_the_head_of_a_run_has_it(tmp_path: Path, quiet: Console) -> None:
    play(tmp_path / "one", quiet)
    assert "busy_beside" in json.loads((tmp_path / "one" / "run.json").read_text())["machine"]
    play(tmp_path / "two", quiet, executor="process", workers=2)
    assert "busy_beside" not in json.loads((tmp_path / "two" / "run.json").read_text())["machine"]
