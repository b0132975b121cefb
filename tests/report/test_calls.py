"""The report of a call log: damage is told with file and line, a torn last row is left out."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from erecap.errors import RunError
from erecap.generation import Timing, Usage
from erecap.report.load import load_run_folder
from erecap.report.page.calls import call_table, is_call_log, summarise_calls
from erecap.wrapping.log import CallLog


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    log = CallLog(tmp_path, "callable", "compact")
    for _ in range(2):
        log.compare(log.note(Usage(), Timing(total_ms=2.0), "passed", "it fits"), 1.0, True)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"5", "no JSON object, got 5"),
        (b"null", "no JSON object, got null"),
        (b'["replan"]', 'no JSON object, got ["replan"]'),
        (b"{}", "the row lacks replan, "),
        (b"garbage", "no JSON: "),
        (b'"\xff"', "no JSON: "),
    ],
)
@pytest.mark.parametrize("name", ["replans.jsonl", "shadow.jsonl"])
def test_a_line_that_is_no_row(folder: Path, name: str, line: bytes, why: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(RunError) as caught:
        summarise_calls(folder)
    assert str(caught.value).startswith(f"{folder / name}:3: {why}") and "\n" not in str(caught.value)


NO_FIGURES: list[Any] = [None, True, -1, "12", [], {"a": 1}, float("nan"), float("inf"), 10**400]
FIGURES = [
    (name, key, value)
    for name, key, allowed in (
        ("replans.jsonl", "total_ms", ()),
        ("replans.jsonl", "kept_tokens", ()),
        ("replans.jsonl", "new_tokens", ()),
        ("replans.jsonl", "server_prompt_tokens", (None,)),  # a server need not say it
        ("shadow.jsonl", "total_ms", ()),
        ("shadow.jsonl", "agrees", (None, True)),
        ("shadow.jsonl", "replan", (True, -1, 10**400)),
    )
    for value in NO_FIGURES
    if value not in allowed
]


@pytest.mark.parametrize(("name", "key", "value"), FIGURES, ids=lambda part: str(part)[:20])
def test_figures_that_are_none(folder: Path, name: str, key: str, value: Any) -> None:
    first, *rest = (folder / name).read_bytes().splitlines()
    (folder / name).write_bytes(b"\n".join([json.dumps({**json.loads(first), key: value}).encode(), *rest, b""]))
    with pytest.raises(RunError) as caught:
        summarise_calls(folder)
    assert str(caught.value).startswith(f"{folder / name}:1: {key}: got ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("torn", [b"5", b'{"replan": 2, "more": {}', b'{"reason": "caf\xc3'])
def test_a_torn_last_row_is_left_out(folder: Path, torn: bytes) -> None:
    path = folder / "replans.jsonl"
    path.write_bytes(path.read_bytes() + torn)
    assert summarise_calls(folder)["calls"] == 2
    path.write_bytes(path.read_bytes().removesuffix(b"\n" + torn))
    assert summarise_calls(folder)["calls"] == 2


def test_a_head_that_is_no_object(folder: Path) -> None:
    assert is_call_log(folder)
    (folder / "run.json").write_text("5")
    assert not is_call_log(folder)
    with pytest.raises(RunError, match=r"run\.json: "):
        load_run_folder(folder)


def shown(folder: Path) -> dict[str, str]:
    """The printed lines by their titles."""
    console = Console(file=io.StringIO(), width=120)
    console.print(call_table([("mine", summarise_calls(folder))]))
    _, *lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return dict(re.split(r"  +", line.rstrip(), maxsplit=1) for line in lines)


def test_a_wrapped_models_log_is_told_in_the_words_of_sessions(tmp_path: Path) -> None:
    log = CallLog(tmp_path, "model", "session")
    for number, (new, reused) in enumerate([(200, 0), (30, 200), (40, 260), (50, 320)]):
        usage = Usage(new_tokens=new, reused_tokens=reused, prompt_tokens=new + reused, kept_per_layer=(new + reused,))
        timing = Timing(prefill_ms=float(new), decode_ms=10.0, total_ms=new + 10.0)
        log.note(usage, timing, "reused" if reused else "read", "", evicted=7 if number == 3 else 0)
    log.note(Usage(), Timing(total_ms=5.0), "passed", "the batch has 2 rows")
    lines = shown(tmp_path)
    assert lines["calls"] == "5" and lines["evicted something"] == "20%"
    whole, continued = lines["read whole, as a new conversation"], lines["continued a stored conversation"]
    assert (whole, continued, lines["passed to the bare model"]) == ("20%", "60%", "20%")
    assert lines["tokens new, prefilled in the call"].startswith("45 / ")  # the call that was passed does not count
    assert lines["tokens reused, read before"].startswith("230 / ")
    assert lines["tokens of the prompt, P50 / P95"].startswith("265 / ")
    assert lines["ms of prefill, P50 / P95"].startswith("45 / ") and lines["ms of decoding, P50 / P95"] == "10 / 10"
    assert not any("shortened" in title or "shown" in title for title in lines)


def test_a_log_of_passed_calls_alone_has_no_tokens(tmp_path: Path) -> None:
    CallLog(tmp_path, "model", "session").note(Usage(), Timing(total_ms=5.0), "passed", "ERECAP_MODE=full")
    lines = shown(tmp_path)
    assert lines["passed to the bare model"] == "100%" and "tokens new, prefilled in the call" not in lines


def test_a_text_planners_log_has_no_words_of_sessions(folder: Path) -> None:
    lines = shown(folder)
    assert lines["of these shortened"] == "0%" and "tokens shown, P50 / P95" in lines
    assert not any("stored conversation" in title or "prefill" in title for title in lines)
