"""The language check finds planted offences, and the tree has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import language


def found(source: str) -> list[str]:
    return language.offences(source, "a.py")


@pytest.mark.parametrize("word", language.RIDDLES)
def test_riddles_are_refused(word: str) -> None:
    line = f"{word} it is."
    inner = f'class A:\n    """A."""\n\n    def b(self):\n        """{line}"""\n'
    assert [at.split(" docstring")[0] for at in found(f'"""{line}"""\n')] == ["a.py:1:"]
    assert [at.split(" begins")[0] for at in found(f'"""Fine."""\n\n{inner}')] == ["a.py:7: docstring of b"]


def test_private_names_and_later_lines_may_ask() -> None:
    assert found('"""Fine.\n\nWhat follows.\n"""\n') == []
    assert found('def _a():\n    """Whether."""\n\n    def b():\n        """How."""\n') == []
    assert found('"""However short."""\n') == []


def test_long_headers_are_refused() -> None:
    assert found(f'"""{"n" * 120}"""\n') == []
    assert found(f'"""{"n" * 121}"""\n')[0].startswith("a.py:1: module header has 121 characters")
    assert found(f'"""{"a " * 25}"""\n') == []
    assert "26 words" in found(f'"""{"a " * 26}"""\n')[0]
    assert found(f'"""Fine: {"a " * 25}"""\n') == []  # a sentence, not the line


@pytest.mark.parametrize(
    "phrase",
    ["let go", "Lets go", "letting go", "closed up", "close up", "taken back", "take back", "puts off", "put off",
     "overlay", "attention mass", "attention is paid", "pays each token", "tier", "tiers", "ratings", "worthless",
     "flat decoder", "read flat", "twin", "rendezvous", "sorted places", "place of each token", "ask again"],
)  # fmt: skip
def test_replaced_phrases_are_refused(phrase: str) -> None:
    report = f'"{phrase}": the glossary says '
    assert found(f'"""Fine.\n\nTokens {phrase} here.\n"""\n')[0].startswith(f"a.py:3: {report}")
    assert found(f"a = 1\nb = 2  # it is {phrase}\n")[0].startswith(f"a.py:2: {report}")
    assert found(f'def _a():\n    """It is {phrase}."""\n')[0].startswith(f"a.py:2: {report}")


def test_a_phrase_over_a_line_break_is_found() -> None:
    assert found('"""Fine.\n\nTokens are let\ngo here.\n"""\n') == ['a.py:3: "let go": the glossary says ' + EVICTED]
    assert found("# one\n# and it is let\n# go\n") == ['a.py:2: "let go": the glossary says ' + EVICTED]
    assert found("a = 1  # it is let\n\n# go\n") == []  # two comments


def test_code_strings_and_other_words_are_exempt() -> None:
    assert found('"""Fine: `let go`."""\n') == []
    assert found('a = "let go"\nlet_go = tier = worthless = 1\n') == []
    assert found('"""A free place in its room, a flat line, and let it go on."""\n') == []
    assert found("# outlets going, a frontier, a price that is paid\n") == []


def test_offences_come_in_order_of_lines() -> None:
    lines = found('"""What: twin.\n\nA tier.\n"""\n# an overlay\n')
    assert [line.split(":")[1] for line in lines] == ["1", "1", "3", "5"]


def test_the_tree_is_clean(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        language.main()
    assert end.value.code == 0, capsys.readouterr().out


def test_an_offence_ends_the_check_with_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "b.py").write_text('"""How."""\n')
    with pytest.raises(SystemExit) as end:
        language.main(tmp_path)
    assert end.value.code == 1 and "tools/b.py:1: docstring of module" in capsys.readouterr().out


EVICTED = language.REPLACED[r"let(s|ting)? go"]
