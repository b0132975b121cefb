"""The comparison with llama.cpp, without llama.cpp: the pipe, both sides' token ids, and the figures."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from erecap.bench.llamacpp.bench import LlamaBench, Place, llama_bench
from erecap.bench.llamacpp.client import LlamaCpp
from erecap.bench.llamacpp.ids import token_ids
from erecap.bench.llamacpp.summary import fastest, llama_rows, llama_summary, llama_tables, publish_llama
from erecap.bench.llamacpp.worker import decode
from erecap.bench.replan.history import next_turn, wander
from erecap.cli.main import app
from erecap.context.tokenize import render_prompt
from erecap.errors import ConfigError, RunError
from erecap.models.gguf_files import gguf_file
from erecap.session.session import ReplanSession
from erecap.threading_policy import environment_of_others
from tests.context.small_tokenizers import byte_level
from tests.session.chats import model

PYTHON = Path(sys.executable)
ABOUT = {"command": "erecap bench llamacpp", "machine": {"cpu": "a processor", "threads": 2}, "date": "2026-01-01"}
# Answers as the real worker does, says what it was asked in a file, and decodes nothing.
FAKE = """
import json, sys
log = open({log!r}, "w")
for line in sys.stdin:
    request = json.loads(line)
    log.write(line)
    log.flush()
    ids = [5] * request.get("count", 0)
    answer = {{
        "convert": {{"bytes": 1}},
        "load": {{"version": "0", "model": "fake", "weight_bytes": 98000000, "features": ""}},
        "tokenize": {{"ids": list(request.get("text", "").encode())}},
        "read": {{"ms": 1.0}},
        "call": {{"prefill_ms": 30.0, "decode_ms": 70.0, "ids": ids, "drafted": 0, "accepted": 0}},
        "floor": {{"prefill_ms": 10.0, "decode_ms": 10.0, "ids": ids, "drafted": 0, "accepted": 0}},
    }}[request["do"]]
    print(json.dumps(answer), flush=True)
