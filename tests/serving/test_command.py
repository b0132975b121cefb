"""`erecap serve` as a person starts it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import httpx
import openai
import pytest

from erecap.budget import Budget
from erecap.config.exits import Exit
from erecap.errors import ConfigError, ModelError
from erecap.generation import Generation, Usage
from erecap.models import fingerprint
from erecap.serving.answers import usage
from erecap.serving.engine import Engine
from erecap.serving.opening import open_engine
from erecap.tokens.scoring.learned import Pruner
from erecap.tokens.scoring.pruner_files import save_pruner
from tests.training.chatworld import save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:  # type: ignore[no-untyped-def]
    return save_model(tmp_path_factory.mktemp("served"))


def test_started_asked_and_ended(model: Path) -> None:
    command = [sys.executable, "-m", "erecap.cli.main", "serve", "--model", str(model), "--name", "mine", "--port", "0"]
    command += ["--kv-tokens", "200", "--api-key-env", "MY_KEY", "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "MY_KEY": "secret"})
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"serving mine at (\S+);", line):
                break
        client = openai.OpenAI(api_key="secret", base_url=found[1], max_retries=0)  # type: ignore[index]
        talk = [{"role": "user", "content": "Goal: find a mug."}]
        for number in range(12):
            answer = client.chat.completions.create(model="mine", messages=talk, max_tokens=8, temperature=0)  # type: ignore[arg-type]
            talk += [{"role": "assistant", "content": answer.choices[0].message.content or "x"}]
            talk += [{"role": "user", "content": f"You see a plate {number} on the shelf {number}."}]
        assert answer.usage.prompt_tokens > 200 and answer.usage.prompt_tokens_details.cached_tokens > 0  # type: ignore[union-attr]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()


def test_sigterm_finishes_what_runs_and_refuses_what_waits(model: Path) -> None:
    command = [sys.executable, "-m", "erecap.cli.main", "serve", "--model", str(model), "--name", "mine", "--port", "0"]
    command += ["--kv-tokens", "200", "--threads", "1", "--at-once", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = next(match for line in process.stderr if (match := re.search(r"serving mine at (\S+);", line)))
        client = openai.OpenAI(api_key="x", base_url=found[1], max_retries=0)
        options = {"model": "mine", "messages": [{"role": "user", "content": "Goal: find a mug."}], "temperature": 0}
        stream = client.chat.completions.create(**options, stream=True, max_tokens=400, extra_body={"min_tokens": 400})  # type: ignore[call-overload]
        next(stream)
        statuses: list[int] = []

        def wait() -> None:
            try:
                client.chat.completions.create(**options, max_tokens=400, extra_body={"min_tokens": 400})  # type: ignore[call-overload]
            except openai.APIStatusError as error:
                statuses.append(error.status_code)

        waiting = threading.Thread(target=wait)
        waiting.start()
        while "erecap_waiting 1.0" not in httpx.get(found[1].replace("/v1", "/metrics")).text:
            assert waiting.is_alive()
        process.send_signal(signal.SIGTERM)
        reasons = [chunk.choices[0].finish_reason for chunk in stream if chunk.choices]
        waiting.join(30)
        assert reasons[-1] == "length" and statuses == [503]
        assert process.wait(30) in (0, -signal.SIGTERM)
        with pytest.raises(openai.APIConnectionError):
            client.models.list()
    finally:
        process.kill()


def test_what_cannot_be_served(erecap, model: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def complaint(*arguments: object, model: Path | None = model) -> str:
        named = () if model is None else ("--model", model)
        code, out, err = erecap("serve", *named, *arguments)
        assert code == 2 and out == ""
        return err.splitlines()[-1]

    monkeypatch.delenv("NO_KEY", raising=False)
    assert "the environment variable NO_KEY is not set" in complaint("--api-key-env", "NO_KEY")
    assert "unknown decode weights 'int2'" in complaint("--decode-weights", "int2")
    assert "--model: the server behind a proxy has the model" in complaint("--upstream", "http://x/v1")
    for option, value in (("--at-once", 8), ("--dtype", "auto"), ("--kv-mb", 5)):
        assert f"{option}: the server behind" in complaint("--upstream", "http://x/v1", option, value, model=None)
    assert "give --keep-tokens" in complaint("--upstream", "http://x/v1", model=None)
    allowed = "allowed: auto, all, or a whole number, at least 16"
    assert f"--kv-tokens: got 'some'; {allowed}" in complaint("--kv-tokens", "some")
    assert "serve: kv_tokens must be 16 or more, got 8" in complaint("--kv-tokens", "8")
    assert "--kv-tokens: got '9999" in complaint("--kv-tokens", "9" * 5000)
    assert "--pays: got 0.2 with --kv-tokens 200; allowed with auto" in complaint("--kv-tokens", "200", "--pays", "0.2")
    assert "--memory-gb: got -1.0; allowed: a number above 0" in complaint("--memory-gb", "-1")
    assert "memory_bytes=10 holds 0 tokens of this model" in complaint("--memory-gb", "1e-8")
    monkeypatch.setenv("ERECAP_CACHE", str(model.parent / "nothing calibrated"))
    assert "pays=0.2 needs a calibrated cost model of this model" in complaint("--pays", "0.2")
    assert "--keep-tokens: it is for a proxy" in complaint("--keep-tokens", "9")
    assert "unknown evict_by 'newest'; allowed: recency, random, attention, or the" in complaint("--evict-by", "newest")
    assert "--pruner: it is another name of --evict-by" in complaint("--evict-by", "random", "--pruner", "p")
    assert "sessions: got 2 with 8 answered at once" in complaint("--sessions", 2)
    proxy = ("--upstream", "http://x/v1", "--keep-tokens", "9")
    assert "patterns: got 'none'; allowed: erecap" in complaint(*proxy, "--patterns", "none", model=None)
    assert "--tokenizer: it is for a proxy" in complaint("--tokenizer", "x")
    assert "tokenizer: no-such/one cannot be read" in complaint(*proxy, "--tokenizer", "no-such/one", model=None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port} cannot be listened on" in complaint("--port", port)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (None, ("--engine", "llama.cpp"), "--engine: got 'llama.cpp'; allowed: "),
        (None, ("--engine", "tiny"), "--engine: got 'tiny'; allowed: "),
        ("x.gguf", ("--engine", "transformers"), "got transformers with x.gguf; a GGUF file runs on llamacpp"),
        ("x.gguf", ("--engine", "vllm"), "got vllm with x.gguf; a GGUF file runs on llamacpp"),
        (None, ("--engine", "llamacpp"), "engine llamacpp: llama_cpp is not installed; pip install"),
        ("x.gguf", (), "engine llamacpp: llama_cpp is not installed; pip install"),
        (None, ("--engine", "vllm"), "engine vllm: vllm is not installed; pip install"),
        (None, ("--sessions", 3), "--sessions: got 3 with 8 answered at once (--at-once); allowed: at least 8"),
    ],
)
def test_what_is_wrong_with_engines_is_said_before_a_model_is_loaded(  # type: ignore[no-untyped-def]
    erecap, model: Path, name: str | None, options: tuple, words: str
) -> None:
    missing = re.search(r": (\w+) is not installed", words)
    if missing is not None and find_spec(missing[1]) is not None:
        pytest.skip(f"{missing[1]} is installed")
    code, _, err = erecap("serve", "--model", name or model, *options)
    assert code == 2 and words in err and "loading model" not in err and ", tiny," not in err


def test_several_keys_need_conversations_for_each(erecap, model: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "keys").write_text("one\ntwo\nthree\n")
    code, _, err = erecap("serve", "--model", model, "--key-file", tmp_path / "keys", "--sessions", 20)
    assert code == 2 and "got 20 for 3 keys, with 8 answered at once (--at-once); allowed: at least 24" in err


@pytest.mark.parametrize("by", ["recency", "attention", "pruner"])
def test_conversations_rank_by_what_was_asked_for(by: str, model: Path, tmp_path: Path) -> None:
    if by == "pruner":
        by = str(tmp_path / "mine")
        card = {"test": {"rankers": {"learned": {"kl": 0.1}, "random": {"kl": 0.2}}}}
        save_pruner(tmp_path / "mine", Pruner(64, (1,)), {**card, "base": {"hash": fingerprint(model)}})
    said: list[str] = []
    engine = open_engine(
        str(model), adapter=None, evict_by=by, budget=Budget(100), dtype="float32", device="cpu", decode_weights="same",
        threads=1, say=said.append,
    )  # fmt: skip
    session = engine.store.take([{"role": "user", "content": "Goal: find a mug."}]).session
    assert said == [f"loading model {model}"] and session.budget == Budget(100)
    assert (session.cache.read_scores is not None) == (by not in ("recency", "attention"))


def test_a_pruner_of_another_model_is_not_served_with(model: Path, tmp_path: Path) -> None:
    save_pruner(tmp_path, Pruner(64, (1,)), {"base": {"hash": "sha256:other"}})
    with pytest.raises(ModelError, match="trained for weights sha256:other"):
        open_engine(
            str(model), adapter=None, evict_by=str(tmp_path), budget=Budget(100), dtype="float32", device="cpu",
            decode_weights="same", threads=1, say=lambda line: None,
        )  # fmt: skip


def test_early_exit_is_opened_and_what_cannot_be_served_is_one_line(model: Path) -> None:
    def opened(exit: Exit) -> Engine:
        return open_engine(
            str(model), adapter=None, evict_by="recency", budget=Budget.auto(), dtype="float32", device="cpu",
            decode_weights="same", threads=1, exit=exit, say=lambda line: None,
        )  # fmt: skip

    engine = opened(Exit(layer=1, threshold=0.0))
    try:
        session = engine.store.take([{"role": "user", "content": "Goal: find a mug."}]).session
        assert session.exits is not None and session.exits.lossless
    finally:
        engine.close()
    with pytest.raises(ConfigError, match="serve: exit: layer is 99; allowed: 1 to"):
        opened(Exit(layer=99))
    with pytest.raises(ConfigError, match="--exit: lossless=false decodes greedily"):
        opened(Exit(layer=1, lossless=False))


def test_usage_says_the_exits_where_a_server_has_them() -> None:
    used = Usage(9, 9, 0, 4, kept_per_layer=(9,) * 6, exit_layers=(2, 5), exit_bytes=40)
    counts = usage(Generation("go", usage=used), 0)
    assert counts["completion_tokens_details"] == {"exit_layers": [2, 5], "exit_skipped_layers": 5}
    assert "completion_tokens_details" not in usage(Generation("go", usage=Usage(9, 9, 0, 4)), 0)
