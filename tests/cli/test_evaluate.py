"""`erecap evaluate`: each kind on a tiny model, its files, and mistakes told in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

PLACE = ("--dtype", "float32", "--device", "cpu", "--threads", "1")
TASKS = Path(__file__).parents[1] / "evaluation" / "tasks"
PASSAGE = "\n".join(f"On the shelf {n} you see a mug {7 * n}." for n in range(9))


@pytest.fixture
def thin(tiny_model, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    from erecap.layers import Base, LayerPlan, save_plan
    from erecap.models import fingerprint

    save_plan(tmp_path / "thin", LayerPlan(8, blocks=(2, 6), base=Base("tiny", fingerprint(tiny_model))))
    return tmp_path / "thin"


def result(folder: Path, kind: str) -> dict:  # type: ignore[type-arg]
    assert (folder / f"{kind}.svg").read_text().startswith("<?xml")
    return json.loads((folder / f"{kind}.json").read_text())  # type: ignore[no-any-return]


def test_perplexity_of_a_text(erecap, tiny_model, thin: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "text.md").write_text(PASSAGE)
    options = ("--text", "text.md", "--window", "80", "--layers", "none", "--layers", thin, "--out", "judged", *PLACE)
    modes = ("--mode", "full", "--mode", "erecap", "--evict-by", "attention", "--kv-tokens", "32")
    code, out, err = erecap("evaluate", "perplexity", tiny_model, *options, *modes)
    assert code == 0, err
    found = result(tmp_path / "judged", "perplexity")
    names = ["dense", "thin", "erecap 32", "erecap 32 + thin"]
    assert [row["name"] for row in found["subjects"]] == names
    assert all(f"\n{name} " in out for name in names) and "results: perplexity.json, perplexity.svg in judged" in out
    assert "a smoke test" in err and "no recency and no random at the same budget" in err
    assert found["model"]["hash"].startswith("sha256:") and found["versions"]["torch"] and found["data"]["digest"]
    assert found["subjects"][1]["change"]["layers"] == {
        "name": "thin", "hash": found["subjects"][1]["change"]["layers"]["hash"],
    }  # fmt: skip
    assert found["command"].startswith("erecap evaluate perplexity ") and str(tmp_path) not in found["command"]
    assert found["measures"]["perplexity"]["difference"] == "factor"
    rows = (tmp_path / "judged" / "perplexity.jsonl").read_bytes()
    # The same again asks nothing, and a further subject asks for its own alone.
    code, again, _ = erecap("evaluate", "perplexity", tiny_model, *options, *modes)
    assert (code, again) == (0, out) and (tmp_path / "judged" / "perplexity.jsonl").read_bytes() == rows
    code, _, _ = erecap("evaluate", "perplexity", tiny_model, *options[:4], "--mode", "reuse", *options[8:])
    more = (tmp_path / "judged" / "perplexity.jsonl").read_bytes()
    assert code == 0 and more.startswith(rows)
    assert len(more.splitlines()) - len(rows.splitlines()) == found["data"]["pieces"]


def test_agreement_on_transcripts(erecap, tiny_model, thin: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from tests.tuning.histories import write

    write(tmp_path / "histories", episodes=3, turns=3)
    options = ("--histories", "histories", "--episodes", "2", "--layers", thin, "--out", "judged", *PLACE)
    code, out, err = erecap("evaluate", "agreement", tiny_model, *options)
    assert code == 0, err
    found = result(tmp_path / "judged", "agreement")
    assert found["data"]["folder"] == "histories" and found["data"]["episodes"] == 2
    assert "same tokens" in out and found["subjects"][1]["figures"]["same tokens"]["value"] < 100


def test_questions_with_their_context(erecap, tiny_model, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rows = [{"input": f"What is on shelf {n}?", "context": PASSAGE, "answers": [f"mug {7 * n}"]} for n in range(3)]
    (tmp_path / "q.json").write_text(json.dumps(rows))
    options = ("--data", "q.json", "--questions", "2", "--max-new-tokens", "4", "--window", "200", "--out", "j", *PLACE)
    code, out, err = erecap("evaluate", "qa", tiny_model, *options, "--mode", "prune[recency]", "--stages", "2,4")
    assert code == 0, err
    found = result(tmp_path / "j", "qa")
    assert found["data"]["questions"] == 2 and found["data"]["cut_prompts"] == 2 and "exact match" in out
    assert "2 of 2 prompts were cut in the middle to fit the window" in err
    assert found["subjects"][1]["change"]["stages"] == [2, 4] and found["subjects"][1]["kept"] < 1


def test_tasks_of_lm_eval(erecap, tiny_model, thin: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("lm_eval", reason="needs the extra `evaluate`")
    options = ("--tasks", "place_of_things,things_seen", "--include-path", TASKS, "--limit", "2", "--layers", thin)
    code, out, err = erecap("evaluate", "lm-eval", tiny_model, *options, "--out", "judged", *PLACE)
    assert code == 0, err
    found = result(tmp_path / "judged", "lm-eval")
    assert found["data"]["tasks"] == {"place_of_things": 2, "things_seen": 2} and found["versions"]["lm_eval"]
    assert "place_of_things acc" in out and found["subjects"][1]["cut_requests"] == 0
    assert err.strip().splitlines() == ["n = 2: a smoke test; it shows that things work and ranks nothing"]


def test_without_the_package_lm_eval_is_refused_in_one_line(erecap, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "lm_eval" else find(name, *rest)
    )
    code, _, err = erecap("evaluate", "lm-eval", "nowhere", "--tasks", "x")
    assert (
        code == 2
        and err.strip() == "error: evaluate lm-eval: the package lm-eval is missing; pip install 'erecap[evaluate]'"
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("perplexity", "m", "--text", "nowhere.txt"), "nowhere.txt: cannot be read: No such file"),
        (("perplexity", "m", "--text", "empty.txt"), "empty.txt: holds no text"),
        (("perplexity", "m", "--text", "latin.txt"), "latin.txt: not UTF-8 (byte 3)"),
        (("perplexity", "m", "--text", "t.txt", "--field", "body"), "--field: no file of --text is JSON Lines"),
        (("perplexity", "m", "--text", "t.txt", "--stride", "2000"), "--stride: got 2000; allowed: 1 to 1023"),
        (("perplexity", "m", "--text", "t.txt", "--kv-tokens", "64"), "--kv-tokens: no mode has a budget"),
        (("perplexity", "m", "--text", "t.txt", "--mode", "erecap", "--kv-tokens", "3"), "--kv-tokens: got '3'"),
        (("perplexity", "m", "--text", "t.txt", "--mode", "erecap", "--keep", "0.5"), "--keep: no mode prunes"),
        (("perplexity", "m", "--text", "t.txt", "--mode", "prune[recency]", "--keep", "0"), "--keep: got 0.0"),
        (("perplexity", "m", "--text", "t.txt", "--mode", "prune[recency]", "--keep", "nan"), "a finite number"),
        (("perplexity", "m", "--text", "t.txt", "--mode", "prune[recency]", "--stages", "a"), "--stages: got 'a'"),
        (("perplexity", "m", "--text", "t.txt", "--mode", "prune[learned]"), "--pruner: mode prune[learned] wants"),
        (("perplexity", "m", "--text", "t.txt", "--mode", "recency", "--evict-by", "random"), "--evict-by: no mode"),
        (("perplexity", "m", "--text", "t.txt", "--mode", "mask"), "has no model's own reading to judge"),
        (("perplexity", "MODEL", "--text", "t.txt", "--layers", "nowhere"), "layer plan nowhere: no such folder"),
        (("perplexity", "nowhere-at-all", "--text", "t.txt"), "nowhere-at-all"),
        (("agreement", "m", "--histories", "h", "--suite", "s"), "--histories and --suite exclude each other"),
        (("agreement", "MODEL", "--histories", "nowhere"), "nowhere: holds no meta.json"),
        (("agreement", "m", "--suite", "no-suite"), "no-suite"),
        (("qa", "m", "--data", "nowhere.json"), "nowhere.json: cannot be read"),
        (("qa", "m", "--data", "bare.json"), "bare.json:1: the question has no context"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(erecap, tiny_model, tmp_path, arguments, message) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "t.txt").write_text(PASSAGE)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "bare.json").write_text('[{"input": "Where is the mug?", "answers": ["shelf"]}]')
    code, _, err = erecap("evaluate", *(tiny_model if part == "MODEL" else part for part in arguments))
    assert code in (1, 2) and message in err, err
    if "Usage:" not in err:
        assert len(err.strip().splitlines()) == 1, err