"""  # fmt: skip


def worker(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(text)
    return path


def count(messages) -> int:  # type: ignore[no-untyped-def]
    return len(render_prompt(messages, byte_level()).input_ids)


def test_both_sides_are_asked_for_the_same_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("alfworld")
    monkeypatch.setattr("erecap.bench.llamacpp.bench.gguf_file", lambda name, say: tmp_path / "model.gguf")
    monkeypatch.setattr("erecap.bench.llamacpp.bench.weight_loss", lambda *a, **k: {"weights": "same"})
    log = tmp_path / "log"
    place = Place(PYTHON, worker(tmp_path, FAKE.format(log=str(log))), threads=1)
    bench = LlamaBench(lengths=(500,), variants=("plain", "generate"), new_tokens=60, plan_tokens=4, repetitions=2,
                       kv_tokens=600, decode_weights="same")  # fmt: skip
    found = llama_bench(bench, model(), byte_level(), "any", place)
    product = [row["mode"] for row in found["raw"] if row["row"] == "product"]
    assert product == ["erecap", "erecap floor", "llama.cpp plain", "llama.cpp generate", "llama.cpp floor"] * 2
    assert [row["mode"] for row in found["raw"] if row["row"] == "algorithm"][2:4] == [
        "llama.cpp plain",
        "llama.cpp floor",
    ]
    assert {row["plan_tokens"] for row in found["raw"]} == {4}
    asked = [json.loads(line) for line in log.read_text().splitlines()]  # of the last row
    assert asked[0] == {"do": "load", "model": str(tmp_path / "model.gguf"), "window": 4096, "threads": 1, "batch": 512,
                        "flash": False, "kv": "float16", "whole": False}  # fmt: skip
    calls = [request for request in asked if request["do"] == "call"]
    own = next(row for row in found["raw"] if row["mode"] == "erecap")
    assert {len(request["ids"]) for request in calls} == {own["new_tokens"]}
    assert found["checks"][0]["history_tokens"] == len(next(r for r in asked if r["do"] == "read")["ids"]) >= 500
    assert found["checks"][0]["agreeing"] < found["checks"][0]["plan_tokens"] == 4


def test_ids_are_those_that_a_session_reads() -> None:
    pytest.importorskip("alfworld")
    tokenizer = byte_level()
    history, new = wander(300, count, turn_tokens=60), next_turn(60, count)
    before, fresh = token_ids(history, new, tokenizer)
    session = ReplanSession(model(), tokenizer)
    assert session.read(history) == len(before)
    assert session.token_ids == before
    assert session.generate([*history, new], max_new_tokens=1).usage.new_tokens == len(fresh)
    assert session.token_ids[len(before) : len(before) + len(fresh)] == fresh


class Scripted:
    """Stands for a context of llama.cpp: after token t comes t + 1, and 9 after 3."""

    def __init__(self) -> None:
        self.stored: list[int] = []

    def read(self, ids, every: bool = False) -> None:  # type: ignore[no-untyped-def]
        self.start = len(self.stored)
        self.stored += ids

    def back_to(self, tokens: int) -> None:
        del self.stored[tokens:]

    def choice(self, place: int, never) -> int:  # type: ignore[no-untyped-def]
        token = self.stored[self.start + place if place >= 0 else -1]
        return 9 if token == 3 else token + 1


@pytest.mark.parametrize(
    ("text", "accepted"),
    [([20, 21, 22, 23, 24, 25, 26, 5], 5), ([20, 21, 30, 31, 5], 1), ([0, 1], 0)],
)
def test_lookup_changes_no_token_of_the_answer(text: list[int], accepted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(known, most: int) -> list[int]:  # type: ignore[no-untyped-def]
        ids = known.tolist()
        at = ids.index(ids[-1])
        return ids[at + 1 : at + 1 + most] if at + 1 < len(ids) else []

    monkeypatch.setattr("erecap.bench.llamacpp.worker._lookup", lookup)
    results = []
    for draft in (0, 3):
        reader = Scripted()
        reader.read(text)
        results.append(decode(reader, [19], text, 9, [], draft))
        # What the context holds is the answer, the last token unread.
        assert reader.stored == [*text, 19, *results[-1]["ids"][:-1]]
    assert results[0]["ids"] == results[1]["ids"] == list(range(20, 29))
    assert (results[0]["drafted"], results[1]["accepted"]) == (0, accepted)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; sys.exit('no memory left')", "ended at 'load': no memory left"),
        ("input(); print('hello', flush=True)", "answered 'load' with 'hello"),
        ("input(); print('{\"error\": \"bad file\"}', flush=True)", "failed at 'load': bad file"),
    ],
)  # fmt: skip
def test_a_worker_that_fails_says_why(tmp_path: Path, script: str, message: str) -> None:
    with LlamaCpp(PYTHON, worker(tmp_path, script)) as llama, pytest.raises(RunError, match=message):
        llama.ask("load")


def test_llamacpp_waits_as_it_would_without_us(tmp_path: Path) -> None:
    tell = "import json, os; input(); print(json.dumps(dict(os.environ)), flush=True)"
    with LlamaCpp(PYTHON, worker(tmp_path, tell)) as llama:
        assert {"environment": llama.ask("load")} == {"environment": environment_of_others()}


def test_the_real_worker_needs_its_library(tmp_path: Path) -> None:
    import importlib.util

    if importlib.util.find_spec("llama_cpp"):
        pytest.skip("llama-cpp-python is installed beside erecap")
    with LlamaCpp(PYTHON) as llama:
        with pytest.raises(RunError, match="failed at 'convert': ModuleNotFoundError: No module named 'llama_cpp'"):
            llama.ask("convert", source="a", target="b", type="float32")
        with pytest.raises(RunError, match="failed at 'sing'"):
            llama.ask("sing")


def test_without_llamacpp_the_command_says_what_builds_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make bench-llamacpp"):
        LlamaCpp(tmp_path / "python")
    result = CliRunner().invoke(app, ["bench", "llamacpp", "--python", str(tmp_path / "python")])
    assert isinstance(result.exception, ConfigError) and "make bench-llamacpp" in str(result.exception)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ("generate",)}, "'plain' is what answers are compared with"),
        ({"variants": ("plain", "fast")}, "unknown variant fast"),
        ({"rows": ("hf",)}, "unknown row hf"),
        ({"decode_weights": "int3"}, "unknown decode weights 'int3'"),
        ({"lengths": (5000,)}, "does not fit the window of 4096"),
    ],
)
def test_what_cannot_be_measured(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        llama_bench(LlamaBench(**{"lengths": (100,), **changes}), model(), byte_level(), "any", Place())


def test_only_models_with_a_gguf_file() -> None:
    with pytest.raises(ConfigError, match="does not come as a GGUF file; allowed: smollm2-135m-instruct"):
        gguf_file("smollm2-135m-instruct-hub")


def found(lookup: float) -> dict:
    raw = []
    for repetition, noise in enumerate((0.9, 1.0, 1.2)):
        for mode, milliseconds in (("erecap", 100.0), ("erecap floor", 80.0), ("llama.cpp plain", 400.0 * noise),
                                   ("llama.cpp lookup-2", lookup * noise), ("llama.cpp floor", 50.0)):  # fmt: skip
            raw.append({"row": "product", "length": 7500, "repetition": repetition, "mode": mode,
                        "total_ms": milliseconds, "prefill_ms": 1.0, "decode_ms": milliseconds - 1,
                        "drafted_tokens": 8, "accepted_tokens": 3})  # fmt: skip
    return {
        "raw": raw,
        "loaded": {"product": {"model": "llama Q4_1", "weight_bytes": 98e6, "kv": "float16", "version": "0.3"}},
        "checks": [{"row": "product", "length": 7500, "same_tokenizer": True, "agreeing": 31, "plan_tokens": 32}],
        "quality": {"weights": "int4", "agreement": 0.975, "n": 300, "difference": 0.01},
    }


def test_the_fastest_way_to_call_llamacpp_is_compared(tmp_path: Path) -> None:
    slow, quick = found(600), found(250)
    assert fastest(llama_summary(slow["raw"]), "product", 7500) == "llama.cpp plain"
    assert fastest(llama_summary(quick["raw"]), "product", 7500) == "llama.cpp lookup-2"
    (row,) = llama_rows(slow, ABOUT)
    assert (row["id"], row["measured"], row["low"], row["high"], row["n"], row["holds"]) == ("R8", 4, 3.6, 4.8, 3, None)
    assert "98 MB" in row["note"] and "31 of 32" in row["note"] and "lookup-2 6.00" in row["note"]
    (other,) = llama_rows(quick, ABOUT)
    assert other["measured"] == 2.5
    shorter = {**quick, "raw": [{**r, "length": 600} for r in quick["raw"]]}
    assert llama_rows(shorter, ABOUT) == []
    screen = Console(width=80, record=True, file=io.StringIO())
    wide = [{**r, "mode": r["mode"].replace("lookup-2", "generate-lookup-10"), "total_ms": 120 * r["total_ms"]}
            for r in quick["raw"]]  # fmt: skip
    for table in llama_tables(llama_summary(quick["raw"])) + llama_tables(llama_summary(wide)):
        screen.print(table)
    assert "lookup-2" in (text := screen.export_text()) and "…" not in text

    path = tmp_path / "replan.json"
    path.write_text(json.dumps({"what": "kept", "parts": {"replan": 1}, "rows": [{**row, "id": "R1a"}]}))
    part = {"date": "d", "command": "c", "settings": {}, "model": {}, "summary": {}, "raw": [], "rows": [row]}
    publish_llama(path, part)
    content = json.loads(path.read_text())
    assert [r["id"] for r in content["rows"]] == ["R1a", "R8"] and content["what"] == "kept"
    assert set(content["parts"]) == {"replan", "llamacpp"}
