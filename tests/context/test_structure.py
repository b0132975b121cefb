"""Lines that may tell turns: they recur, in any script; prose that recurs now and then is none."""

from __future__ import annotations

import pytest

from erecap.context.structure import Structure

TAGS = ("«Q»", "【用户】", "--- user ---", "- role: user", "(turn {})", "########", "user")


@pytest.mark.parametrize("tag", TAGS)
def test_a_short_line_that_recurs_is_held(tag: str) -> None:
    texts = [f"\n{tag.format(number)}\nYou see mug {number}.\n>" for number in range(3)]
    structure = Structure.of("Rules.\n>", texts)
    assert structure.holds(f"{tag.format(7)}\nYou see mug 7.", named=False)
    assert not structure.holds("You see mug 7.", named=False)


@pytest.mark.parametrize("label", ["Benutzer: ", "Пользователь: ", "用户：", ">>> ", "user\t", "user -> ", "-- "])
def test_a_label_that_recurs_is_held_unless_the_user_named_it(label: str) -> None:
    structure = Structure.of("Rules.", [f"{label}You see mug {number}." for number in range(3)])
    assert structure.holds(f"{label}It is red.", named=False) and not structure.holds(f"{label}It is red.", named=True)
    assert not structure.holds("You see mug 7.", named=False)


def test_prose_counts_as_structure_only_where_it_is_everywhere() -> None:
    often = ["Nothing happens.", "You open it.", "Nothing happens."]
    assert not Structure.of("", often).holds("Nothing happens.", named=False)
    assert Structure.of("", [f"{text}\nOver." for text in often]).holds("You open it.\nOver.", named=False)


def test_control_characters_are_structure() -> None:
    structure = Structure.of("", ["a", "b"])
    assert structure.holds("\x01user\x02You see.", named=True) and not structure.holds("You\tsee.\r\nMug.", named=True)
