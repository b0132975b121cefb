"""JSON and programs of others: one line for whatever is wrong with them."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erecap.time_limit import time_limit
from erecap.untrusted import DEEPEST, parse_json, read_json

SIMPLE = st.none() | st.booleans() | st.integers() | st.text()
JSON = st.recursive(SIMPLE, lambda one: st.lists(one) | st.dictionaries(st.text(), one))


@given(JSON)
def test_what_is_json_is_read(value: object) -> None:
    text = json.dumps(value)
    assert parse_json(text) == parse_json(text.encode()) == value


@given(st.binary(max_size=30) | st.text('[]{}",:0123456789eE+-.truefalsn ', max_size=30).map(str.encode))
def test_what_is_not_is_refused_in_one_line(content: bytes) -> None:
    try:
        parse_json(content)
    except ValueError as error:
        assert "\n" not in str(error) and str(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), f"nested too deeply; allowed: {DEEPEST} levels"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested too deeply"),
        ("9" * 5000, "digits"),
        ("[-" + "9" * 5000 + "]", "digits"),
        (b"\xff\xfe1\x00", "utf-8"),
        ("", "Expecting value"),
        ("1 2", "Extra data"),
    ],
)
def test_limits(text: str | bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)
    assert parse_json("[" * DEEPEST + "]" * DEEPEST)


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": "\u2028"}', encoding="utf-8")
    assert read_json(file) == {"a": "\u2028"} and read_json(file, 12) == {"a": "\u2028"}
    with pytest.raises(ValueError, match="larger than 11 bytes"):
        read_json(file, 11)
    with pytest.raises(ValueError, match="larger than 1000 bytes"):
        read_json(Path("/dev/zero"), 1000)


def spin() -> None:
    while True:
        time.sleep(0)


@pytest.mark.parametrize("holds_on", [False, True])
def test_what_has_no_end_is_broken_off(holds_on: bool) -> None:
    def stubborn() -> None:
        while True:
            try:
                spin()
            except (ValueError, RuntimeError, OSError):  # as programs of others do
                continue

    with pytest.raises(TimeoutError, match=r"longer than 0\.05 s"), time_limit(0.05):
        (stubborn if holds_on else spin)()


def test_in_another_thread_and_within_another() -> None:
    found: list[str] = []

    def work() -> None:
        try:
            with time_limit(60), time_limit(0.05):
                spin()
        except TimeoutError as error:
            found.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert found == ["longer than 0.05 s"]


def test_what_ends_in_time_is_left_alone() -> None:
    for _ in range(50):
        with time_limit(5):
            pass
    with pytest.raises(ZeroDivisionError), time_limit(5):
        _ = 1 / 0


def test_nothing_arrives_after_the_end() -> None:
    """Whatever ends in the moment in which the time is over: the exception is raised inside, or not at all."""
    for number in range(30):
        begun = time.monotonic()
        try:
            with time_limit(0.02):
                while time.monotonic() - begun < 0.0195 + number / 20_000:
                    pass
        except TimeoutError:
            pass
        for _ in range(1000):  # where it would arrive
            pass
