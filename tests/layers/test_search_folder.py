"""The result of a search on disk: resumed after a kill at every step, replayed by any prefix, refused when damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from erecap.errors import ConfigError, ModelError, RunError
from erecap.layers import LayerPlan, apply, load_plan, save_plan
from erecap.layers.identity import base_of
from erecap.layers.search import Search, SearchFolder, Target, find
from erecap.layers.search.folder import Row
from erecap.layers.search.held_out import HeldOut
from tests.layers.plans import logits, own
from tests.layers.search_models import LATENCIES, rows_of, search_of, sequences
from tests.tokens.models import LAYERS, prompt

IDS = prompt(40)["input_ids"]
JUDGES = sequences(2, 16, seed=9)
METHODS = {"sprint": 5, "sleb": 4, "random": 3}  # sublayers that are removed in the test of kills


class Killed(BaseException):
    pass


def head(model: Any, method: str) -> dict[str, Any]:
    return {
        "base": vars(base_of(model)),
        "layers": LAYERS,
        "dtype": "float32",
        "method": method,
        "options": {},
        "seed": 0,
        "calibration": {"digest": "0123"},
        "held_out": {"digest": "4567"},
        "evaluate_every": 2,
    }


def run(
    place: Path, method: str, sublayers: int, kill_at: int | None = None, model: Any = None, **options: Any
) -> Search:
    """A search up to a target; killed just after it has told of a step."""
    model = model or own()
    folder = SearchFolder(place)
    folder.begin(head(model, method), lambda: dict(LATENCIES))
    search = search_of(model, ids=sequences(4, 12), **options)

    def say(text: str) -> None:
        if kill_at is not None and text.startswith(f"{kill_at}:"):
            raise Killed

    judge = HeldOut(model, JUDGES)
    find(search, method, folder, Target(sublayers), held_out=judge, every=2, say=say)
    return search


@pytest.mark.parametrize("method", METHODS)
def test_a_kill_at_every_step_ends_with_the_same_file(method: str, tmp_path: Path) -> None:
    target = METHODS[method]
    search = run(tmp_path / "whole", method, target)
    whole, steps = rows_of(tmp_path / "whole"), len(search.steps)
    for kill in range(1, steps + 1):
        with pytest.raises(Killed):
            run(tmp_path / "cut", method, target, kill)
        path = tmp_path / "cut" / "search.jsonl"
        path.write_bytes(path.read_bytes() + b'{"step": 99, "rem')  # a row that was being written
    again = run(tmp_path / "cut", method, target)
    assert rows_of(tmp_path / "cut") == whole and len(whole) == 2 + steps
    for path in (tmp_path / "whole").glob("step-*"):
        assert (tmp_path / "cut" / path.name).read_bytes() == path.read_bytes()
    assert torch.equal(logits(again.thin, IDS), logits(search.thin, IDS))
    assert bool(list((tmp_path / "whole").glob("step-*"))) == (method == "sprint")
    # A further target goes on from there.
    run(tmp_path / "cut", method, target + 2)
    assert rows_of(tmp_path / "cut")[: len(whole)] == whole and len(rows_of(tmp_path / "cut")) > len(whole)


def test_rows_say_what_was_done(tmp_path: Path) -> None:
    model = own()
    search = run(tmp_path, "sprint", 3, model=model)
    rows = rows_of(tmp_path)
    assert rows[0]["latencies"]["decode"]["mlp"] == 0.4 and rows[1]["step"] == 0
    assert rows[1]["evaluation"]["agreement"] == 1.0 and rows[1]["predicted"] == {"decode": 1.0, "prefill": 1.0}
    assert "evaluation" not in rows[2] and 0 < rows[3]["evaluation"]["agreement"] < 1
    for number, row in enumerate(rows[2:], start=1):
        plan = SearchFolder.open(tmp_path).plan(number)
        assert row["predicted"] == {phase: latency.speed_up(plan) for phase, latency in LATENCIES.items()}
        assert row["evaluations"] > 0 and row["passes"] > 0
    assert sum(row["evaluations"] for row in rows[2:]) == search.evaluations
    # Perplexity and agreement by hand.
    wanted = torch.tensor(JUDGES)
    plan = SearchFolder.open(tmp_path).plan(2)
    with apply(model, plan):
        found = logits(model, wanted, use_cache=False)
    loss = torch.nn.functional.cross_entropy(found[:, :-1].flatten(0, 1), wanted[:, 1:].flatten())
    assert rows[3]["evaluation"]["perplexity"] == pytest.approx(float(loss.exp()), rel=1e-4)
    same = (found.argmax(-1) == logits(model, wanted, use_cache=False).argmax(-1)).float().mean()
    assert rows[3]["evaluation"]["agreement"] == pytest.approx(float(same))
    assert plan.test == {**rows[3]["evaluation"], "dense_perplexity": rows[1]["evaluation"]["perplexity"]}


def test_every_prefix_replays_to_the_same_logits(tmp_path: Path) -> None:
    model = own()
    folder = tmp_path / "found"
    kept: dict[int, torch.Tensor] = {}
    for sublayers in (1, 2, 3, 4):
        search = run(folder, "sprint", sublayers, model=model)
        kept[sublayers] = logits(search.thin, IDS, use_cache=False)
    for count, expected in kept.items():
        plan = SearchFolder.open(folder).plan(count)
        save_plan(tmp_path / f"plan-{count}", plan)
        loaded = load_plan(tmp_path / f"plan-{count}")
        assert loaded.sublayers == count and loaded.found["method"] == "sprint" and loaded.found["steps"] == count
        with apply(model, loaded):  # whose base is this model
            assert torch.allclose(logits(model, IDS, use_cache=False), expected, atol=1e-5)
        with pytest.raises(ModelError, match="the layer plan was made for"):
            apply(own("qwen2"), loaded)
    found = SearchFolder.open(folder)
    predicted = [row.predicted["decode"] for row in found.rows]
    assert found.steps_for("decode", predicted[2]) == 2 and found.steps_for("decode", predicted[2] + 1e-9) == 3
    for call, message in (
        (lambda: found.plan(5), "--steps: got 5; allowed: 1 to 4, the steps in"),
        (lambda: found.plan(-1), "--steps: got -1"),
        (lambda: found.plan(0), "--steps: got 0, which leaves nothing out"),
        (lambda: found.steps_for("decode", 2.0), r"--speed-up: got 2; the steps in .* reach 1\.\d+ of decode"),
        (lambda: found.steps_for("decode", 1.0), "--speed-up: got 1; allowed: above 1"),
        (lambda: found.steps_for("training", 2.0), "holds no latencies of training"),
        (lambda: SearchFolder.open(tmp_path), "holds no search.jsonl; `erecap layers find` makes such a folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()


def test_another_search_in_the_folder_is_refused(tmp_path: Path) -> None:
    model = own()
    run(tmp_path, "sprint", 1, model=model)
    for name, value in {
        "base": {**vars(base_of(model)), "hash": "sha256:" + "0" * 64}, "dtype": "bfloat16", "method": "sleb",
        "options": {"ratio": 0.5}, "seed": 1, "calibration": {"digest": "8"}, "held_out": {}, "evaluate_every": 1,
    }.items():  # fmt: skip
        with pytest.raises(RunError, match=f"searched with {name} .*, here it is .*; another --out keeps both"):
            SearchFolder(tmp_path).begin({**head(model, "sprint"), name: value}, dict)
    assert SearchFolder(tmp_path).begin(head(model, "sprint"), dict)  # latencies are those of the folder
    assert SearchFolder(tmp_path).latencies == LATENCIES
    renamed = {**head(model, "sprint"), "base": {**vars(base_of(model)), "name": "./the-same"}}
    assert SearchFolder(tmp_path).begin(renamed, dict)  # a base is known by its weights
    fresh = SearchFolder(tmp_path, fresh=True)
    assert fresh.head is None and not list(tmp_path.iterdir())


def test_of_options_those_that_differ_are_told(tmp_path: Path) -> None:
    about = {**head(own(), "random"), "options": {"metric": "l2", "over": "token", "phase": "decode", "tune": ["mlp"]}}
    folder = SearchFolder(tmp_path, anew="delete it to start anew")
    folder.begin(about, lambda: dict(LATENCIES))
    for step in (0, 1):
        figures = dict.fromkeys(LATENCIES, 1.0)
        folder.add(Row(step=step, removed=["1.mlp"] * step, predicted=figures))
    options = {**about["options"], "tune": []}
    with pytest.raises(RunError) as error:
        folder.begin({**about, "options": options}, dict)
    assert str(error.value).endswith(
        'searched with options {"tune": ["mlp"]}, here it is {"tune": []}; '
        "another --out keeps both, delete it to start anew"
    )


def test_a_search_without_a_step_starts_again_with_other_options(tmp_path: Path) -> None:
    first = head(own(), "sprint")
    SearchFolder(tmp_path).begin(first, lambda: dict(LATENCIES))
    for call in (lambda found: found.steps(1), lambda found: found.steps_for("decode", 1.1)):
        with pytest.raises(ConfigError, match="holds no step yet; `erecap layers find` goes on there"):
            call(SearchFolder.open(tmp_path))
    assert SearchFolder(tmp_path).begin(first, dict)
    folder = SearchFolder(tmp_path)
    folder.add(Row(step=0, predicted=dict.fromkeys(LATENCIES, 1.0)))
    assert not folder.begin({**first, "options": {"tune": []}}, dict)  # the latencies are kept
    again = SearchFolder.open(tmp_path)
    assert again.head is not None and again.head["options"] == {"tune": []}
    assert again.latencies == LATENCIES and not again.rows
    slower = {phase: replace(one, dense=2 * one.dense) for phase, one in LATENCIES.items()}
    assert not again.begin({**first, "dtype": "bfloat16"}, lambda: slower)  # of another number format
    assert SearchFolder.open(tmp_path).latencies == slower


def _edit(number: int, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "search.jsonl"
        lines = path.read_text().splitlines()
        row = json.loads(lines[number])
        change(row)
        lines[number] = json.dumps(row)
        path.write_text("\n".join(lines) + "\n")

    return edit


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "foreign": (_write("search.jsonl", b'{"format": "erecap-stages-1"}\n'), "not a search for layer plans in format"),
    "list": (_write("search.jsonl", b"[1]\n"), "not a search for layer plans in format"),
    "no json": (_write("search.jsonl", b"{no\n"), "search.jsonl:1: the row is damaged"),
    "head": (_edit(0, lambda row: row.pop("seed")), "search.jsonl:1: seed: is missing"),
    "latency": (_edit(0, lambda row: row["latencies"]["decode"].update(mlp="x")), "search.jsonl:1: mlp"),
    "negative": (_edit(0, lambda row: row["latencies"]["decode"].update(mlp=-1.0)), "latency of one mlp"),
    "zero": (_edit(0, lambda row: row["latencies"]["decode"].update(mlp=0.0)), "search.jsonl:1: latency of one mlp"),
    "base": (_edit(0, lambda row: row["base"].update(hash="foo")), "search.jsonl:1: base.hash: got 'foo'"),
    "prediction": (_edit(2, lambda row: row.pop("predicted")), "search.jsonl:3: .*predicted: decode is missing"),
    "figures": (_edit(1, lambda row: row["evaluation"].pop("perplexity")), "jsonl:2: .*evaluation: perplexity is mis"),
    "not finite": (_edit(2, lambda row: row.update(passes=float("inf"))), "search.jsonl:3: the row is damaged"),
    "order": (_edit(3, lambda row: row.update(step=7)), "search.jsonl:4: .*step 7 stands where step 2 is due"),
    "name": (_edit(2, lambda row: row.update(removed=["3.head"])), "search.jsonl:3: .*'3.head' is no sublayer"),
    "type": (_edit(2, lambda row: row.update(score="low")), "search.jsonl:3: score: got 'low'"),
    "key": (_edit(2, lambda row: row.update(extra=1)), "search.jsonl:3: extra: unknown key"),
    "path": (_edit(2, lambda row: row["tuned"].update(file="../x.safetensors")), "tuned.file: got"),
    "weights": (_write("step-001.safetensors", b"12345678"), "step-001.safetensors is damaged: its SHA-256"),
    "missing": (lambda folder: (folder / "step-001.safetensors").unlink(), "step-001.safetensors is missing"),
    "twice": (_edit(3, lambda row: row.update(removed=["1.mlp", "1.mlp"])), "search.jsonl"),
    "beyond": (_edit(3, lambda row: row.update(removed=["99.mlp"])), "search.jsonl: .*99"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_and_foreign_files_are_told_in_one_line(kind: str, tmp_path: Path) -> None:
    _folder_with_two_steps(tmp_path)
    damage, message = DAMAGE[kind]
    damage(tmp_path)
    for call in (lambda: SearchFolder.open(tmp_path).plan(2), lambda: run(tmp_path, "sprint", 3)):
        with pytest.raises(RunError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


_KEPT: dict[str, bytes] = {}


def _folder_with_two_steps(folder: Path) -> None:
    if not _KEPT:
        run(folder, "sprint", 2)
        _KEPT.update({path.name: path.read_bytes() for path in folder.iterdir()})
        assert "step-001.safetensors" in _KEPT
    for name, content in _KEPT.items():
        (folder / name).write_bytes(content)


def test_notes_that_are_none_are_told_where_they_are_needed(tmp_path: Path) -> None:
    for notes in ({}, {"scores": {"3.head": 1}, "tuned": {}}, {"scores": 3, "tuned": {}}):
        _folder_with_two_steps(tmp_path)
        _edit(3, lambda row, notes=notes: row.update(notes=notes))(tmp_path)
        with pytest.raises(RunError, match=r"the notes of the last step are no scores of sprint .*--fresh starts anew"):
            run(tmp_path, "sprint", 3)


def test_steps_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    _folder_with_two_steps(tmp_path)
    folder = SearchFolder.open(tmp_path)
    search = search_of(own())
    search.add(folder.steps()[0])
    with pytest.raises(
        RunError, match=r"search.jsonl: a step removes .*, which is not there; `erecap layers find --fresh` starts anew"
    ):
        find(search, "sprint", folder, Target(3))


def test_a_target_that_cannot_be_reached(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path)
    model = own()
    folder.begin(head(model, "sleb"), lambda: dict(LATENCIES))
    with pytest.raises(ConfigError, match=r"--speed-up: got 4; with one attention left it would be 3.85"):
        find(search_of(model), "sleb", folder, Target(speed_up=4.0))
    with pytest.raises(RunError, match="sleb: nothing is left to remove after 7 steps; the target of 15 sublayers is"):
        find(search_of(model, ids=sequences(1, 4)), "sleb", folder, Target(15))
    assert LayerPlan(LAYERS, blocks=tuple(range(7))).sublayers == 14 and len(SearchFolder.open(tmp_path).rows) == 8
