"""A run goes on from committed rows, and refuses those of another configuration."""

import json
from pathlib import Path

import pytest
from tinyworld import FailingComponents, TinyComponents, tiny_run, tiny_suite

from erecap.errors import RunError
from erecap.evaluation import results_file
from erecap.evaluation.results_file import CommittedRows, read_rows
from erecap.rollout.run import run
from erecap.rollout.run_folder.identity import budget_of

SUITES = {"tiny": tiny_suite()}


@pytest.fixture(autouse=True)
def weights(monkeypatch):
    """The scripted planner has no weights; a test may say which it has."""
    known = {"model": "aaaa", "adapter": None, "pruner": None}
    monkeypatch.setattr(results_file, "weights_of", lambda config: known)
    return known


def play(config, folder, quiet, **options):
    return run(config, folder, suites=SUITES, open_components=TinyComponents, console=quiet, **options)


def without_times(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture
def whole(tmp_path, quiet):
    """A run that was played as a whole, and its rows."""
    play(tiny_run(), tmp_path / "whole", quiet)
    path = tmp_path / "rows.jsonl"
    assert CommittedRows(path, tiny_run(), SUITES).export_from(tmp_path / "whole") == 12
    return path


def test_rows_say_what_was_played(whole):
    rows = read_rows(whole)
    assert [(row["mode"], row["episode"]) for row in rows[:5]] == [("expert", n) for n in range(4)] + [("full", 0)]
    assert {row["config"] for row in rows if row["mode"] == "full"}.isdisjoint(r["config"] for r in rows[:4])
    assert all(row["end"] == "success" and row["success"] and row["spl"] > 0 for row in rows[:4])
    assert rows[4]["model"] == "aaaa" and rows[0]["model"] is None and rows[4]["budget"] is None


def test_a_fresh_clone_plays_only_what_is_missing(whole, tmp_path, quiet):
    lines = whole.read_text().splitlines(keepends=True)
    every = without_times(read_rows(whole))
    whole.write_text("".join(lines[:5] + lines[9:]))
    state = CommittedRows(whole, tiny_run(), SUITES)
    assert state.import_into(tmp_path / "clone") == 8
    assert state.import_into(tmp_path / "clone") == 0
    result = play(tiny_run(), tmp_path / "clone", quiet)
    assert (result.played, result.episodes) == (4, 12)
    assert state.export_from(tmp_path / "clone") == 4
    assert without_times(read_rows(whole)) == every


def test_nothing_is_loaded_where_nothing_is_missing(whole, tmp_path, quiet):
    CommittedRows(whole, tiny_run(), SUITES).import_into(tmp_path / "clone")
    result = run(tiny_run(), tmp_path / "clone", suites=SUITES, open_components=FailingComponents, console=quiet)
    assert (result.status, result.played) == ("finished", 0)


def test_imported_rows_can_be_reported(whole, tmp_path, quiet):
    from erecap.report.load import load_run_folder
    from erecap.report.page.summary import summarise

    CommittedRows(whole, tiny_run(), SUITES).import_into(tmp_path / "clone")
    run(tiny_run(), tmp_path / "clone", suites=SUITES, open_components=FailingComponents, console=quiet)
    one, other = (summarise(load_run_folder(tmp_path / name)) for name in ("clone", "whole"))
    assert one["paired"] == other["paired"]
    assert one["suites"] == other["suites"]


def test_more_episodes_modes_or_workers_are_no_other_configuration(whole, tmp_path):
    more = tiny_run(modes=["expert", "full"], executor="process", workers=2)
    assert CommittedRows(whole, more, {"tiny": tiny_suite(episodes=9)}).import_into(tmp_path / "more") == 8


@pytest.mark.parametrize(
    ("changes", "suite", "field"),
    [
        ({"planner": {"max_steps": 2}}, {}, "config"),
        ({"prune": {"keep": 0.5}}, {}, "config"),
        ({}, {"horizon": 9}, "config"),
        ({}, {"seed": 6}, "config"),
    ],
)
def test_rows_of_another_configuration_are_refused(whole, changes, suite, field):
    with pytest.raises(RunError, match=rf"rows\.jsonl:\d+: tiny in mode .* was played with {field} .*--fresh"):
        CommittedRows(whole, tiny_run(**changes), {"tiny": tiny_suite(**suite)})


@pytest.mark.parametrize("field", ["model", "adapter"])
def test_rows_of_other_weights_are_refused(whole, weights, field):
    weights[field] = "bbbb"
    with pytest.raises(RunError, match=f":5: tiny in mode full was played with {field} .*, now it is bbbb"):
        CommittedRows(whole, tiny_run(), SUITES)


def test_fresh_replaces_the_rows_of_the_configuration_and_no_others(whole, tmp_path, quiet):
    only = tiny_run(modes=["full"], planner={"max_invalid": 1})
    state = CommittedRows(whole, only, SUITES, fresh=True)
    play(only, tmp_path / "anew", quiet, fresh=True)
    assert state.export_from(tmp_path / "anew") == 4
    assert len(read_rows(whole)) == 12
    CommittedRows(whole, only, SUITES)


def test_processes_that_share_the_file_keep_each_others_rows(whole, tmp_path, quiet):
    every = without_times(read_rows(whole))
    lines = whole.read_text().splitlines(keepends=True)
    modes = sorted({row["mode"] for row in every})
    whole.write_text(lines[0])
    states = [(CommittedRows(whole, tiny_run(modes=[mode]), SUITES), mode) for mode in modes]
    for state, mode in states:  # each has read the file when it had one row
        play(tiny_run(modes=[mode]), tmp_path / mode, quiet)
        state.export_from(tmp_path / mode)
    assert without_times(read_rows(whole)) == every
    anew = CommittedRows(whole, tiny_run(modes=modes[:1]), SUITES, fresh=True)
    whole.write_text("".join(lines[:9]))  # another process has dropped some of its own
    anew.export_from(tmp_path / modes[0])
    assert without_times(read_rows(whole)) == every[:9]


def test_a_row_that_another_configuration_has_written_meanwhile_is_refused(whole, tmp_path, quiet):
    before = whole.read_bytes()
    whole.unlink()
    state = CommittedRows(whole, tiny_run(), SUITES)
    whole.write_bytes(before.replace(b'"aaaa"', b'"bbbb"'))
    there = whole.read_bytes()
    with pytest.raises(RunError, match="model bbbb, now it is aaaa"):
        state.export_from(tmp_path / "whole")
    assert whole.read_bytes() == there


def test_a_pruner_concerns_the_modes_that_rank_by_it(weights, monkeypatch):
    def identities(pruner):
        weights["pruner"] = pruner
        config = tiny_run(modes=["erecap", "recency", "reuse", "expert"])
        return CommittedRows(Path("none.jsonl"), config, SUITES).identities

    one, other = identities("cccc"), identities("dddd")
    assert [mode for (_, mode), identity in one.items() if other["tiny", mode] != identity] == ["erecap"]


def test_the_budget_is_part_of_the_key(tmp_path):
    config = tiny_run(modes=["reuse", "mask", "erecap"], budget={"kv_tokens": 512})
    assert [budget_of(config, mode) for mode in config.modes] == [None, 512, 512]
    half, whole = (
        CommittedRows(tmp_path / "none", tiny_run(modes=["reuse", "erecap"], budget={"kv_tokens": n}), SUITES)
        for n in (512, 1024)
    )
    same = [mode for (_, mode), identity in half.identities.items() if whole.identities["tiny", mode] == identity]
    assert same == ["reuse"]  # which has no budget
    assert half.digest != whole.digest


def test_the_automatic_budget_has_rows_of_its_own_beside_fixed_ones(whole, tmp_path, quiet):
    before = whole.read_bytes()
    for budget in (512, "auto"):
        config = tiny_run(modes=["erecap"], budget={"kv_tokens": budget})
        play(config, tmp_path / f"{budget}", quiet)
        assert CommittedRows(whole, config, SUITES).export_from(tmp_path / f"{budget}") == 4
    rows = read_rows(whole)
    assert [row["budget"] for row in rows if row["mode"] == "erecap"] == [512] * 4 + ["auto"] * 4
    assert len({row["config"] for row in rows if row["mode"] == "erecap"}) == 2
    assert all(row["dropping"] == 0 for row in rows if row["mode"] == "erecap")  # the scripted planner drops nothing
    assert set(before.splitlines()) <= set(whole.read_bytes().splitlines())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: [*lines, lines[0]], ":13: episode 0 of tiny in mode expert is there twice"),
        (lambda lines: ["{oops\n", *lines], ":1: the row is damaged"),
        (lambda lines: ["[]\n", *lines], ":1: the row is damaged"),
        (lambda lines: [json.dumps({"suite": "tiny"}) + "\n"], ":1: the row lacks mode, budget, episode"),
    ],
)
def test_damage_is_told(whole, damage, message):
    whole.write_text("".join(damage(whole.read_text().splitlines(keepends=True))))
    with pytest.raises(RunError, match=message):
        CommittedRows(whole, tiny_run(), SUITES)
