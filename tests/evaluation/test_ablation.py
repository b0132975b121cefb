"""Ablations on a tiny model in a small text world: variants, what each one does, resuming, tables and plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from erecap.cli.main import app
from erecap.config.load import load_run
from erecap.config.run import RunConfig
from erecap.errors import ConfigError, RunError
from erecap.evaluation.ablation.parts import ageless, played_config, variants_of
from erecap.evaluation.ablation.play import ablate
from erecap.evaluation.ablation.results import merged
from erecap.evaluation.ablation.summary import summarise
from erecap.evaluation.ablation.table import ablation_table, cells_of, screen_table, write_ablation_plot
from erecap.models import fingerprint
from erecap.report.load import load_run_folder
from erecap.tokens.scoring.pruner_files import load_pruner, save_pruner
from tests.bench.test_replan import shown
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model
from tests.tokens.models import random_pruner

MODE = {
    "name": "mine",
    "kv": {"evict": None, "stale_first": True},
    "decode": {"draft": True, "weights": "int8"},
}
PARTS = ["reuse", "stale-first", "learned-rank", "age", "drafts", "constraints", "packed-weights"]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """A run of one mode on a tiny model with a trained pruner, in the small text world."""
    model("llama", 2048).save_pretrained(tmp_path / "model")
    byte_level().save_pretrained(tmp_path / "model")
    pruner = random_pruner()
    pruner.age_weight = torch.tensor(0.5)
    save_pruner(tmp_path / "pruner", pruner, {"base": {"hash": fingerprint(tmp_path / "model")}})
    suite = {"name": "tiny", "env": "tiny", "episodes": 2, "seed": 5, "horizon": 4, "options": {"padding": 30}}
    (tmp_path / "tiny.yaml").write_text(json.dumps(suite))
    run = {
        "name": "t", "suites": [str(tmp_path / "tiny.yaml")], "modes": [MODE], "model": str(tmp_path / "model"),
        "pruner": str(tmp_path / "pruner"), "allow_untested_pruner": True, "dtype": "float32", "device": "cpu",
        "budget": {"kv_tokens": 600}, "planner": {"max_steps": 1, "max_new_tokens": 24}, "episodes": 2,
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    return load_run(tmp_path / "run.yaml")


def quietly(text: str) -> None:
    """Progress that nobody reads."""


def test_every_part_of_the_mode_has_a_variant_without_it(config: RunConfig, tmp_path: Path) -> None:
    found = {variant.name: variant for variant in variants_of(config, tmp_path)}
    assert list(found) == ["all", *(f"without-{part}" for part in PARTS)]
    whole = found["all"].composition
    assert found["without-reuse"].composition == whole == found["without-constraints"].composition
    assert found["without-stale-first"].composition["kv"] == {"evict": None, "stale_first": False}
    assert found["without-learned-rank"].composition["kv"] == {"evict": "recency", "stale_first": True}
    assert found["without-drafts"].composition["decode"] == {"weights": "int8", "draft": False}
    assert found["without-packed-weights"].composition["decode"]["weights"] == "same"
    folder = Path(found["without-age"].composition["kv"]["evict"])
    made = load_pruner(folder, hidden_size=32, layers=8, allow_untested=True)
    before = load_pruner(tmp_path / "pruner", hidden_size=32, layers=8, allow_untested=True)
    assert float(made.age_weight) == 0.0 and float(before.age_weight) == 0.5
    assert all(
        torch.equal(made.state_dict()[name], tensor)
        for name, tensor in before.state_dict().items()
        if name != "age_weight"
    )
    assert [name for name, variant in found.items() if not variant.plays] == ["without-reuse", "without-drafts"]
    some = variants_of(config, tmp_path, only=["drafts"], added={"exit": {"decode": {"exit": {"layer": 4}}}})
    assert [variant.name for variant in some] == ["all", "without-drafts", "with-exit"]
    assert some[2].composition["decode"] == {"weights": "int8", "exit": {"layer": 4}} and not some[2].plays
    lossy = {"exit": {"decode": {"exit": {"layer": 4, "lossless": False}}}}
    assert variants_of(config, tmp_path, only=[], added=lossy)[1].plays
    played = played_config(config, some, "time", episodes=1)
    assert played.modes == ["all", "without-drafts", "with-exit"] and played.budget == config.budget
    assert not played.mode("without-drafts").decode.draft and played.mode("all").decode.weights == "int8"


def test_settings_of_the_run_are_parts_of_the_variants_and_not_of_what_they_are_compared_with(
    config: RunConfig, tmp_path: Path
) -> None:
    decode = {"draft": False}
    text = json.loads((tmp_path / "run.yaml").read_text()) | {"decode_weights": "int8"}
    text["modes"] = [{**MODE, "decode": decode}]
    (tmp_path / "run.yaml").write_text(json.dumps(text))
    variants = variants_of(load_run(tmp_path / "run.yaml"), tmp_path, only=["packed-weights"])
    assert [variant.composition["decode"]["weights"] for variant in variants] == ["int8", "same"]
    played = played_config(load_run(tmp_path / "run.yaml"), variants, "agreement")
    assert played.decode_weights == "same" and played.mode("all").decode.weights == "int8"
    assert played.mode("without-packed-weights").decode.weights == "same"


def test_an_ablation_measures_each_part_and_goes_on(config: RunConfig, tmp_path: Path) -> None:
    some = ["reuse", "learned-rank", "drafts", "constraints"]
    done = ablate(config, tmp_path / "out", quietly, parts=some, timed_episodes=1)
    rows = {row["variant"]: row for row in done["variants"]}
    assert list(rows) == ["all", *(f"without-{part}" for part in some)]
    timed = load_run_folder(tmp_path / "out" / "time")
    calls = {mode: [call for call in timed.replans if call.mode == mode] for mode in rows}
    assert len({len(own) for own in calls.values()}) == 1 and len(calls["all"]) >= 2
    for own, whole in zip(calls["without-reuse"], calls["all"], strict=True):
        # The same chat; one of them reads all of it again.
        assert own.prompt_tokens == whole.prompt_tokens == own.new_tokens and own.plan == whole.plan
    assert calls["all"][-1].new_tokens < calls["all"][-1].prompt_tokens
    assert sum(call.drafted_tokens for call in calls["without-drafts"]) == 0
    assert all(row["calls"] == rows["all"]["calls"] and row["total_ms"] > 0 for row in rows.values())
    assert rows["all"]["over_all"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert rows["all"]["kv_over_all"] == 1.0 and rows["all"]["agreement"]["tokens"] > 10
    assert rows["without-learned-rank"]["agreement"]["episodes"] == 1
    assert rows["without-reuse"]["agreement"] is None is rows["without-reuse"]["success"]
    assert rows["all"]["success"]["episodes"] == 2 and "minus_all" not in rows["all"]["success"]
    assert set(rows["without-constraints"]["success"]["minus_all"]) == {"value", "low", "high"}
    written = [path.read_bytes() for path in sorted((tmp_path / "out").rglob("*.jsonl"))]
    again = ablate(config, tmp_path / "out", quietly, parts=some, timed_episodes=1)
    assert again == done and written == [path.read_bytes() for path in sorted((tmp_path / "out").rglob("*.jsonl"))]
    with pytest.raises(RunError, match=r"agreement\.jsonl: compared without without-stale-first; --fresh compares"):
        more = [*some, "stale-first"]
        ablate(config, tmp_path / "out", quietly, parts=more, timed_episodes=1, steps=("agreement",))
    # Figures of another budget are neither taken nor shown, whatever is measured now.
    other = config.model_copy(update={"budget": config.budget.model_copy(update={"kv_tokens": 500})})
    for steps in (("agreement",), ("time",)):
        with pytest.raises(RunError, match=r"agreement\.jsonl: compared with config \w+, now it is \w+; --fresh"):
            ablate(other, tmp_path / "out", quietly, parts=some, timed_episodes=1, steps=steps)
    (tmp_path / "out" / "agreement.jsonl").unlink()
    with pytest.raises(
        RunError, match=r"time: this run was started with config\.budget\.kv_tokens = 600, now it is 500"
    ):
        ablate(other, tmp_path / "out", quietly, parts=some, timed_episodes=1, steps=("success",))
    about = {"command": "erecap ablate t", "date": "2026-01-31", "model": "tiny", "machine": "a processor"}
    table = ablation_table({**about, **json.loads(json.dumps(done))})
    assert "smoke test" in table and "| `without-reuse` | every call reads the whole chat anew |" in table
    assert "…" not in shown(screen_table(done["variants"]))
    plot = write_ablation_plot(tmp_path / "ablation.svg", done["variants"])
    assert plot is not None and "without-constraints" in plot.read_text()


def test_what_was_not_measured_is_a_dash(config: RunConfig, tmp_path: Path) -> None:
    variants = variants_of(config, tmp_path, only=["drafts"])
    rows = summarise(variants, None, None, tmp_path / "agreement.jsonl")
    assert [row[2:] for row in cells_of(rows)] == [("–",) * 8] * 2
    assert write_ablation_plot(tmp_path / "none.svg", rows) is None and not (tmp_path / "none.svg").exists()
    about = {"command": "erecap ablate", "date": "2026-01-01", "model": "m", "machine": "c"}
    settings = {"suites": ["tiny"], "timed_episodes": 2}
    assert "Success was not played." in ablation_table({**about, "settings": settings, "variants": rows})
    assert ablation_table({}) == "`make ablation`: not measured yet."


def test_times_are_sums_over_the_same_calls(config: RunConfig, tmp_path: Path) -> None:
    from erecap.report.load import Run
    from erecap.report.rows import ReplanRow, RunHead

    def call(mode: str, episode: int, number: int, ms: float) -> ReplanRow:
        return ReplanRow(
            suite="tiny", mode=mode, episode=episode, replan=number, step=0, trigger="start", prompt_tokens=9,
            total_ms=ms, kv_bytes=100 if mode == "all" else 50,
        )  # fmt: skip

    calls = [call("all", 0, 0, 100), call("all", 0, 1, 300), call("all", 1, 0, 200)]
    calls += [call("without-drafts", 0, 0, 200), call("without-drafts", 0, 1, 200), call("without-drafts", 1, 0, 600)]
    calls += [call("without-drafts", 1, 1, 9000)]  # no partner
    head = RunHead(format=1, name="t", status="finished", created="")
    run = Run(tmp_path, head, [], calls, [], 0, 0)
    variants = variants_of(config, tmp_path, only=["drafts"])
    row = summarise(variants, run, None, tmp_path / "agreement.jsonl")[1]
    assert row["over_all"] == {"value": 1000 / 600, "low": 1.0, "high": 3.0} and row["calls"] == 3
    assert row["kv_over_all"] == 0.5 and row["total_ms"] == 200


FIGURES = {
    "calls": 3, "total_ms": 5.0, "prefill_ms": 2.0, "decode_ms": 3.0, "kv_bytes": 8.0, "kv_over_all": 1.0,
    "over_all": {"value": 1.0, "low": 1.0, "high": 1.0},
}  # fmt: skip
NO_TIME = {name: None if value != 3 else 0 for name, value in FIGURES.items()}
WON = {"rate": 0.5, "low": 0.1, "high": 0.9, "episodes": 2}


def figures(**more: Any) -> dict[str, Any]:
    row = {"variant": "all", "part": None, "what": "as it is", "agreement": None, "success": None}
    return {"settings": {"suites": ["tiny"], "timed_episodes": 2, "episodes": 2}, "variants": [row | NO_TIME | more]}


def test_a_results_file_keeps_the_steps_that_another_folder_measured(tmp_path: Path) -> None:
    path = tmp_path / "ablation.json"
    about = {"command": "erecap ablate t", "date": "2026-01-01", "model": "m", "machine": "one"}
    first = merged(figures(**FIGURES), about, path)
    assert first["measured"] == {"time": {"date": "2026-01-01", "machine": "one"}}
    path.write_text(json.dumps(first))
    later = {**about, "date": "2026-01-02", "machine": "other"}
    assert "m, 2026-01-01, one: suites" in ablation_table(merged(figures(), later, path))  # nothing was measured since
    both = merged(figures(success=WON), later, path)
    assert both["variants"] == figures(**FIGURES, success=WON)["variants"]
    assert both["measured"] == first["measured"] | {"success": {"date": "2026-01-02", "machine": "other"}}
    assert "time 2026-01-01, one; success 2026-01-02, other: suites tiny" in ablation_table(both)
    path.write_text(json.dumps(both))
    again = merged(figures(**FIGURES | {"total_ms": 7.0}), later, path)  # what is measured anew is replaced
    assert (again["variants"][0]["total_ms"], again["variants"][0]["success"]) == (7.0, WON)
    for apart in ({**later, "model": "another"}, later):
        found = figures(success=WON)
        found["settings"]["episodes"] = 3 if apart is later else 2
        assert merged(found, apart, path)["variants"][0]["total_ms"] is None
    path.write_text('{"rows": []}')
    with pytest.raises(RunError, match=r"--results: .*ablation\.json holds no ablation; name another file"):
        merged(figures(success=WON), later, path)


def test_what_is_there_is_shown_without_measuring(config: RunConfig, tmp_path: Path) -> None:
    ablate(config, tmp_path / "out", quietly, parts=["drafts"], timed_episodes=1, steps=("success",))
    rows = tmp_path / "out" / "success" / "episodes.jsonl"
    lines = rows.read_text().splitlines(keepends=True)
    assert len(lines) == 2
    rows.write_text(lines[0])
    shown = ablate(config, tmp_path / "out", quietly, parts=["drafts"], timed_episodes=1, steps=())
    assert shown["variants"][0]["success"]["episodes"] == 1 and rows.read_text() == lines[0]
    assert not (tmp_path / "out" / "time").exists()


def test_ageless_keeps_the_card_and_the_heads(config: RunConfig, tmp_path: Path) -> None:
    folder = ageless(str(tmp_path / "pruner"), tmp_path / "ageless")
    card, before = (json.loads((path / "card.json").read_text()) for path in (folder, tmp_path / "pruner"))
    assert card == {**before, "age_weight": 0.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--parts", "sleep"), r"--parts: the mode has no sleep; allowed: reuse, stale-first, learned-rank, age"),
        (("--parts", ""), "--parts: got ''; allowed: names of parts; left out, all that the mode has"),
        (("modes=full",), "modes: got full; allowed: one mode that keeps a session"),
        (("modes=reuse,erecap",), "modes: got reuse, erecap; allowed: one mode"),
        (("--steps", "sing"), "--steps: got 'sing'; allowed: time, agreement, success"),
        (("--with-prune", "best"), "unknown scorer 'best'"),
        (("--show", "--steps", "time"), "--show goes without --steps"),
    ],
)
def test_bad_options_give_one_line(config: RunConfig, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    out = ("--out", str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=message) as error:
        CliRunner().invoke(
            app,
            ["ablate", str(tmp_path / "run.yaml"), *arguments, *out],
            catch_exceptions=False,
            standalone_mode=False,
        )
    assert "\n" not in str(error.value)


def test_changes_without_a_configuration_are_to_the_packaged_one() -> None:
    with pytest.raises(ConfigError, match="modes: got full; allowed: one mode that keeps a session"):
        CliRunner().invoke(app, ["ablate", "modes=full"], catch_exceptions=False, standalone_mode=False)
