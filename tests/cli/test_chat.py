"""`erecap chat` with lines from a pipe: answers on stdout, the cost of each turn on stderr."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from erecap.budget import Budget
from erecap.cli.chat import cost_line
from erecap.generation import Generation, Timing, Usage
from erecap.language_models.opened import ModelSettings, open_model
from erecap.session import ReplanSession

PLACE = ("--device", "cpu", "--dtype", "float32", "--max-new-tokens", "12")
COST = r"([\d,]+) new, ([\d,]+) reused, ([\d,]+) stored tokens; [\d.]+ s"


@pytest.fixture
def talk(erecap, tiny_model, monkeypatch):  # type: ignore[no-untyped-def]
    """Holds a conversation of some lines; what the command printed."""

    def hold(*lines: str, options: tuple[str, ...] = ()) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
        code, out, err = erecap("chat", tiny_model, *PLACE, *options)
        assert code == 0, err
        return out, err

    return hold


def costs(err: str) -> list[tuple[int, ...]]:
    return [tuple(int(number.replace(",", "")) for number in found) for found in re.findall(COST, err)]


def test_layers_on_several_devices_give_the_same_answers(erecap, talk, tiny_model, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    lines = ("Goal: cool the apple 1.", "You see a fridge 1.")
    out, err = talk(*lines)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    options = ("--dtype", "float32", "--max-new-tokens", "12", "--device-map", "cpu=0-4,disk=5-7")
    code, apart, told = erecap("chat", tiny_model, *options)
    assert (code, apart, costs(told)) == (0, out, costs(err))


def test_the_answers_are_those_of_a_session_and_each_turn_says_its_cost(talk, tiny_model) -> None:  # type: ignore[no-untyped-def]
    opened = open_model(ModelSettings(str(tiny_model), dtype="float32", device="cpu"))
    session = ReplanSession(opened.model, opened.tokenizer, budget=Budget.auto())
    chat, texts, told = [{"role": "system", "content": "Plan."}], [], []
    lines = ("Goal: cool the apple 1.", "You see a fridge 1.", "You see a mug 2.")
    for line in lines:
        chat.append({"role": "user", "content": line})
        answer = session.generate(chat, max_new_tokens=12)  # type: ignore[arg-type]
        chat.append({"role": "assistant", "content": answer.text})
        texts.append(answer.text)
        told.append((answer.usage.new_tokens, answer.usage.reused_tokens, session.engine.stored().most))
    out, err = talk(*lines, options=("--system", "Plan."))
    assert out == "".join(f"{text}\n" for text in texts)
    assert costs(err) == told and told[0][1] == 0 and told[2][1] > told[1][1] > 0
    assert "Traceback" not in err and "> " not in out  # nobody is prompted who does not type


def test_stats_reset_and_quit(talk) -> None:  # type: ignore[no-untyped-def]
    out, err = talk("hello", "", "again", "/stats", "/reset", "/stats", "hello", "/what", "/quit", "never")
    first, second, after = costs(err)
    assert first[1] == 0 < second[1] and after == first, "a reset conversation begins anew"
    sums = f"2 turns: {first[0] + second[0]:,} new, {second[1]:,} reused and "
    assert sums in err and re.search(r"\n0 turns: 0 new, 0 reused and 0 answered tokens; 0.00 s; 0 bytes", err)
    assert "a new conversation\n" in err
    assert "error: /what: no such command; allowed: /quit, /reset, /stats\n" in err
    answers = out.splitlines()
    assert len(costs(err)) == 3 and answers[: len(answers) // 3] == answers[-(len(answers) // 3) :]


def test_shortened_text_is_stored_as_any(talk) -> None:  # type: ignore[no-untyped-def]
    _, err = talk("hello", "again", options=("--mode", "mask"))
    (first, _, before), (_, reused, stored) = costs(err)
    assert first < before <= reused < stored


def test_full_reads_everything_at_each_turn(talk) -> None:  # type: ignore[no-untyped-def]
    _, err = talk("hello", "again", options=("--mode", "full"))
    (first, _, _), (second, reused, stored) = costs(err)
    assert second > first and reused == stored == 0


def test_a_budget_bounds_what_is_stored(talk) -> None:  # type: ignore[no-untyped-def]
    lines = ["Goal: cool the apple 1.", *(f"On the shelf {n} you see a plate {n} and a mug {n}." for n in range(12))]
    _, err = talk(*lines, options=("--kv-tokens", "160", "--evict-by", "recency"))
    stored = [cost[2] for cost in costs(err)]
    assert len(stored) == 13 and max(stored) <= 160 < sum(cost[0] for cost in costs(err))
    assert "; dropped: more tokens were stored than the budget (kv_tokens=160) allows" in err


def test_nothing_said(talk) -> None:  # type: ignore[no-untyped-def]
    out, err = talk()
    assert out == "" and not costs(err) and "error" not in err


def test_mistakes_are_one_line(erecap, tiny_model, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    code, out, err = erecap("chat", tiny_model, "--mode", "fly")
    assert (code, out) == (2, "") and err.startswith("error: --mode: unknown mode 'fly'") and err.count("\n") == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    code, out, err = erecap("chat", tiny_model, *PLACE, "--system", "You see a mug. " * 400)
    assert (code, out) == (1, "") and err.splitlines()[-1].startswith("error: ") and "Traceback" not in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"))
    code, _, err = erecap("chat", tiny_model, *PLACE)
    assert code == 2 and err.splitlines()[-1] == "error: stdin: not text in utf-8"


@pytest.mark.parametrize("when", ["between two turns", "within an answer"])
def test_ctrl_c_ends_it_cleanly(when: str, tiny_model) -> None:  # type: ignore[no-untyped-def]
    place = (*PLACE, "--max-new-tokens", "12" if when == "between two turns" else "900")
    command = [sys.executable, "-m", "erecap.cli.main", "chat", str(tiny_model), *place]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(command, text=True, bufsize=1, errors="replace", **pipes)  # type: ignore[call-overload]
    try:
        process.stdin.write("hello\n")
        if when == "between two turns":
            assert any(re.search(COST, line) for line in process.stderr)  # waits for it
        else:
            assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in err and "error" not in err
    finally:
        process.kill()


def test_somebody_at_a_terminal_is_prompted_and_ends_with_ctrl_d(tiny_model) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "erecap.cli.main", "chat", str(tiny_model), *PLACE]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        for prompts, keys in ((1, b"hello\r"), (2, b"\x04")):
            while shown.count(b"> ") < prompts:
                shown += os.read(ours, 4096)
            os.write(ours, keys)
        assert process.wait(60) == 0
    finally:
        process.kill()
        os.close(ours)
    text = shown.decode(errors="replace")
    assert "mode erecap; /quit, /reset, /stats" in text and len(costs(text)) == 1


def test_cost_line() -> None:
    usage = Usage(2000, 1500, 500, 11, (1000, 1000), 4_000_000)
    answer = Generation("go", "stop", usage, Timing(total_ms=1250.0), dropped_because="the window of 2,048")
    assert cost_line(answer, 1011) == "1,500 new, 500 reused, 1,011 stored tokens; 1.25 s; dropped: the window of 2,048"


def test_early_exit_changes_no_answer_of_a_conversation(talk) -> None:  # type: ignore[no-untyped-def]
    lines = ("Goal: cool the apple 1.", "You see a fridge 1.")
    out, err = talk(*lines, options=("--exit", "layer=1,threshold=0"))
    assert out == talk(*lines)[0] and "left" in err
