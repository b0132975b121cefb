"""A bounded number of what the fuzzers of this folder play at length."""

from __future__ import annotations

import re

import pytest

from tests.fuzz import compactions, interrupts, session_sequences, wrapped_interrupts


@pytest.mark.parametrize("part", range(3))
def test_session_sequences_against_their_oracle(part: int) -> None:
    line = session_sequences.run(8, seed=10_000 + 100 * part)
    assert line.startswith("8 session sequences, ") and "all live or free" in line


@pytest.mark.parametrize("seed", range(4))
def test_compactions_rewrite_nothing_and_keep_budgets(seed: int) -> None:
    line = compactions.run(150, seed)
    assert re.match(r"1[5-9]\d compactions in \d+ chats, \d+ growing chats, \d+ growing strings with \d+ calls", line)


@pytest.mark.parametrize("name", interrupts.OPERATIONS)
def test_an_exception_at_any_line_leaves_a_session_as_it_was_or_done(name: str) -> None:
    for kind in interrupts.OPTIONS:
        assert interrupts.broken_off(kind, name, 4, seed=3, errors=(interrupts.Planted, MemoryError)) == 4


@pytest.mark.parametrize("kind", wrapped_interrupts.KINDS)
def test_an_exception_inside_the_generate_of_a_wrapped_model_leaves_it_right(kind: str) -> None:
    for name in ("goes on", "forks", "another"):
        errors = (interrupts.Planted, MemoryError)
        assert wrapped_interrupts.broken_off(kind, name, 3, seed=4, errors=errors) == 3


def test_wrapped_models_under_a_budget_evict_while_they_are_broken_off() -> None:
    play = wrapped_interrupts.Play("budget")
    wrapped_interrupts.CALLS["goes on"](play)
    assert [conversation.evicted > 0 for conversation in play.wrapped.held.idle()] == [True]


def test_the_trace_reaches_locks_hooks_and_storage() -> None:
    """The lines at which exceptions are planted lie in all rooms below the session's."""
    places = set()
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        base = interrupts.prepared("budget", Path(folder))
        for name in ("generate", "splice", "save"):
            for line in range(1, 3000, 97):
                play = base.fork()
                with interrupts.Trace(line) as planted:
                    try:
                        interrupts.OPERATIONS[name](play)
                    except interrupts.Planted:
                        places.add(planted.where.split("/")[0])
    assert {"session", "engines", "decoding", "tokens", "context"} <= places


def test_an_oracle_that_sees_too_much_is_told_apart() -> None:
    """Answers depend on what was evicted and forgotten, so a wrong session cannot pass by chance."""
    found = []
    for seed in range(20_000, 20_020):
        chosen = session_sequences.random.Random(seed)
        episode = session_sequences.Episode(chosen, session_sequences.characters_model())
        episode.generate()
        episode.step("forget", 1)
        for index in range(20, len(episode.oracle.read)):
            episode.oracle.seen[index] |= {index - 9}
        try:
            episode.step("again", 2)
            episode.step("grow", 3)
        except AssertionError:
            found.append(seed)
            break
    assert found
