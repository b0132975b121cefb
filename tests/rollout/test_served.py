"""Runs whose model is a server's: simulators in several processes ask one model over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tinyworld import ServedComponents, tiny_run, tiny_suite

from erecap.config.modes import parse_mode
from erecap.config.server_url import ServerUrl
from erecap.errors import ConfigError, ModelError, RunError
from erecap.language_models.build import CallSettings, build_language_model
from erecap.language_models.opened import OpenedModel
from erecap.language_models.served import ServedLanguageModel
from erecap.report.load import load_run_folder
from erecap.report.page.html import setup_rows
from erecap.report.page.summary import summarise
from erecap.rollout.run import run
from erecap.rollout.run_folder.identity import weights_of
from tests.serving.conftest import Server
from tests.serving.recorded import Behind
from tests.session.chats import start

COSTS = {"prefill": [1.0, 1.0, 0.0, 0.0, 0.0], "decode": [5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], "evict": [0.0, 1.0]}
PLANNER = {"max_steps": 3, "max_new_tokens": 40}


@pytest.fixture(scope="module")
def server():
    server = Server(window=8192)
    yield server
    server.stop()


def play(server: Server, folder: Path, quiet: Console, **changes: Any) -> list[dict[str, Any]]:
    config = tiny_run(modes=["served", "expert"], model=f"{server.url}/v1", planner=PLANNER, **changes)
    suites = {"tiny": tiny_suite(episodes=3)}
    result = run(config, folder, suites=suites, open_components=ServedComponents, console=quiet)
    assert (result.status, result.failed) == ("finished", 0)
    return [json.loads(line) for line in (folder / "replans.jsonl").read_text().splitlines()]


def test_workers_share_one_model(server, tmp_path, quiet, rows_of) -> None:  # type: ignore[no-untyped-def]
    calls = [row for row in play(server, tmp_path / "serial", quiet) if row["mode"] == "served"]
    play(server, tmp_path / "process", quiet, executor="process", workers=2)
    assert "which share a server's model" in quiet.file.getvalue()

    def same(folder: str) -> tuple[list[dict], list[dict]]:
        episodes, replans = rows_of(tmp_path / folder, sort=True)
        for row in replans:  # an answer that was read by another conversation before may be found again
            del row["new_tokens"], row["reused_tokens"], row["decision"]
        return episodes, sorted(replans, key=json.dumps)

    assert same("process") == same("serial")
    assert calls and all(row["problem"] is None for row in calls)  # the server follows the grammar of plans
    later = [row for row in calls if row["replan"] > 0]
    assert later and all(row["reused_tokens"] > row["new_tokens"] > 0 for row in later)
    played = load_run_folder(tmp_path / "process")
    assert played.head.model is None and summarise(played)["modes"]["served"]["tokens"]["reused"]["p50"] > 0
    assert server.engine.store is not None and len(server.engine.store) > 1


def test_without_the_grammar_plans_are_free_text(server, tmp_path, quiet) -> None:  # type: ignore[no-untyped-def]
    planner = {**PLANNER, "constrained": False}
    config = tiny_run(modes=["served"], model=f"{server.url}/v1", planner=planner, horizon=2)
    run(config, tmp_path, suites={"tiny": tiny_suite(episodes=1)}, open_components=ServedComponents, console=quiet)
    [first, *_] = [json.loads(line) for line in (tmp_path / "replans.jsonl").read_text().splitlines()]
    assert first["problem"] is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "smollm2-135m-instruct"}, "mode served: got model smollm2-135m-instruct; allowed: a server's URL"),
        ({"modes": ["served", "full"]}, "model: mode full needs a model in this process"),
        ({"adapter": "a"}, "adapter: cannot be had of a server"),
        ({"planner": {"plans": "expert"}}, "planner.plans expert: cannot be had of a server"),
        ({"planner": {"name": "cooperative"}}, "planner.name cooperative: cannot be had of a server"),
        ({"device_map": "auto"}, "device_map: cannot be had of a server"),
        ({"model": "http://me:secret@x/v1"}, "model: the URL has a name or password"),
        ({"model": "http://[::1/v1"}, "allowed: a server's URL"),
        ({"batch": 2}, "batch: got 2 with mode served"),
        ({"clock": {"kind": "charged", "charge": "cost-model", "costs": COSTS}}, "clock.charge cost-model: cannot"),
    ],
)
def test_what_a_server_cannot_give_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        tiny_run(**{"modes": ["served"], "model": "http://127.0.0.1:1/v1", **changes})


def test_a_server_is_no_subject_of_other_commands() -> None:
    with pytest.raises(ConfigError, match="a server says nothing of its weights"):
        weights_of(tiny_run(modes=["served"], model="http://127.0.0.1:1/v1"))
    with pytest.raises(ConfigError, match="mode served: it asks a server"):
        build_language_model(OpenedModel(None, None, {}), parse_mode("served"), CallSettings())
    for url in (
        "http://", "http://x:port/v1", "http://me:secret@x/v1", "http://[::1/v1", "http://x/v1?key=a", "http://x/a b",
        "http://x/\u00e9", "http://x\n/v1", f"http://{'x' * 64}/v1", "http://x y/v1", "ftp://x/v1", "http://:80/v1",
        "http://me:secret@x\uff0fy/v1", "http://me:secret@[x/v1",
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="allowed: a server's URL") as told:
            ServedLanguageModel(url)
        assert "secret" not in str(told.value) and str(told.value).isprintable()
    assert str(ServerUrl.of("https://[::1]:8000/v1/#a/b%20c")) == "https://[::1]:8000"
    assert ServerUrl.of("https://[::1]:8000/v1/#a/b%20c") == ServerUrl(True, "::1", 8000, "/v1", "a/b c")


def test_several_models_of_one_server() -> None:
    behind = Behind()
    behind.answers(b'{"data": [{"id": "base"}, {"id": "org/planner"}]}')
    try:
        assert ServedLanguageModel(f"{behind.url}/v1#org/planner", patience_s=0).name == "org/planner"
        for name, words in (
            ("", "offers several models; allowed behind # in the URL: 'base', 'org/planner'"),
            ("#other", "does not offer 'other'; allowed behind #"),
        ):
            with pytest.raises(ModelError, match=words):
                ServedLanguageModel(f"{behind.url}/v1{name}", patience_s=0).name  # noqa: B018 (asks)
        for named in (b'{"data": [{"id": null}]}', b'{"data": {"id": "a"}}', b"[]", b"3"):
            behind.answers(named)
            with pytest.raises(ModelError, match="offers no model"):
                ServedLanguageModel(f"{behind.url}/v1", patience_s=0).name  # noqa: B018
    finally:
        behind.close()


def test_a_key_that_no_header_can_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret\nX-Other: a")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY: has characters") as told:
        ServedLanguageModel("http://127.0.0.1:1/v1").name  # noqa: B018 (asks)
    assert "secret" not in str(told.value)


CHOICE = {"message": {"content": "go"}, "finish_reason": "stop"}
COUNTS = {"prompt_tokens": 9, "completion_tokens": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"usage": {**COUNTS, "prompt_tokens": "nine"}},
        {"usage": {**COUNTS, "prompt_tokens": float("inf")}},
        {"usage": {**COUNTS, "prompt_tokens": float("nan")}},
        {"usage": {**COUNTS, "completion_tokens": -1}},
        {"usage": {**COUNTS, "prompt_tokens_details": {"cached_tokens": 10}}},
        {"usage": [1]},
        {"usage": None},
        {"choices": [{**CHOICE, "message": {"content": ["go"]}}]},
        {"choices": [{**CHOICE, "message": None}]},
        {"choices": [{**CHOICE, "finish_reason": []}]},
        {"choices": {}},
    ],
)
def test_garbage_is_an_error_of_one_line(changes: dict[str, Any]) -> None:
    behind = Behind()
    try:
        behind.answers(b'{"data": [{"id": "m"}]}')
        model = ServedLanguageModel(f"{behind.url}/v1", patience_s=0)
        assert model.name == "m"
        behind.answers(json.dumps({"choices": [CHOICE], "usage": COUNTS}).encode())
        assert model.generate(start(), max_new_tokens=1).usage.new_tokens == 9
        behind.answers(json.dumps({"choices": [CHOICE], "usage": COUNTS, **changes}).encode())
        with pytest.raises(ModelError, match="the answer cannot be read") as told:
            model.generate(start(), max_new_tokens=1)
        assert str(told.value).isprintable()
    finally:
        behind.close()


def test_a_chat_beyond_the_window_of_the_server_costs_its_episode(tmp_path, quiet) -> None:  # type: ignore[no-untyped-def]
    small = Server(window=4096)
    try:
        config = tiny_run(modes=["served"], model=f"{small.url}/v1", planner={**PLANNER, "constrained": False})
        suites = {"tiny": tiny_suite(episodes=2, options={"padding": 2000})}
        result = run(config, tmp_path, suites=suites, open_components=ServedComponents, console=quiet)
    finally:
        small.stop()
    assert (result.status, result.failed) == ("finished", 2)
    [first, _] = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert first["error"].startswith("BudgetError: ") and first["end"] == "error"


def test_a_run_goes_on_with_the_same_model_only(tmp_path, quiet) -> None:  # type: ignore[no-untyped-def]
    server = Server(window=8192)
    try:
        config = tiny_run(modes=["served"], model=f"{server.url}/v1", planner=PLANNER, horizon=2)
        suites = {"tiny": tiny_suite(episodes=2)}
        run(config, tmp_path, suites=suites, open_components=ServedComponents, console=quiet)
        head = json.loads((tmp_path / "run.json").read_text())
        assert head["model"] == {"served": "tiny"} and f"asking the server {server.url}" in quiet.file.getvalue()
        shown = dict(setup_rows(load_run_folder(tmp_path)))
        assert shown["model"] == f"tiny, asked of the server {server.url}/v1"
        (tmp_path / "run.json").write_text(json.dumps({**head, "status": "interrupted", "model": {"served": "other"}}))
        first = (tmp_path / "episodes.jsonl").read_text().splitlines(keepends=True)[0]
        (tmp_path / "episodes.jsonl").write_text(first)
        with pytest.raises(RunError, match="were played with the server's model other, now it is tiny"):
            run(config, tmp_path, suites=suites, open_components=ServedComponents, console=quiet)
    finally:
        server.stop()


def test_answers_that_are_none_and_servers_that_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    behind = Behind()
    model = ServedLanguageModel(f"{behind.url}/v1", patience_s=0)
    try:
        behind.answers(b'{"data": []}')
        with pytest.raises(ModelError, match="offers no model"):
            model.generate(start(), max_new_tokens=1)
        behind.answers(b'{"data": [{"id": "m"}]}')
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        assert model.name == "m" and behind.sent(b"authorization") == [b"Bearer secret"]
        for body, status, words in (
            (b'{"choices": []}', b"200 OK", "the answer cannot be read"),
            (b"[", b"200 OK", "answers no JSON"),
            (b'{"error": "no"}', b"400 Bad Request", "answers with the status 400"),
            (b"", b"503 Service Unavailable", "answers with the status 503"),
            (b"<html>\nno one\n</html>", b"502 Bad Gateway", "answers with the status 502: <html> no one </html>"),
        ):
            behind.answers(body, status=status)
            with pytest.raises(ModelError, match=words):
                model.generate(start(), max_new_tokens=1)
        session = behind.sent(b"x-session-id")
        model.reset()
        with pytest.raises(ModelError):
            model.generate(start(), max_new_tokens=1)
        assert behind.sent(b"x-session-id") != session
        sent = json.loads(behind.body)
        assert sent["messages"][0] == {"role": "system", "content": start()[0]["content"]} and sent["model"] == "m"
        with pytest.raises(ValueError, match="deadline_ms: a model behind a server cannot take it"):
            model.generate(start(), max_new_tokens=1, deadline_ms=1.0)
    finally:
        behind.close()
    with pytest.raises(ModelError, match="cannot be reached"):
        model.generate(start(), max_new_tokens=1)


@pytest.mark.parametrize("busy", [b"503 Service Unavailable", b"502 Bad Gateway"])  # a server, and a proxy before it
def test_a_busy_server_is_asked_again(busy: bytes) -> None:
    import threading

    behind = Behind()
    try:
        behind.answers(b'{"data": [{"id": "m"}]}')
        model = ServedLanguageModel(f"{behind.url}/v1", patience_s=30)
        assert model.name == "m"
        behind.answers(b"", status=busy)
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 7}}
        choice = {"message": {"content": "go"}, "finish_reason": "length"}
        free = json.dumps({"choices": [choice], "usage": usage}).encode()
        threading.Timer(0.4, behind.answers, [free]).start()
        answer = model.generate(start(), max_new_tokens=1)
        assert (answer.text, answer.finish_reason) == ("go", "length")
        assert (answer.usage.new_tokens, answer.usage.reused_tokens) == (2, 7)
    finally:
        behind.close()
