"""Subjects as models of lm-eval, against that package's own model of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest

from erecap.config.modes import parse_mode
from erecap.errors import ConfigError
from erecap.evaluation.comparison import Measured, compare
from erecap.evaluation.harness import KEYS, KIND, Tasks, documents, measured
from erecap.evaluation.items import Items
from erecap.evaluation.subjects import Change, build_subjects
from tests.context.small_tokenizers import byte_level

pytest.importorskip("lm_eval", reason="needs the extra `evaluate`")
FOLDER = Path(__file__).parent / "tasks"
NAMES = ("place_of_things", "things_seen")


@pytest.fixture(scope="module")
def tasks():
    return Tasks(NAMES, FOLDER)


def run(tasks, subject, path, **options):
    settings = {"limit": None, "shots": None, "chat": False, "cut": False, "say": lambda _: None} | options
    return tasks.run(subject, Items(path, KIND, KEYS), **settings)


def instance(kind: str, *arguments):
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def test_the_dense_subject_answers_as_lm_evals_own_model(opened, tasks, tmp_path) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from erecap.evaluation.harness_model import HarnessModel

    [dense] = build_subjects(opened(), [])
    theirs = HFLM(pretrained=dense.opened.model, tokenizer=byte_level(), device="cpu", batch_size=1)
    loaded = Tasks(NAMES, FOLDER).load()
    wanted = evaluate(theirs, {"tasks": loaded}, bootstrap_iters=0, log_samples=True)
    found, _ = run(tasks, dense, tmp_path / "rows.jsonl")
    for name in NAMES:
        assert len(found["samples"][name]) == 6
        for ours, other in zip(found["samples"][name], wanted["samples"][name], strict=True):
            if name == "things_seen":
                assert ours["resps"] == other["resps"] and ours["exact_match"] == other["exact_match"]
                continue
            for (one,), (two,) in zip(ours["resps"], other["resps"], strict=True):
                assert one[0] == pytest.approx(two[0], abs=1e-4 * max(1, abs(two[0]))) and one[1] == two[1]
    assert {k: v for k, v in found["results"]["place_of_things"].items() if "stderr" not in k} == {
        k: v for k, v in wanted["results"]["place_of_things"].items() if "stderr" not in k
    }
    model = HarnessModel(dense, Items(tmp_path / "more.jsonl", KIND, KEYS), cut=True, say=lambda _: None)
    text = "On the shelf 1, you see a mug 3. " * 80  # longer than the window
    for kind, arguments in (
        ("loglikelihood", ("", "mug 3")),
        ("loglikelihood", ("shelf ", "1")),
        ("loglikelihood", (text, "a mug 3")),
        ("loglikelihood_rolling", (text,)),
        ("loglikelihood_rolling", ("mug",)),
    ):
        [ours], [other] = (getattr(lm, kind)([instance(kind, *arguments)]) for lm in (model, theirs))
        one, two = (value[0] if isinstance(value, tuple) else value for value in (ours, other))
        assert one == pytest.approx(two, rel=1e-4), (kind, arguments[0][:10])
    assert model.counts()["cut_requests"] == 1 and model.counts()["cut_tokens"] > 0


def test_every_subject_runs_every_task(opened, plan, tasks, tmp_path) -> None:
    changes = [
        Change(parse_mode("reuse")),
        Change(layers=plan("whole")),
        Change(parse_mode("recency"), kv_tokens=24),
        Change(parse_mode("prune[recency]"), keep=0.3, stages=(2, 4)),
        Change(parse_mode("recency"), plan("thin", blocks=(2, 5)), 24),
    ]
    subjects = build_subjects(opened(), changes)
    path = tmp_path / "rows.jsonl"
    results = [run(tasks, subject, path, limit=3) for subject in subjects]
    measures, columns, _ = measured([found for found, _ in results])
    assert [measure.name for measure in measures] == [
        "place_of_things acc", "place_of_things acc_norm", "things_seen exact_match",
    ]  # fmt: skip
    figures = compare(measures, [Measured(s.name, {}, own) for s, own in zip(subjects, columns, strict=True)])
    assert figures[0]["figures"]["place_of_things acc"]["n"] == 3
    scores = [[r["resps"][0][0][0] for r in found["samples"]["place_of_things"]] for found, _ in results]
    dense, reuse, whole, recency, pruned, both = scores
    assert whole == dense and reuse == pytest.approx(dense, abs=2e-3)
    assert all(one != pytest.approx(dense, abs=1e-2) for one in (recency, pruned, both))
    assert [counts["kept"] is None for _, counts in results] == [True, False, True, False, False, False]
    assert results[3][1]["kept"] < 0.5
    told = documents(results[0][0])
    assert told["tasks"] == {"place_of_things": 3, "things_seen": 3} and len(told["digest"]) == 16
    before = path.read_bytes()  # every answer is there: nothing is asked twice
    assert measured([run(tasks, subject, path, limit=3)[0] for subject in subjects]) == (measures, columns, [])
    assert path.read_bytes() == before


def test_figures_are_those_of_lm_eval(opened, tmp_path) -> None:
    [dense] = build_subjects(opened(), [])
    found, _ = run(Tasks(("text_of_rooms", "place_of_things"), FOLDER), dense, tmp_path / "rows.jsonl")
    measures, columns, left_out = measured([found])
    [row] = compare(measures, [Measured("dense", {}, columns[0])])
    assert len(row["figures"]) == 5 and left_out == []
    for name, figure in row["figures"].items():
        task, metric = name.split()
        assert figure["value"] == pytest.approx(found["results"][task][f"{metric},none"], rel=1e-5), name
        assert figure["n"] == 6
    odd = {"samples": found["samples"], "aggregations": {task: {"acc": "f1_score"} for task in found["samples"]}}
    with pytest.raises(ConfigError, match="no metric is a sum over documents"):
        measured([odd])


def test_limits_and_shots(opened, tasks, tmp_path) -> None:
    [dense] = build_subjects(opened(), [])
    found, _ = run(tasks, dense, tmp_path / "rows.jsonl", limit=2)
    assert len(found["samples"]["things_seen"]) == 2
    with_shots, _ = run(tasks, dense, tmp_path / "rows.jsonl", limit=1, shots=1)
    prompts = [one["samples"]["things_seen"][0]["arguments"][0][0] for one in (found, with_shots)]
    assert prompts[1].endswith(prompts[0]) and prompts[1].count("Question:") == 2
    chat, _ = run(tasks, dense, tmp_path / "rows.jsonl", limit=1, chat=True)
    assert chat["samples"]["things_seen"][0]["arguments"][0][0].endswith("<|im_start|>assistant\n")


def test_requests_beyond_the_window_are_refused_or_cut(opened, tasks, tmp_path) -> None:
    [narrow] = build_subjects(opened(window=60), [])
    with pytest.raises(ConfigError, match=r"to score pass the model's window of 60; --cut leaves out the oldest"):
        run(tasks, narrow, tmp_path / "rows.jsonl")
    assert len((tmp_path / "rows.jsonl").read_bytes().splitlines()) == 1  # said before anything was measured
    _, counts = run(tasks, narrow, tmp_path / "rows.jsonl", cut=True)
    assert counts["cut_requests"] == 6 * 3 + 6


def test_tasks_that_cannot_be_had_are_told_in_one_line(tmp_path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "task: lost\ndataset_path: json\ndataset_kwargs: {data_files: {test: no.jsonl}}\n"
    )
    (tmp_path / "worse.yaml").write_text("task: odd\noutput_type: generate_until\ndataset_path: {a: 1}\n")
    for names, folder, message in (
        ((), FOLDER, "--tasks: got no name"),
        (("things_seen",), tmp_path / "nowhere", "nowhere is no folder"),
        (("lost",), tmp_path, "lm-eval: lost: "),
        (("odd",), tmp_path, "lm-eval: odd: "),
    ):
        with pytest.raises(ConfigError, match=message) as told:
            Tasks(names, folder)
        assert "\n" not in str(told.value)


@pytest.mark.slow  # reads the thousands of task files of the package
def test_unknown_tasks_are_named_with_near_ones() -> None:
    with pytest.raises(ConfigError, match="lm-eval has no task 'place_of_thing'; near to it: place_of_things"):
        Tasks(("place_of_thing",), FOLDER)
